"""What is predicted on: image files, video files and a camera. All frames are BGR arrays.

A source has these attributes:

    label (str): what the user knows it by: the path as given, or "camera 0".
    name (str): a relative path for what is made of it.
    num_frames (int or None): 1 for an image; what a video file says, 0 if it says nothing; None
        without an end.
    frames (callable): iterates over (H, W, 3) uint8 arrays; raises UnreadableError.
"""

import glob
import os
from collections.abc import Iterable, Iterator

import cv2
import numpy as np

from anchor_heads.data.image_files import ImageFileError, read_image, read_record_image

# What is looked for in folders. A file named by itself may end in anything.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
# For videos that do not say theirs, or only that of their clock.
DEFAULT_FPS = 25.0
MAX_FPS = 240.0


class UnreadableError(OSError):
    """A source, or the rest of it, cannot be read."""


class ImageFile:
    """An image in a file, turned as its EXIF data says.

    Attributes:
        record (dict): what is annotated of it, in Detectron2's data set format: the image is then
            in the frame of its annotations. May be empty.
    """

    num_frames = 1

    def __init__(self, path: str, name: str):
        self.label = self.path = path
        self.name = name
        self.record = {}

    def frames(self) -> Iterator[np.ndarray]:
        try:
            if self.record:
                image = read_record_image({**self.record, "file_name": self.path})
            else:
                image = read_image(self.path, format="BGR")
        except ImageFileError as error:
            raise UnreadableError(str(error)) from None
        yield image


class VideoFile:
    """A video in a file.

    Attributes:
        fps (float): frames per second.
    """

    is_live = False

    def __init__(self, path: str, name: str):
        self.label = self.path = path
        self.name = name
        capture = cv2.VideoCapture(path)
        self.num_frames = max(int(capture.get(cv2.CAP_PROP_FRAME_COUNT)), 0)
        self.fps = _fps(capture)
        capture.release()

    def frames(self) -> Iterator[np.ndarray]:
        yield from _captured(self.path, f"the video {self.path}")


class Camera:
    """A camera by its number, as OpenCV counts them.

    Attributes:
        fps (float): frames per second of the recordings made of it.
    """

    is_live = True
    num_frames = None
    fps = DEFAULT_FPS

    def __init__(self, index: int):
        self.index = index
        self.label = f"camera {index}"
        self.name = f"camera_{index}.mp4"

    def frames(self) -> Iterator[np.ndarray]:
        yield from _captured(self.index, self.label)


Source = ImageFile | VideoFile | Camera


def find_sources(inputs: Iterable[str], output_folder: str | None = None) -> list[Source]:
    """The images and videos that files, folders and patterns stand for, each once.

    Folders are searched with all that is below them, in alphabetical order, for files with the
    suffixes of images and videos; hidden files and folders are passed over. The name of a source
    is its path in such a folder, or the file's own name.

    Args:
        inputs (iterable of str): paths and glob patterns ("**" for any folders).
        output_folder (str or None): is not searched, so that no earlier results are found.

    Raises:
        FileNotFoundError: if there is no such file, or nothing that matches a pattern.
        ValueError: if there is no image or video in a folder.
    """
    sources = {}
    for path in _expanded(inputs):
        found = [(path, os.path.basename(path))]
        if os.path.isdir(path):
            found = _in_folder(path, output_folder)
        for file, name in found:
            kind = VideoFile if file.lower().endswith(VIDEO_SUFFIXES) else ImageFile
            real_path = os.path.realpath(file)
            if real_path not in sources:
                sources[real_path] = kind(file, name)
    return list(sources.values())


def _expanded(inputs):
    for path in map(os.path.expanduser, inputs):
        if os.path.exists(path):
            yield path
        elif not glob.has_magic(path):
            raise FileNotFoundError(f"There is no file or folder {os.path.abspath(path)}")
        elif matches := sorted(glob.glob(path, recursive=True)):
            yield from matches
        else:
            raise FileNotFoundError(f"Nothing matches the pattern {path}")


def _in_folder(folder: str, output_folder: str | None) -> list[tuple[str, str]]:
    """Images and videos below a folder: their paths, and their paths in it."""
    left_out = output_folder and os.path.realpath(output_folder)
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        folders[:] = sorted(
            name
            for name in folders
            if not name.startswith(".") and os.path.realpath(os.path.join(parent, name)) != left_out
        )
        for name in sorted(files):
            is_wanted = name.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
            if is_wanted and not name.startswith("."):
                path = os.path.join(parent, name)
                found.append((path, os.path.relpath(path, folder)))
    if not found:
        suffixes = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise ValueError(f"There is no image or video in {os.path.abspath(folder)} ({suffixes})")
    return found


def _captured(opened: str | int, label: str) -> Iterator[np.ndarray]:
    capture = cv2.VideoCapture(opened)
    try:
        is_frame, frame = capture.read()
        if not is_frame:
            raise UnreadableError(f"Cannot read {label}: OpenCV gets no frame of it")
        while is_frame:
            yield frame
            is_frame, frame = capture.read()
    finally:
        capture.release()


def _fps(capture: cv2.VideoCapture) -> float:
    fps = capture.get(cv2.CAP_PROP_FPS)
    return fps if 0 < fps <= MAX_FPS else DEFAULT_FPS
