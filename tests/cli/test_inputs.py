import os
from pathlib import Path
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from anchor_heads.cli.inputs import Source, find_images, find_sources, match_images
from anchor_heads.data.image_files import ImageFileError


def write_image(path, value=0):
    path.parent.mkdir(parents=True, exist_ok=True)
    assert cv2.imwrite(str(path), np.full((48, 64, 3), value, np.uint8))
    return str(path)


def test_folders_are_searched_with_all_below_them(tmp_path, write_video):
    for name in ("b.png", "a/2.JPG", "a/1.png", ".hidden.png", ".cache/x.png", "out/b.png"):
        write_image(tmp_path / name)
    write_video(tmp_path / "a" / "clip.avi")
    (tmp_path / "annotations.json").write_text("{}")
    sources = find_sources([str(tmp_path)], output_folder=str(tmp_path / "out"))
    assert [x.name for x in sources] == ["b.png", "a/1.png", "a/2.JPG", "a/clip.avi"]
    assert [x.is_video for x in sources] == [False, False, False, True]
    assert sources[1].label == str(tmp_path / "a/1.png")


def test_where_only_images_can_be_read_videos_are_named(tmp_path, write_video, capsys):
    image, video = write_image(tmp_path / "a.png"), write_video(tmp_path / "clip.avi")
    assert [x.label for x in find_images([str(tmp_path)])] == [image]
    assert capsys.readouterr().out == f"Skipped {video}: only anchor-heads predict reads videos\n"
    with pytest.raises(ValueError, match=f"no image among the inputs, and {video} is a video"):
        find_images([video])


@pytest.mark.timeout(20)
def test_a_folder_with_links_to_itself_is_searched_once(tmp_path):
    write_image(tmp_path / "a.png")
    for name in ("one", "two"):
        os.symlink(tmp_path, tmp_path / name)
    assert [x.name for x in find_sources([str(tmp_path)])] == ["a.png"]


def test_files_patterns_and_folders_in_any_order_each_once(tmp_path):
    first, second = (write_image(tmp_path / "images" / f"{i}.png") for i in range(2))
    unusual = write_image(tmp_path / "plain.png").removesuffix(".png")
    os.rename(f"{unusual}.png", unusual)
    inputs = [second, str(tmp_path / "images/*.png"), unusual, str(tmp_path / "images")]
    assert [x.label for x in find_sources(inputs)] == [second, first, unusual]
    assert [x.name for x in find_sources([str(tmp_path / "**/*.png")])] == ["0.png", "1.png"]


def test_inputs_that_stand_for_nothing(tmp_path):
    for name in ("missing.png", "*.png"):
        with pytest.raises(FileNotFoundError, match="There is no file or folder .*png"):
            find_sources([str(tmp_path / name)])
    with pytest.raises(ValueError, match=f"no image or video in {tmp_path}"):
        find_sources([str(tmp_path)])


def test_frames_of_images_and_videos(tmp_path, write_video):
    image, video, hasty = find_sources(
        [
            write_image(tmp_path / "a.png", 7),
            write_video(tmp_path / "clip.avi", num_frames=4, fps=12.0),
            write_video(tmp_path / "hasty.avi", fps=1000.0),
        ]
    )
    (pixels,) = image.frames()
    assert image.num_frames == 1 and pixels.shape == (48, 64, 3) and (pixels == 7).all()
    assert (video.num_frames, video.fps, hasty.fps) == (4, 12.0, 25.0)
    assert [frame.mean() for frame in video.frames()] == pytest.approx([0, 20, 40, 60], abs=2)


def test_what_cannot_be_read_is_named(tmp_path):
    for name in ("image.png", "clip.mp4"):
        (tmp_path / name).write_text("neither an image nor a video")
    sources = [*find_sources([str(tmp_path)]), Source("camera 99", "camera_99", 99)]
    for source in sources:
        with pytest.raises(ImageFileError, match=f"Cannot read .*{source.label}"):
            list(source.frames())


def test_a_video_that_is_cut_off_is_read_as_far_as_it_goes(tmp_path, write_video):
    chunks = Path(write_video(tmp_path / "clip.avi", num_frames=8)).read_bytes().split(b"00dc")
    (tmp_path / "cut.avi").write_bytes(
        b"00dc".join(chunks[:6])
    )  # a header, which has one, and four frames
    (source,) = find_sources([str(tmp_path / "cut.avi")])
    frames = []
    with pytest.raises(ImageFileError, match=r"rest of .*cut.avi: OpenCV gets 4 of 8 frames"):
        frames.extend(source.frames())
    assert len(frames) == 4


@pytest.mark.parametrize("count, fps", [(0, 10), (-9e16, 10), (25, 60)])
def test_the_frame_count_may_be_unknown_or_estimated(
    tmp_path, write_video, monkeypatch, count, fps
):
    """As Matroska has it, here of 5 frames in 0.5 seconds; 60 is a changing rate at its highest."""
    (source,) = find_sources([write_video(tmp_path / "clip.avi", num_frames=5)])
    capture = cv2.VideoCapture(source.label)
    said = {cv2.CAP_PROP_FRAME_COUNT: count, cv2.CAP_PROP_FPS: fps}
    matroska = SimpleNamespace(
        read=capture.read, get=lambda key: said[key] if key in said else capture.get(key)
    )
    monkeypatch.setattr(cv2, "VideoCapture", lambda file: matroska)
    assert len(list(source.frames())) == 5


ANNOTATED = {
    "images": [
        {"id": 11, "file_name": "a.jpg", "width": 64, "height": 48},
        {"id": 12, "file_name": "sub/a.jpg", "width": 64, "height": 48},
        {"id": 13, "file_name": "../b.jpg", "width": 64, "height": 48},
    ],
}


def test_images_are_found_by_the_end_of_their_path(tmp_path):
    paths = [write_image(tmp_path / x) for x in ("sub/a.jpg", "a.jpg", "b.jpg", "c.jpg")]
    sources = find_sources(paths)
    assert match_images(sources, ANNOTATED, "x.json") == dict(
        zip(sources, [12, 11, 13], strict=False)
    )
    with pytest.raises(ValueError, match="x.json lists none of the images"):
        match_images(sources[3:], ANNOTATED, "x.json")
    twice = find_sources([paths[2], write_image(tmp_path / "val/b.jpg")])
    with pytest.raises(ValueError, match="b.jpg both are image 13 of x.json"):
        match_images(twice, ANNOTATED, "x.json")
    with pytest.raises(ValueError, match="leave out camera 0 or --annotations"):
        match_images([Source("camera 0", "camera_0", 0)], ANNOTATED, "x.json")


def test_images_are_read_in_the_frame_of_their_annotations(tmp_path):
    """A photograph that its EXIF tag turns by 90 degrees, annotated on the stored pixels."""
    from PIL import Image

    image = Image.new("RGB", (64, 48))
    exif = image.getexif()
    exif[0x0112] = 6
    image.save(tmp_path / "a.jpg", exif=exif)
    (source,) = find_sources([str(tmp_path / "a.jpg")])
    assert next(source.frames()).shape == (64, 48, 3)
    match_images([source], ANNOTATED, "x.json")
    assert next(source.frames()).shape == (48, 64, 3)
