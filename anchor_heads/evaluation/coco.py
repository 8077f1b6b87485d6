"""COCO evaluation of detections and proposals."""

import contextlib
import json
import os
import pickle
import tempfile

from detectron2.data import Metadata, MetadataCatalog
from detectron2.evaluation import COCOEvaluator
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from anchor_heads.evaluation.proposal_recall import proposal_recall, recall_table


class OfficialCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with the numbers of the official pycocotools.

    It differs from its base class in three points:

    * ground truth may be given as a dict, so that cleaned annotations can be used;
    * a model without a single detection has AP 0 (NaN in the base class);
    * proposals have AR at 100, 300 and 1000 proposals, and images without any proposal count (see
      :func:`anchor_heads.evaluation.proposal_recall.proposal_recall`).
    """

    def __init__(self, dataset_name, output_dir=None, *, ground_truth=None, **kwargs):
        """
        Args:
            dataset_name (str): a registered data set.
            output_dir (str or None): folder for coco_instances_results.json,
                instances_predictions.pth and box_proposals.pkl.
            ground_truth (dict or None): the content of a COCO annotation file, used instead of the
                data set's own file. Without "annotations" in it, results are only written.
            kwargs: see COCOEvaluator.
        """
        with _data_set_with(ground_truth, dataset_name) as name:
            super().__init__(
                name,
                output_dir=output_dir,
                use_fast_impl=False,
                # A stale conversion of the data set would be worse than a slow start.
                allow_cached_coco=False,
                **kwargs,
            )

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is None:  # this is how the base class says that there are no detections
            coco_eval = _evaluate_no_detections(self._coco_api, iou_type)
        return super()._derive_coco_results(coco_eval, iou_type, class_names)

    def _eval_box_proposals(self, predictions):
        if self._output_dir:
            self._save_box_proposals(predictions)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        recall = proposal_recall(predictions, self._coco_api)
        self._logger.info("Average recall of the proposals:\n" + recall_table(recall))
        self._results["box_proposals"] = recall

    def _save_box_proposals(self, predictions):
        """Write box_proposals.pkl, which DATASETS.PROPOSAL_FILES_TRAIN and _TEST can name."""
        proposals = [prediction["proposals"] for prediction in predictions]
        content = {
            "ids": [prediction["image_id"] for prediction in predictions],
            "boxes": [x.proposal_boxes.tensor.numpy() for x in proposals],
            "objectness_logits": [x.objectness_logits.numpy() for x in proposals],
            "bbox_mode": BoxMode.XYXY_ABS.value,
        }
        with PathManager.open(os.path.join(self._output_dir, "box_proposals.pkl"), "wb") as f:
            pickle.dump(content, f)


@contextlib.contextmanager
def _data_set_with(ground_truth: dict | None, dataset_name: str):
    """The name of a data set like another, but with ``ground_truth`` as its annotation file.

    COCOEvaluator takes its ground truth from a file only, and reads it when it is made. The data
    set's own file will not do: pycocotools stops at what cleaning completes.
    """
    if ground_truth is None:
        yield dataset_name
        return
    metadata = MetadataCatalog.get(dataset_name).as_dict()
    with tempfile.TemporaryDirectory() as folder:
        metadata["name"] = os.path.join(folder, dataset_name)
        metadata["json_file"] = os.path.join(folder, "annotations.json")
        with open(metadata["json_file"], "w") as f:
            json.dump(ground_truth, f)
        MetadataCatalog[metadata["name"]] = Metadata(**metadata)
        try:
            yield metadata["name"]
        finally:
            MetadataCatalog.pop(metadata["name"])


def _evaluate_no_detections(ground_truth: COCO, iou_type: str) -> COCOeval:
    """COCO's evaluation of an empty list, which COCO.loadRes does not take."""
    detections = COCO()
    detections.dataset = {**ground_truth.dataset, "annotations": []}
    coco_eval = COCOeval(ground_truth, detections, iou_type)
    coco_eval.evaluate()
    coco_eval.accumulate()
    coco_eval.summarize()
    return coco_eval
