"""What predict makes: COCO JSON, pictures, videos and a window.

Each is used in a ``with`` statement and has a method

    write(source, index, image, instances)

    source (Source): where the image is from.
    index (int or None): of a video's frame, from 0.
    image (ndarray): (H, W, 3) BGR.
    instances (Instances): detections or proposals in the frame of the image, on the CPU.
"""

import copy
import json
import os
import sys
import time
from collections.abc import Callable, Iterable

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from anchor_heads.cli.arguments import open_output
from anchor_heads.cli.inputs import Source
from anchor_heads.visualization.drawing import write_picture

# All are written to MP4 files, with the first that this OpenCV can write.
VIDEO_CODECS = {
    "avc1": "H.264",
    "vp09": "VP9, which browsers play",
    "mp4v": "MPEG-4 Part 2, which browsers do not play",
}
# What FFmpeg and OpenCV cannot do is told in words of the command.
os.environ.setdefault("OPENCV_FFMPEG_LOGLEVEL", "-8")
cv2.utils.logging.setLogLevel(cv2.utils.logging.LOG_LEVEL_SILENT)

WINDOW = "Predictions (q: quit)"
Paint = Callable[[np.ndarray, Instances], np.ndarray]


class CocoJson:
    """Predictions in COCO's format, written as they come. What came before an error is kept.

    With image ids it is a list of results for COCO's evaluation: "image_id", "category_id", "bbox",
    "score", and where the model has them "segmentation" (RLE) and "keypoints". Without, it is a
    data set: "images" numbered from 1, frames of a video with their "frame"; "annotations", which
    are such results with "id", "area" and "iscrowd"; and "categories". Proposals have the first
    category, and their objectness logit as score.
    """

    def __init__(self, path: str, categories: list[dict], image_ids: dict[Source, int] | None):
        """
        Args:
            path (str): of the file.
            categories (list[dict]): "id" and "name" of the model's classes, in its order.
            image_ids (dict[Source, int] or None): the ids of an annotation file's images.
        """
        self._output = open_output(path)
        self._categories = categories
        self._image_ids = image_ids
        self._images = []
        self._num_results = 0

    def __enter__(self):
        self._file = self._output.__enter__()
        self._file.write("[" if self._image_ids is not None else '{"info": {}, "annotations": [')
        return self

    def write(self, source, index, image, instances):
        image_id = len(self._images) + 1 if self._image_ids is None else self._image_ids[source]
        results = instances_to_coco_json(_as_detections(instances), image_id)
        for result in results:
            result["category_id"] = self._categories[result["category_id"]]["id"]
        if self._image_ids is None:
            size = {"width": image.shape[1], "height": image.shape[0]}
            frame = {} if index is None else {"frame": index}
            self._images.append({"id": image_id, "file_name": source.label, **size, **frame})
            for id, result in enumerate(results, start=self._num_results + 1):
                mask = result.get("segmentation")
                area = float(mask_util.area(mask)) if mask else float(np.prod(result["bbox"][2:]))
                result |= {"id": id, "area": area, "iscrowd": 0}
        lines = ["\n" + json.dumps(result) for result in results]
        separator = "," if self._num_results and lines else ""
        self._num_results += len(lines)
        self._file.write(separator + ",".join(lines))  # at once, should the run be stopped

    def __exit__(self, *error):
        self._file.write("]")
        if self._image_ids is None:
            rest = {"images": self._images, "categories": self._categories}
            self._file.write(f",\n{json.dumps(rest)[1:]}")
        self._output.__exit__(None, None, None)


def _as_detections(instances: Instances) -> Instances:
    if not instances.has("proposal_boxes"):
        return copy.deepcopy(instances)  # Detectron2 moves the keypoints that it writes
    logits = instances.objectness_logits
    fields = {"scores": logits, "pred_classes": logits.new_zeros(len(logits), dtype=int)}
    return Instances(instances.image_size, pred_boxes=instances.proposal_boxes, **fields)


class Pictures:
    """A picture of each image, and a video of each video or camera."""

    def __init__(self, files: dict[Source, str], paint: Paint):
        """
        Args:
            files (dict[Source, str]): the file for each source.
            paint (callable): draws instances into an image.
        """
        self.codec = ""  # of the videos
        self._files = files
        self._paint = paint
        self._source = self._writer = None  # of the video at hand

    def __enter__(self):
        return self

    def write(self, source, index, image, instances):
        path, picture = self._files[source], self._paint(image, instances)
        if not source.is_video:
            write_picture(path, picture)
            return
        height, width = (side // 2 * 2 for side in picture.shape[:2])  # codecs need even sides
        if source is not self._source:
            self.__exit__()
            self._source, self._fps = source, source.fps
            self._writer = self._open(path, (width, height))
            self._start, self._num_written = time.monotonic(), 0
        due = self._num_written + 1
        if source.camera is not None:  # a recording takes as long as the camera was on
            due = 1 + int((time.monotonic() - self._start) * self._fps)
        for _ in range(self._num_written, due):
            self._writer.write(np.ascontiguousarray(picture[:height, :width]))
        self._num_written = max(self._num_written, due)

    def __exit__(self, *error):
        if self._writer:
            self._writer.release()

    def _open(self, path: str, size: tuple[int, int]) -> cv2.VideoWriter:
        os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
        for code, self.codec in VIDEO_CODECS.items():
            writer = cv2.VideoWriter(path, cv2.VideoWriter_fourcc(*code), self._fps, size)
            if writer.isOpened():
                return writer
        raise OSError(f"Cannot write the video {path}")


class Window:
    """A window that shows an image until a key is pressed, and videos as they come."""

    def __init__(self, paint: Paint):
        self._paint = paint

    def __enter__(self):
        """
        Raises:
            RuntimeError: if there can be no window.
        """
        has_display = os.getenv("DISPLAY") or os.getenv("WAYLAND_DISPLAY")
        if sys.platform == "linux" and not has_display:  # OpenCV would end the process
            raise RuntimeError("--show needs a display, and there is none")
        try:
            cv2.namedWindow(WINDOW, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        except cv2.error:
            raise RuntimeError(
                "--show needs an OpenCV with windows: opencv-python, not opencv-python-headless"
            ) from None
        return self

    def write(self, source, index, image, instances):
        cv2.imshow(WINDOW, self._paint(image, instances))
        if cv2.waitKey(1 if source.is_video else 0) & 0xFF == ord("q"):  # 0: until one is pressed
            raise KeyboardInterrupt

    def __exit__(self, *error):
        cv2.destroyWindow(WINDOW)


def check_picture(path: str) -> None:
    """Raise ValueError if the ending of a file is that of no picture that can be written."""
    if not cv2.haveImageWriter(path):
        raise ValueError(f"{path} does not end as a picture does, such as .png or .jpg")


def picture_files(sources: Iterable[Source], folder: str, ending: str = "") -> dict[Source, str]:
    """A file for each source: its name in the folder, with a number where it is taken.

    The suffix changes where the format cannot be written: an image becomes a PNG, a video an MP4.

    Args:
        sources (iterable of Source): images and videos.
        folder (str): may not be there yet.
        ending (str): of every name, in place of the suffix; "" for one that fits.
    """
    files, taken = {}, set()
    for source in sources:
        stem, suffix = os.path.splitext(source.name)
        if ending or source.is_video:
            suffix = ending or ".mp4"
        elif not cv2.haveImageWriter(source.name):
            stem, suffix = source.name, ".png"
        number, path = 1, os.path.join(folder, stem + suffix)
        while path in taken:
            number += 1
            path = os.path.join(folder, f"{stem}_{number}{suffix}")
        taken.add(path)
        files[source] = path
    return files
