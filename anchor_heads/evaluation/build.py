"""The evaluator of a test set."""

import os
import sys

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.evaluation import DatasetEvaluator, DatasetEvaluators
from detectron2.modeling import META_ARCH_REGISTRY, ProposalNetwork

from anchor_heads.data.coco_format import CocoFormatDataset, check_name
from anchor_heads.evaluation.coco import COCO_METRICS, OfficialCOCOEvaluator
from anchor_heads.evaluation.painted_images import PaintedImagesEvaluator
from anchor_heads.evaluation.proposal_recall import RECALLS

# Others, such as LVIS with its partial annotations, need their own rules.
_EVALUATED_AS_COCO = {"coco", "coco_panoptic_seg", "pascal_voc"}
# Detections of an image that count in all published tables.
COCO_MAX_DETECTIONS = 100


def build_evaluator(cfg: CfgNode, dataset_name: str) -> DatasetEvaluator:
    """The evaluator of one test set: COCO AP for detections, average recall for proposals.

    Results are written to OUTPUT_DIR/inference, with TEST.CURVES also precision-recall curves and a
    confusion matrix. With TEST.SHOW_DIR, the images with drawn detections are written there. With
    several test sets, each has its own subfolder in both.

    As many detections of an image count as the model may make of it, at least COCO's 100. Whatever
    the evaluation of the model's masks and keypoints would fail at is refused here.

    Args:
        cfg (CfgNode): the config of the run.
        dataset_name (str): a registered data set. Those of DATASETS.COCO_FORMAT are evaluated on
            their cleaned annotations, all others as Detectron2's COCOEvaluator does it.

    Raises:
        ValueError: if the data set is of a kind that COCO's rules are wrong for, lacks the masks or
            keypoints that the model predicts, or its name would lead out of OUTPUT_DIR.
    """
    check_name(dataset_name)
    evaluator_type = MetadataCatalog.get(dataset_name).get("evaluator_type", "coco")
    if evaluator_type not in _EVALUATED_AS_COCO:
        raise ValueError(
            f"The data set {dataset_name} is to be evaluated by the rules of '{evaluator_type}'. "
            f"Only {sorted(_EVALUATED_AS_COCO)} are evaluated here, all by COCO's rules; use "
            "Detectron2's own evaluator for it."
        )
    output_dir = os.path.join(cfg.OUTPUT_DIR, "inference")
    limit = cfg.TEST.DETECTIONS_PER_IMAGE
    coco_evaluator = OfficialCOCOEvaluator(
        dataset_name,
        output_dir=_folder_of(cfg, output_dir, dataset_name),
        ground_truth=_cleaned_ground_truth(dataset_name),
        curves=cfg.TEST.CURVES,
        max_dets_per_image=sys.maxsize if limit < 0 else max(COCO_MAX_DETECTIONS, limit),
        kpt_oks_sigmas=cfg.TEST.KEYPOINT_OKS_SIGMAS,
    )
    if cfg.MODEL.MASK_ON:
        coco_evaluator.check_masks()
    if cfg.MODEL.KEYPOINT_ON:
        coco_evaluator.check_keypoints(cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS)
    evaluators = [coco_evaluator]
    if cfg.TEST.SHOW_DIR:
        show_dir = _folder_of(cfg, cfg.TEST.SHOW_DIR, dataset_name)
        evaluators.append(PaintedImagesEvaluator(dataset_name, show_dir))
    return DatasetEvaluators(evaluators)


def metric_names(cfg: CfgNode) -> list[str]:
    """Names of the results that :func:`build_evaluator`'s evaluators give during a training.

    Of test sets without objects there are none.
    """
    is_proposals = issubclass(META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE), ProposalNetwork)
    tasks = {"box_proposals": RECALLS} if is_proposals else {"bbox": COCO_METRICS["bbox"]}
    if cfg.MODEL.MASK_ON:
        tasks["segm"] = COCO_METRICS["segm"]
    if cfg.MODEL.KEYPOINT_ON:
        tasks["keypoints"] = COCO_METRICS["keypoints"]
    names = []
    for dataset in cfg.DATASETS.TEST:
        ground_truth = _cleaned_ground_truth(dataset)
        if ground_truth is not None and not ground_truth.get("annotations"):
            continue
        prefix = f"{dataset}/" if len(cfg.DATASETS.TEST) > 1 else ""
        classes = MetadataCatalog.get(dataset).get("thing_classes", [])
        of_classes = [f"AP-{name}" for name in classes if len(classes) > 1 and not is_proposals]
        for suffix in ("", "_EMA") if cfg.SOLVER.EMA_DECAY else ("",):
            for task, metrics in tasks.items():
                names += [f"{prefix}{task}{suffix}/{metric}" for metric in (*metrics, *of_classes)]
    return names


def _folder_of(cfg: CfgNode, folder: str, dataset_name: str) -> str:
    return os.path.join(folder, dataset_name) if len(cfg.DATASETS.TEST) > 1 else folder


def _cleaned_ground_truth(dataset_name: str) -> dict | None:
    dataset = DatasetCatalog[dataset_name]
    return dataset.read() if isinstance(dataset, CocoFormatDataset) else None
