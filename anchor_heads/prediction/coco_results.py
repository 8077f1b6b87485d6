"""Predictions as JSON in COCO's formats.

With an annotation file's image ids: a list of results, as COCO's evaluation takes them, with
"image_id", "category_id", "bbox" (x, y, width, height in pixels of the image file), "score", and
where the model has them "segmentation" (RLE) and "keypoints".

Without: a data set in COCO format. "images" are numbered from 1 and have as "file_name" the path as
given, frames of a video also their "frame", counted from 0. "annotations" are such results with
"id", "area" and "iscrowd" besides. Images without detections are listed too.

Proposals have their objectness logit as score.
"""

import json
import os
import shutil
import tempfile
from contextlib import ExitStack
from typing import IO

import pycocotools.mask as mask_util
from detectron2.evaluation.coco_evaluation import instances_to_coco_json
from detectron2.structures import Instances

from anchor_heads.checkpoint.files import open_and_rename
from anchor_heads.prediction.frame import PredictedFrame
from anchor_heads.prediction.sources import Source


class CocoResults:
    """Writes predictions to a file as they come, so that memory does not grow with them.

    To be used in a ``with`` statement. The file gets its name at the end, also when the statement
    is left by an error: what was predicted until then is kept.
    """

    def __init__(
        self,
        path: str,
        categories: list[dict],
        image_ids: dict[Source, int] | None = None,
        score_threshold: float = 0.0,
    ):
        """
        Args:
            path (str): of the file.
            categories (list[dict]): "id" and "name" of the model's classes, in its order.
            image_ids (dict[Source, int] or None): the ids of an annotation file's images.
            score_threshold (float): detections with a lower score are left out; proposals are not.
        """
        self._path = path
        self._categories = categories
        self._image_ids = image_ids
        self._score_threshold = score_threshold

    def __enter__(self):
        os.makedirs(os.path.dirname(os.path.abspath(self._path)), exist_ok=True)
        self._files = ExitStack()
        self._file = self._files.enter_context(open_and_rename(self._path, "w"))
        if self._image_ids is None:
            self._file.write('{"info": {}, "annotations": ')
            self._images = _Array(self._files.enter_context(tempfile.TemporaryFile("w+")))
        self._results = _Array(self._file)
        return self

    def write(self, frame: PredictedFrame) -> None:
        if self._image_ids is None:
            image_id = self._write_image(frame)
        else:
            image_id = self._image_ids[frame.source]
        for result in self._results_of(frame, image_id):
            if self._image_ids is None:
                result |= {"id": self._results.length + 1, "area": _area(result), "iscrowd": 0}
            self._results.append(result)

    def __exit__(self, *error):
        with self._files:
            self._results.end()
            if self._image_ids is None:
                self._images.end()
                self._images.file.seek(0)
                self._file.write(',\n"images": ')
                shutil.copyfileobj(self._images.file, self._file)
                self._file.write(f',\n"categories": {json.dumps(self._categories)}}}')
            self._file.write("\n")

    def _write_image(self, frame: PredictedFrame) -> int:
        """
        Returns:
            int: the id of the image.
        """
        height, width = frame.image.shape[:2]
        image = {
            "id": self._images.length + 1,
            "file_name": frame.source.label,
            "width": width,
            "height": height,
        }
        if frame.index is not None:
            image["frame"] = frame.index
        self._images.append(image)
        return image["id"]

    def _results_of(self, frame: PredictedFrame, image_id: int) -> list[dict]:
        instances = frame.instances
        if instances.has("proposal_boxes"):
            instances = _as_detections(instances)
        else:
            # A copy: instances_to_coco_json moves the keypoints that it is given.
            instances = instances[instances.scores >= self._score_threshold]
        results = instances_to_coco_json(instances, image_id)
        for result in results:
            result["category_id"] = self._categories[result["category_id"]]["id"]
        return results


class _Array:
    """A JSON array that is written item by item."""

    def __init__(self, file: IO[str]):
        self.file = file
        self.length = 0
        file.write("[")

    def append(self, item: dict) -> None:
        self.file.write(("," if self.length else "") + "\n" + json.dumps(item))
        self.length += 1

    def end(self) -> None:
        self.file.write("]")


def _area(result: dict) -> float:
    if "segmentation" in result:
        return float(mask_util.area(result["segmentation"]))
    return result["bbox"][2] * result["bbox"][3]


def _as_detections(proposals: Instances) -> Instances:
    logits = proposals.objectness_logits
    return Instances(
        proposals.image_size,
        pred_boxes=proposals.proposal_boxes,
        scores=logits,
        pred_classes=logits.new_zeros(len(logits), dtype=int),
    )
