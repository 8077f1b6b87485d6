"""What commands read: image files, video files and a camera."""

import glob
import os
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import cv2
import numpy as np
from tqdm import tqdm

from anchor_heads.data.image_files import (
    STORED_FRAME,
    ImageFileError,
    is_stored_frame,
    read_headers,
    read_record_image,
)

# What is looked for in folders. A file named by itself may end in anything.
IMAGE_SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")
VIDEO_SUFFIXES = (".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".webm", ".wmv")
MIN_SHARE_OF_FRAMES = 0.9  # of a video; fewer are an error
DEFAULT_FPS, MAX_FPS = 25.0, 240.0  # the default is for cameras and videos that do not say theirs


@dataclass(eq=False)
class Source:
    """An image file, a video file or a camera."""

    label: str
    """The path as given, or the name of the camera."""
    name: str
    """Relative path for what is made of it."""
    camera: int | None = None
    """Number of the camera; None if it is a file."""
    record: dict = field(default_factory=dict)
    """What :func:`match_images` finds of it in an annotation file; see ``read_record_image``."""

    @property
    def is_video(self) -> bool:
        return self.camera is not None or self.label.lower().endswith(VIDEO_SUFFIXES)

    @property
    def fps(self) -> float:
        fps = 0 if self.camera is not None else self._capture().get(cv2.CAP_PROP_FPS)
        return fps if 0 < fps <= MAX_FPS else DEFAULT_FPS

    @property
    def num_frames(self) -> int | None:
        """1 for an image, 0 for a video that does not say, None without an end."""
        if self.camera is not None:
            return None
        return max(int(self._capture().get(cv2.CAP_PROP_FRAME_COUNT)), 0) if self.is_video else 1

    def frames(self) -> Iterator[np.ndarray]:
        """Iterate over (H, W, 3) BGR images.

        Raises:
            ImageFileError: if the file, or the rest of it, cannot be read; of a video at its end.
        """
        if not self.is_video:
            yield read_record_image({**self.record, "file_name": self.label})
            return
        capture, num_read, seconds = self._capture(), 0, 0.0
        while (read := capture.read())[0]:
            num_read, seconds = num_read + 1, capture.get(cv2.CAP_PROP_POS_MSEC) / 1000
            yield read[1]
        if not num_read:
            raise ImageFileError(f"Cannot read {self.label}: OpenCV gets no frame of it")
        # Some containers have no count: it is 0, or the duration at a frame rate that may change.
        expected = capture.get(cv2.CAP_PROP_FRAME_COUNT)
        if max(num_read, seconds * capture.get(cv2.CAP_PROP_FPS)) < MIN_SHARE_OF_FRAMES * expected:
            raise ImageFileError(
                f"Cannot read the rest of {self.label}: OpenCV gets {num_read} of "
                f"{expected:.0f} frames; the file may be damaged or cut off"
            )

    def _capture(self) -> cv2.VideoCapture:
        return cv2.VideoCapture(self.label if self.camera is None else self.camera)


def find_sources(inputs: Iterable[str], output_folder: str | None = None) -> list[Source]:
    """The images and videos that files, folders and patterns stand for, each once.

    Folders are searched with all that is below them, in alphabetical order, for files with the
    suffixes of images and videos. Hidden files and folders are left out.

    Args:
        inputs (iterable of str): paths and glob patterns ("**" for any folders).
        output_folder (str or None): is not searched, so that no earlier results are found.

    Raises:
        FileNotFoundError: if a path or pattern stands for no file.
        ValueError: if there is no image or video in a folder.
    """
    sources = {}
    for pattern in map(os.path.expanduser, inputs):
        paths = [pattern] if os.path.exists(pattern) else sorted(glob.glob(pattern, recursive=True))
        if not paths:
            raise FileNotFoundError(f"There is no file or folder {os.path.abspath(pattern)}")
        for path in paths:
            is_folder = os.path.isdir(path)
            for file in _in_folder(path, output_folder) if is_folder else [path]:
                name = os.path.relpath(file, path) if is_folder else os.path.basename(file)
                sources.setdefault(os.path.realpath(file), Source(file, name))
    return list(sources.values())


def find_images(inputs: Iterable[str], output_folder: str | None = None) -> list[Source]:
    """Like :func:`find_sources`, of images alone. Videos are left out, and named.

    Raises:
        FileNotFoundError: see :func:`find_sources`.
        ValueError: see :func:`find_sources`; if all inputs are videos.
    """
    sources = find_sources(inputs, output_folder)
    images = [source for source in sources if not source.is_video]
    if sources and not images:
        raise ValueError(
            f"there is no image among the inputs, and {sources[0].label} is a video: only "
            "anchor-heads predict reads videos"
        )
    for source in sources:
        if source.is_video:
            print(f"Skipped {source.label}: only anchor-heads predict reads videos")
    return images


@contextmanager
def passed_over(source: Source, unreadable: list[str]) -> Iterator[None]:
    """Print an ImageFileError, and add the source to the unreadable ones, instead of raising."""
    try:
        yield
    except ImageFileError as error:
        unreadable.append(source.label)
        tqdm.write(str(error), file=sys.stderr)


@contextmanager
def usable(source: Source, image: np.ndarray) -> Iterator[None]:
    """Turn the ValueError of a model, such as for one row of pixels, into an ImageFileError."""
    try:
        yield
    except ValueError as error:
        height, width = image.shape[:2]
        message = f"Cannot use {source.label}, of {height}x{width} pixels: {error}"
        raise ImageFileError(message) from error


def report_unreadable(unreadable: list[str], num_sources: int) -> int:
    """Print what was passed over, and return the exit code of the command."""
    if not unreadable:
        return 0
    print(f"{len(unreadable)} of {num_sources} inputs could not be read:")
    print("\n".join(f"  {label}" for label in unreadable))
    return 1


def _in_folder(folder: str, output_folder: str | None) -> list[str]:
    entered = {output_folder and os.path.realpath(output_folder)}
    found = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        if os.path.realpath(parent) in entered:  # by a link that leads back, for example
            folders.clear()
            continue
        entered.add(os.path.realpath(parent))
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        files = [x for x in sorted(files) if x.lower().endswith(IMAGE_SUFFIXES + VIDEO_SUFFIXES)]
        found += [os.path.join(parent, name) for name in files if not name.startswith(".")]
    if not found:
        suffixes = " ".join(IMAGE_SUFFIXES + VIDEO_SUFFIXES)
        raise ValueError(f"There is no image or video in {os.path.abspath(folder)} ({suffixes})")
    return found


def match_images(sources: Iterable[Source], annotations: dict, json_file: str) -> dict[Source, int]:
    """Find the images of an annotation file, which are then read in the frame of its boxes.

    A source is an image of the file if its path ends with the image's "file_name", without "../" at
    the start of it.

    Args:
        sources (iterable of Source): the images.
        annotations (dict): the content of a file in COCO format.
        json_file (str): path of the file, for messages.

    Returns:
        dict[Source, int]: the image id of each source that the file lists.

    Raises:
        ValueError: for a video or a camera, if two sources are the same image, if none is listed.
        ImageFileError: if an image is not of the size that the file says.
    """
    # relpath takes "../" away from the start, which no absolute path has
    listed = {os.path.relpath(f"/{x['file_name']}", "/"): x for x in annotations["images"]}
    found, source_of = {}, {}
    for source in sources:
        if source.is_video:
            raise ValueError(f"{json_file} lists images; leave out {source.label} or --annotations")
        parts = os.path.abspath(source.label).split(os.sep)
        names = [os.sep.join(parts[i:]) for i in range(len(parts))]
        image = next((listed[name] for name in names if name in listed), None)
        if image is None:
            continue
        found[source] = image
        other = source_of.setdefault(image["id"], source)
        if other is not source:
            raise ValueError(
                f"{other.label} and {source.label} both are image {image['id']} of {json_file}: "
                "predict on one of them at a time"
            )
    if not found:
        raise ValueError(f"{json_file} lists none of the images")
    _set_frames(found, json_file)
    return {source: image["id"] for source, image in found.items()}


def _set_frames(images: dict[Source, dict], json_file: str) -> None:
    headers = read_headers(source.label for source in images)
    sizes = [(image["width"], image["height"]) for image in images.values()]
    rows = zip([source.label for source in images], headers, sizes, strict=True)
    readable = [row for row in rows if not row[1].wrong]  # others are named when they are read
    is_stored = is_stored_frame(json_file, *zip(*readable, strict=True)) if readable else False
    for source, (width, height) in zip(images, sizes, strict=True):
        source.record = {"width": width, "height": height, STORED_FRAME: is_stored}
