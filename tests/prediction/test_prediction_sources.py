import os
from pathlib import Path

import pytest

from anchor_heads.prediction.sources import (
    Camera,
    ImageFile,
    UnreadableError,
    VideoFile,
    find_sources,
)


def names(sources):
    return [source.name for source in sources]


def test_folders_are_searched_with_all_below_them(tmp_path, write_image, write_video):
    for name in ("b.png", "a/2.JPG", "a/1.png", ".hidden.png", ".cache/x.png", "out/b.png"):
        write_image(tmp_path / name)
    write_video(tmp_path / "a" / "clip.avi")
    (tmp_path / "annotations.json").write_text("{}")
    sources = find_sources([str(tmp_path)], output_folder=str(tmp_path / "out"))
    assert names(sources) == ["b.png", "a/1.png", "a/2.JPG", "a/clip.avi"]
    assert [type(x) for x in sources] == [ImageFile, ImageFile, ImageFile, VideoFile]
    assert sources[1].path == str(tmp_path / "a/1.png")


def test_files_patterns_and_folders_in_any_order_each_once(tmp_path, write_image):
    first, second = (write_image(tmp_path / "images" / f"{i}.png") for i in range(2))
    unusual = write_image(tmp_path / "plain.png").removesuffix(".png")
    os.rename(f"{unusual}.png", unusual)
    inputs = [second, str(tmp_path / "images/*.png"), unusual, str(tmp_path / "images")]
    assert [x.path for x in find_sources(inputs)] == [second, first, unusual]
    assert names(find_sources([str(tmp_path / "**/*.png")])) == ["0.png", "1.png"]


def test_inputs_that_stand_for_nothing(tmp_path):
    with pytest.raises(FileNotFoundError, match="no file or folder .*/missing.png"):
        find_sources([str(tmp_path / "missing.png")])
    with pytest.raises(FileNotFoundError, match=r"Nothing matches the pattern .*\*.png"):
        find_sources([str(tmp_path / "*.png")])
    with pytest.raises(ValueError, match=f"no image or video in {tmp_path}"):
        find_sources([str(tmp_path)])


def test_an_image_has_one_frame(tmp_path, write_image):
    (source,) = find_sources([write_image(tmp_path / "a.png", 7)])
    (image,) = source.frames()
    assert source.num_frames == 1
    assert image.shape == (48, 64, 3) and (image == 7).all()


def test_a_video_has_frames_and_a_speed(tmp_path, write_video):
    (source,) = find_sources([write_video(tmp_path / "clip.avi", num_frames=4, fps=12.0)])
    assert (source.num_frames, source.fps, source.is_live) == (4, 12.0, False)
    assert [frame.mean() for frame in source.frames()] == pytest.approx([0, 20, 40, 60], abs=2)
    (hasty,) = find_sources([write_video(tmp_path / "hasty.avi", fps=1000.0)])
    assert hasty.fps == 25


@pytest.mark.parametrize("name", ["image.png", "clip.mp4"])
def test_what_cannot_be_read_is_named(tmp_path, name):
    path = tmp_path / name
    path.write_text("neither an image nor a video")
    (source,) = find_sources([str(path)])
    with pytest.raises(UnreadableError, match=f"Cannot read the (image|video) {path}"):
        list(source.frames())


def test_a_truncated_image_cannot_be_read(tmp_path, write_image):
    path = Path(write_image(tmp_path / "a.jpg"))
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(UnreadableError, match="truncated"):
        list(ImageFile(str(path), "a.jpg").frames())


def test_a_camera_that_is_not_there():
    with pytest.raises(UnreadableError, match="Cannot read camera 99"):
        list(Camera(99).frames())
