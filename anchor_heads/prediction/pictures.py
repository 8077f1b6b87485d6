"""Pictures and videos with the predictions painted in, as files and in a window."""

import os
import sys
import threading
import time
from collections.abc import Iterable

import cv2
import numpy as np

from anchor_heads.prediction.frame import PredictedFrame
from anchor_heads.prediction.sources import Camera, ImageFile, Source, VideoFile

# MPEG-4 Part 2: every OpenCV with FFmpeg writes it; H.264 needs one that is built with an encoder.
VIDEO_SUFFIX, VIDEO_CODEC = ".mp4", "mp4v"
WINDOW = "Predictions (q: quit)"
WAYS_TO_GET_A_WINDOW = (
    "--show needs a display, and an OpenCV with windows (opencv-python, not opencv-python-headless)"
)


def output_files(sources: Iterable[Source], folder: str) -> dict[Source, str]:
    """A file for each source: its name in the folder.

    The suffix changes where the format cannot be written: an image becomes a PNG, a video an MP4.
    A name that is already taken gets a number.

    Raises:
        ValueError: if a file is one of the sources.
    """
    read = {os.path.realpath(x.path): x.path for x in sources if not isinstance(x, Camera)}
    files = {}
    taken = set()
    for source in sources:
        stem, suffix = _output_name(source)
        number, name = 1, stem + suffix
        while name in taken:
            number += 1
            name = f"{stem}_{number}{suffix}"
        taken.add(name)
        files[source] = os.path.join(folder, name)
        if original := read.get(os.path.realpath(files[source])):
            raise ValueError(
                f"The picture would replace its image {original}: choose another folder"
            )
    return files


class Pictures:
    """Writes a picture of each image and a video of each video or camera.

    To be used in a ``with`` statement.
    """

    def __init__(self, files: dict[Source, str]):
        """
        Args:
            files (dict[Source, str]): the file for each source.
        """
        self._files = files
        self._source = None  # that of the open video
        self._video = None

    def __enter__(self):
        return self

    def write(self, frame: PredictedFrame) -> None:
        path = self._files[frame.source]
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        if isinstance(frame.source, ImageFile):
            if not cv2.imwrite(path, frame.painted):
                raise OSError(f"Cannot write the picture {path}")
            return
        if frame.source is not self._source:
            self._close_video()
            self._source, self._video = frame.source, _Video(path, frame.source)
        self._video.write(frame.painted)

    def __exit__(self, *error):
        self._close_video()

    def _close_video(self):
        if self._video:
            self._video.close()


class Window:
    """Shows the predictions in a window: an image until a key is pressed, videos as they come.

    To be used in a ``with`` statement.
    """

    def __init__(self, stop: threading.Event):
        """
        Args:
            stop (Event): is set when the user presses q.
        """
        self._stop = stop

    def __enter__(self):
        """
        Raises:
            RuntimeError: if there can be no window.
        """
        # Without a display the window's library would end the process.
        has_display = (
            sys.platform != "linux" or os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")
        )
        if not has_display:
            raise RuntimeError(f"There is no display. {WAYS_TO_GET_A_WINDOW}")
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise RuntimeError(f"This OpenCV has no windows. {WAYS_TO_GET_A_WINDOW}") from None
        return self

    def write(self, frame: PredictedFrame) -> None:
        cv2.imshow(WINDOW, frame.painted)
        milliseconds = 0 if isinstance(frame.source, ImageFile) else 1  # 0: until a key is pressed
        if cv2.waitKey(milliseconds) & 0xFF == ord("q"):
            self._stop.set()

    def __exit__(self, *error):
        cv2.destroyWindow(WINDOW)


class _Video:
    """A video file. Its first picture says how large it is."""

    def __init__(self, path: str, source: VideoFile | Camera):
        self._path = path
        self._source = source
        self._writer = None
        self._num_written = 0

    def write(self, picture: np.ndarray) -> None:
        height, width = (side // 2 * 2 for side in picture.shape[:2])  # the codec wants even sides
        if self._writer is None:
            codec = cv2.VideoWriter_fourcc(*VIDEO_CODEC)
            self._writer = cv2.VideoWriter(self._path, codec, self._source.fps, (width, height))
            if not self._writer.isOpened():
                raise OSError(f"Cannot write the video {self._path}")
            self._start = time.monotonic()
        picture = np.ascontiguousarray(picture[:height, :width])
        for _ in range(self._num_due()):
            self._writer.write(picture)
            self._num_written += 1

    def close(self) -> None:
        if self._writer:
            self._writer.release()

    def _num_due(self) -> int:
        """How often a picture is written: that of a camera until the recording is up to date."""
        if not self._source.is_live:
            return 1
        num_frames = 1 + int((time.monotonic() - self._start) * self._source.fps)
        return num_frames - self._num_written


def _output_name(source: Source) -> tuple[str, str]:
    """Stem and suffix of what a source's pictures are written to."""
    stem, suffix = os.path.splitext(source.name)
    if not isinstance(source, ImageFile):
        return stem, VIDEO_SUFFIX
    if cv2.haveImageWriter(source.name):
        return stem, suffix
    return source.name, ".png"
