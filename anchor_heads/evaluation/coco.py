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
from pycocotools.cocoeval import COCOeval, Params

from anchor_heads.evaluation.curves import write_curves
from anchor_heads.evaluation.proposal_recall import proposal_recall, recall_table

# Task -> the names of its results, besides those of each class, "AP-name".
COCO_METRICS = {
    "bbox": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "segm": ("AP", "AP50", "AP75", "APs", "APm", "APl"),
    "keypoints": ("AP", "AP50", "AP75", "APm", "APl"),
}


class OfficialCOCOEvaluator(COCOEvaluator):
    """Detectron2's COCOEvaluator with the numbers of the official pycocotools.

    It differs from its base class in these points:

    * ground truth may be given as a dict, so that cleaned annotations can be used;
    * a model without a single detection has AP 0 (NaN in the base class);
    * proposals have AR at 100, 300 and 1000 proposals, and images without any proposal count (see
      :func:`anchor_heads.evaluation.proposal_recall.proposal_recall`).
    """

    def __init__(self, dataset_name, output_dir=None, *, ground_truth=None, curves=False, **kwargs):
        """
        Args:
            dataset_name (str): a registered data set.
            output_dir (str or None): folder for coco_instances_results.json,
                instances_predictions.pth and box_proposals.pkl.
            ground_truth (dict or None): the content of a COCO annotation file, used instead of the
                data set's own file. Without "annotations" in it, results are only written.
            curves (bool): whether to write precision-recall curves and a confusion matrix to
                ``output_dir``, see :func:`anchor_heads.evaluation.curves.write_curves`.
            kwargs: see COCOEvaluator.
        """
        self._dataset_name = dataset_name
        self._curves = curves
        with _data_set_with(ground_truth, dataset_name) as name:
            super().__init__(
                name,
                output_dir=output_dir,
                use_fast_impl=False,
                # A stale conversion of the data set would be worse than a slow start.
                allow_cached_coco=False,
                **kwargs,
            )

    def check_masks(self) -> None:
        """Check that masks can be evaluated.

        Raises:
            ValueError: if an annotation has none; pycocotools would fail after all predictions.
        """
        self._check_field("segmentation", "MODEL.MASK_ON", "masks")

    def check_keypoints(self, num_keypoints: int) -> None:
        """Check that keypoints can be evaluated.

        Args:
            num_keypoints (int): that the model predicts of each object.

        Raises:
            ValueError: if an annotation has none or another number of them, or if there are not as
                many sigmas.
        """
        self._check_field("keypoints", "MODEL.KEYPOINT_ON", "keypoints")
        annotations = self._coco_api.dataset.get("annotations", ())
        annotated = {len(annotation["keypoints"]) // 3 for annotation in annotations}
        if not annotated:
            return
        if annotated != {num_keypoints}:
            raise ValueError(
                f"data set '{self._dataset_name}': objects have {sorted(annotated)} keypoints, and "
                f"the model predicts {num_keypoints} (MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)"
            )
        num_sigmas = len(self._kpt_oks_sigmas or Params("keypoints").kpt_oks_sigmas)
        if num_sigmas != num_keypoints:
            raise ValueError(
                f"The model predicts {num_keypoints} keypoints, and there are {num_sigmas} sigmas: "
                "write one for each in TEST.KEYPOINT_OKS_SIGMAS (how far annotators are apart, as "
                "a share of the object's size; COCO's go from 0.025 for eyes to 0.107 for hips)"
            )

    def _check_field(self, field, key, what):
        annotations = self._coco_api.dataset.get("annotations", ())
        without = [annotation for annotation in annotations if not annotation.get(field)]
        if without:
            raise ValueError(
                f"data set '{self._dataset_name}': {len(without)} of {len(annotations)} "
                f"annotations have no '{field}', first: annotation {without[0]['id']} of image "
                f"{without[0]['image_id']}, so the {what} of a model with {key} True cannot be "
                f"evaluated: complete the file, leave it out of DATASETS.TEST, or set {key} False"
            )

    def _derive_coco_results(self, coco_eval, iou_type, class_names=None):
        if coco_eval is None:  # this is how the base class says that there are no detections
            coco_eval = _evaluate_no_detections(self._coco_api, iou_type)
        if self._curves and iou_type != "keypoints":
            write_curves(coco_eval, self._output_dir)
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
