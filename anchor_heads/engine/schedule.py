"""The length of a training."""

import logging
import math

from detectron2.config import CfgNode
from detectron2.data import get_detection_dataset_dicts

logger = logging.getLogger(__name__)


def num_iterations(solver: CfgNode, num_images: int) -> int:
    """The length of a training: by SOLVER.MAX_EPOCHS if it is set, else SOLVER.MAX_ITER."""
    if not solver.MAX_EPOCHS:
        return solver.MAX_ITER
    return max(1, math.ceil(solver.MAX_EPOCHS * num_images / solver.IMS_PER_BATCH))


def scale_to_epochs(cfg: CfgNode) -> CfgNode:
    """The config with the number of iterations for SOLVER.MAX_EPOCHS.

    SOLVER.STEPS keep their shares of the length.
    """
    epochs = cfg.SOLVER.MAX_EPOCHS
    if not epochs:
        return cfg
    min_keypoints = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
    images = get_detection_dataset_dicts(  # as the loader does
        cfg.DATASETS.TRAIN,
        filter_empty=cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS,
        min_keypoints=min_keypoints if cfg.MODEL.KEYPOINT_ON else 0,
    )
    cfg = cfg.clone()
    cfg.defrost()
    solver = cfg.SOLVER
    length = num_iterations(solver, len(images))
    solver.STEPS = tuple(sorted({round(x * length / solver.MAX_ITER) for x in solver.STEPS}))
    solver.MAX_ITER = length
    cfg.freeze()
    logger.info(
        f"{epochs} epochs of {len(images)} images are {length} iterations of "
        f"{solver.IMS_PER_BATCH} images; SOLVER.STEPS are {solver.STEPS}."
    )
    return cfg
