import os
import threading
import time

import cv2
import numpy as np
import pytest
from detectron2.data import Metadata

from anchor_heads.prediction.frame import PredictedFrame
from anchor_heads.prediction.pictures import Pictures, Window, output_files
from anchor_heads.prediction.sources import Camera, ImageFile, VideoFile, find_sources


def frame_of(source, instances, index=None, value=128, **kwargs):
    image = np.full((*instances.image_size, 3), value, np.uint8)
    return PredictedFrame(source, index, image, instances, Metadata(), **kwargs)


def test_pictures_are_named_as_their_images(tmp_path):
    paths = ["in/a.jpg", "in/sub/a.jpg", "other/a.jpg", "in/a.xyz", "in/clip.avi"]
    names = ["a.jpg", "sub/a.jpg", "a.jpg", "a.xyz", "clip.avi"]
    sources = [ImageFile(*x) for x in zip(paths[:4], names[:4], strict=True)]
    sources += [VideoFile(paths[4], names[4]), Camera(0)]
    expected = ["a.jpg", "sub/a.jpg", "a_2.jpg", "a.xyz.png", "clip.mp4", "camera_0.mp4"]
    files = output_files(sources, "out")
    assert list(files) == sources
    assert list(files.values()) == [f"out/{name}" for name in expected]


def test_no_picture_replaces_its_image(tmp_path, write_image):
    sources = find_sources([write_image(tmp_path / "a.png")])
    with pytest.raises(ValueError, match=f"would replace its image {tmp_path / 'a.png'}"):
        output_files(sources, str(tmp_path))


def test_detections_are_painted_on_pictures_that_are_never_reduced(tmp_path, detections):
    small = frame_of(ImageFile("a.png", "a.png"), detections)
    assert small.painted.shape == (320, 426, 3)
    boxes = [
        small.painted[y0:y1, x0:x1] for x0, y0, x1, y1 in [(67, 133, 200, 300), (0, 0, 53, 26)]
    ]
    painted = [(box != 128).any() for box in boxes]
    assert painted == [True, False]  # scores 0.9 and 0.3
    both = frame_of(small.source, detections, score_threshold=0.2).painted
    assert (both[:26, :53] != 128).any()
    huge = detections[:0]
    huge._image_size = (1500, 2000)
    assert frame_of(small.source, huge).painted.shape == (1500, 2000, 3)


def test_images_become_pictures_and_videos_become_videos(tmp_path, detections, write_video):
    image = ImageFile("a.png", "a.png")
    videos = [VideoFile(write_video(tmp_path / f"{i}.avi", fps=8.0), "") for i in range(2)]
    names = ["out/sub/a.png", "out/0.mp4", "out/1.mp4"]
    files = dict(zip([image, *videos], [str(tmp_path / x) for x in names], strict=True))
    with Pictures(files) as pictures:
        for video in videos:
            for index in range(5):
                pictures.write(frame_of(video, detections[:0], index, value=40 * index))
        pictures.write(frame_of(image, detections))
    assert cv2.imread(files[image]).shape == (320, 426, 3)
    for video in videos:
        (written,) = find_sources([files[video]])
        assert written.fps == 8
        frames = list(written.frames())
        assert [frame.mean() for frame in frames] == pytest.approx([0, 40, 80, 120, 160], abs=3)
        assert frames[0].shape == (320, 426, 3)


def test_odd_sides_lose_a_pixel_in_videos(tmp_path, detections):
    nothing = detections[:0]
    nothing._image_size = (321, 331)
    camera = Camera(0)
    with Pictures({camera: str(tmp_path / "a.mp4")}) as pictures:
        pictures.write(frame_of(camera, nothing))
    (video,) = find_sources([str(tmp_path / "a.mp4")])
    assert [frame.shape for frame in video.frames()] == [(320, 330, 3)]


def test_a_recording_takes_as_long_as_the_camera_was_on(tmp_path, detections, monkeypatch):
    camera = Camera(0)
    now = 100.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    with Pictures({camera: str(tmp_path / "a.mp4")}) as pictures:
        for index, now in enumerate([100.0, 100.01, 100.5, 102.0]):  # noqa: B007
            pictures.write(frame_of(camera, detections[:0], index, value=40 * index))
    (video,) = find_sources([str(tmp_path / "a.mp4")])
    values = [round(frame.mean() / 40) for frame in video.frames()]
    # 25 frames per second; the second picture comes too early for a frame of its own.
    assert values == [0] + [2] * 12 + [3] * 38


def test_files_that_cannot_be_written(tmp_path, detections):
    image, camera = ImageFile("a.png", "a.png"), Camera(0)
    files = {image: str(tmp_path / "folder.png"), camera: str(tmp_path / "folder.mp4")}
    with Pictures(files) as pictures:
        for source, kind in ((image, "picture"), (camera, "video")):
            os.mkdir(files[source])
            with pytest.raises(OSError, match=f"Cannot write the {kind} {files[source]}"):
                pictures.write(frame_of(source, detections))


@pytest.fixture
def screen(monkeypatch):
    """What is shown, and the keys that are pressed, instead of a real window."""
    screen = {"shown": [], "keys": [], "waits": [], "closed": []}
    monkeypatch.setenv("DISPLAY", ":0")
    monkeypatch.setattr(cv2, "namedWindow", lambda *_: None)
    monkeypatch.setattr(cv2, "imshow", lambda _, image: screen["shown"].append(image.shape))
    monkeypatch.setattr(cv2, "destroyWindow", screen["closed"].append)

    def wait_key(milliseconds):
        screen["waits"].append(milliseconds)
        return screen["keys"].pop(0)

    monkeypatch.setattr(cv2, "waitKey", wait_key)
    return screen


def test_a_window_waits_at_images_and_ends_with_q(screen, detections):
    stop = threading.Event()
    screen["keys"] = [ord(" "), -1, ord("q")]
    was_set = []
    with Window(stop) as window:
        for source in (ImageFile("a.png", "a.png"), Camera(0), Camera(0)):
            window.write(frame_of(source, detections))
            was_set.append(stop.is_set())
    assert was_set == [False, False, True]
    assert screen["waits"] == [0, 1, 1]
    assert screen["shown"] == [(320, 426, 3)] * 3 and len(screen["closed"]) == 1


def test_there_may_be_no_window(screen, monkeypatch):
    def no_windows(*_):
        raise cv2.error("not implemented")

    monkeypatch.setattr(cv2, "namedWindow", no_windows)
    with pytest.raises(RuntimeError, match="no windows.*opencv-python-headless"):
        Window(threading.Event()).__enter__()
    monkeypatch.setattr("sys.platform", "linux")
    monkeypatch.delenv("DISPLAY")
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    with pytest.raises(RuntimeError, match="no display"):
        Window(threading.Event()).__enter__()
