"""Values of config keys that no model and no run can have.

Detectron2 takes some of them without a word. Of others it complains in terms of its own functions,
and not before it has come to them, which may be after the training.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable
from typing import Any

import torch
from detectron2.config import CfgNode
from detectron2.modeling import (
    ANCHOR_GENERATOR_REGISTRY,
    BACKBONE_REGISTRY,
    META_ARCH_REGISTRY,
    PROPOSAL_GENERATOR_REGISTRY,
    ROI_BOX_HEAD_REGISTRY,
    ROI_HEADS_REGISTRY,
    ROI_KEYPOINT_HEAD_REGISTRY,
    ROI_MASK_HEAD_REGISTRY,
    SEM_SEG_HEADS_REGISTRY,
)
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY

from anchor_heads.config import get_cfg
from anchor_heads.config_files import leaves
from anchor_heads.errors import first_line
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes, flattened, is_number

# What each number in the values of some keys must be -> how to see it, and which keys.
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1,
        r"SOLVER\.(MAX_ITER|CHECKPOINT_PERIOD|GRADIENT_ACCUMULATION)"
        r"|INPUT\.MAX_SIZE_\w+|TEST\.AUG\.M\w+_SIZES?|TEST\.PRECISE_BN\.NUM_ITER"
        r"|.+TOPK\w*|.+BATCH_SIZE_PER_IMAGE|.+OUT_CHANNELS"
        r"|.+WIDTH_PER_GROUP|.+NUM_GROUPS|.+POOLER_RESOLUTION|.+FC_DIM|.+\.CONVS?_DIM",
    ),
    "whole and at least 1": (lambda x: x >= 1 and float(x).is_integer(), r"SOLVER\.STEPS"),
    "above 0": (lambda x: x > 0, r"SOLVER\.CLIP_GRADIENTS\.NORM_TYPE"),
    "at least 1, or of two-stage models -1 for no limit": (
        lambda x: x >= 1 or x == -1,
        r"TEST\.DETECTIONS_PER_IMAGE",
    ),
    "finite and above 0": (
        lambda x: 0 < x < math.inf,
        r"MODEL\.PIXEL_STD|.+BBOX_REG_WEIGHTS|INPUT\.CROP\.SIZE|.+SHAPE_STD|.+BASE_ASPECT_RATIO"
        r"|SOLVER\.CLIP_GRADIENTS\.CLIP_VALUE|TEST\.KEYPOINT_OKS_SIGMAS",
    ),
    "finite and at least 0": (
        lambda x: 0 <= x < math.inf,
        r"INPUT\.(MIN_SIZE_(TRAIN|TEST)|COLOR_JITTER)|DATALOADER\.(NUM_WORKERS|REPEAT_THRESHOLD)"
        r"|SOLVER\.(BASE_LR\w*|WARMUP_(ITERS|FACTOR)|WEIGHT_DECAY\w*|GAMMA|MAX_EPOCHS"
        r"|BIAS_LR_FACTOR|REFERENCE_WORLD_SIZE|EARLY_STOP_PATIENCE)|TEST\.EVAL_PERIOD|VIS_PERIOD"
        r"|.+BETA|.+LOSS_WEIGHT|.+NMS_THRESH\w*|.+NUM_CONVS?|.+NUM_FC|.+FOCAL\w*_GAMMA"
        r"|.+FREEZE_AT|MODEL\.PROPOSAL_GENERATOR\.MIN_SIZE|.+POOLER_SAMPLING_RATIO",
    ),
    "finite": (math.isfinite, r"MODEL\.PIXEL_MEAN"),
    "from 0 to 1": (
        lambda x: 0 <= x <= 1,
        r".+SCORE_THRESH_TEST|.+IOU_THRESH\w*|.+POSITIVE_FRACTION|.+MIN_IOU|.+LOCATION_THRESH"
        r"|.+CASCADE_HEAD\.IOUS",
    ),
    "at least 1, or -1 for as many as there are": (
        lambda x: x >= 1 or x == -1,
        r"MODEL\.RPN\.CONV_DIMS",
    ),
    "from 0 to 1, or -1 for equal weights": (
        lambda x: 0 <= x <= 1 or x == -1,
        r".+FOCAL(_LOSS)?_ALPHA",
    ),
    "at least 0 and below 1": (
        lambda x: 0 <= x < 1,
        r"SOLVER\.(MOMENTUM|EMA_DECAY)|MODEL\.ANCHOR_GENERATOR\.OFFSET",
    ),
    "between 0 and 1": (lambda x: 0 < x < 1, r".+PRIOR_PROB"),
    "below 2 ** 32": (lambda x: x < 2**32, r"SEED"),
}
# Boxes have four sides, rotated ones an angle, too; the commands read images of three colours.
LENGTHS = {
    r".+(RETINANET|RPN|BOX_HEAD)\.BBOX_REG_WEIGHTS": (4, 5),
    r"MODEL\.PIXEL_\w+": (3,),
    r"MODEL\.RESNETS\.DEFORM_ON_PER_STAGE|INPUT\.COLOR_JITTER": (4,),
    r"INPUT\.CROP\.SIZE": (2,),
}
CHOICES = {
    r"INPUT\.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    r"INPUT\.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    r"INPUT\.MASK_FORMAT": ("polygon", "bitmask"),
    r"INPUT\.CROP\.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
    r"SOLVER\.WARMUP_METHOD": ("linear", "constant"),
    r"SOLVER\.CLIP_GRADIENTS\.CLIP_TYPE": ("value", "norm", "full_model"),
    r"MODEL\.RESNETS\.OUT_FEATURES": ("stem", "res2", "res3", "res4", "res5"),
    r"MODEL\.RESNETS\.DEPTH": (18, 34, 50, 101, 152),
    r"MODEL\.RESNETS\.RES5_DILATION": (1, 2),
    r"MODEL\.FPN\.FUSE_TYPE": ("sum", "avg"),
    r".+\.POOLER_TYPE": ("", "ROIAlignV2", "ROIAlign", "ROIPool", "ROIAlignRotated"),
    r"FLOAT32_PRECISION": ("", "highest", "high", "medium"),
    r".+\.NORM": (
        *("", "BN", "SyncBN", "FrozenBN", "GN", "LN"),
        *("nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"),
    ),
    r".+(RETINANET|RPN)\.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou", "iou"),
    r".+BOX_HEAD\.BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou"),
}
REGISTRIES = {
    r"MODEL\.META_ARCHITECTURE": META_ARCH_REGISTRY,
    r"MODEL\.BACKBONE\.NAME": BACKBONE_REGISTRY,
    r"MODEL\.ANCHOR_GENERATOR\.NAME": ANCHOR_GENERATOR_REGISTRY,
    r"MODEL\.PROPOSAL_GENERATOR\.NAME": PROPOSAL_GENERATOR_REGISTRY,
    r"MODEL\.RPN\.HEAD_NAME": RPN_HEAD_REGISTRY,
    r"MODEL\.ROI_HEADS\.NAME": ROI_HEADS_REGISTRY,
    r"MODEL\.ROI_BOX_HEAD\.NAME": ROI_BOX_HEAD_REGISTRY,
    r"MODEL\.ROI_MASK_HEAD\.NAME": ROI_MASK_HEAD_REGISTRY,
    r"MODEL\.ROI_KEYPOINT_HEAD\.NAME": ROI_KEYPOINT_HEAD_REGISTRY,
    r"MODEL\.SEM_SEG_HEAD\.NAME": SEM_SEG_HEADS_REGISTRY,
}
# Keys of the ResNets, which a backbone of one's own may read with other values.
RESNET_KEYS = "MODEL.RESNETS."
# Names that Detectron2 knows besides those in its registries: of no model part.
NO_PART = ("", "PrecomputedProposals")


def check_config_values(cfg: CfgNode) -> None:
    """
    Args:
        cfg (CfgNode): the full config.

    Raises:
        ValueError: if the value of a key is impossible; says what it must be.
    """
    defaults = dict(leaves(get_cfg()))
    own_backbone = _is_own_backbone(cfg.MODEL.BACKBONE.NAME)
    for key, value in leaves(cfg):
        if value is None and defaults.get(key) is not None:
            raise ValueError(f"{key} has no value; its default is {defaults[key]!r}.")
        _check_numbers(key, value)
        for pattern, names in CHOICES.items():
            if re.fullmatch(pattern, key) and not (own_backbone and key.startswith(RESNET_KEYS)):
                check_choice(key, value, names)
        for pattern, registry in REGISTRIES.items():
            if re.fullmatch(pattern, key) and value not in NO_PART:
                check_choice(key, value, [name for name, _ in registry])
    check_preset_shapes(cfg)
    for name in ("RETINANET", "RPN", "ROI_HEADS"):
        _check_matcher(name, cfg.MODEL[name])
        _check_levels(f"MODEL.{name}.IN_FEATURES", cfg.MODEL[name].IN_FEATURES)
    _check_input(cfg.INPUT)
    _check_solver(cfg)
    check_device("MODEL.DEVICE", cfg.MODEL.DEVICE)
    for key in ("TRAIN", "TEST"):
        if wrong := [x for x in cfg.DATASETS[key] if not (x and isinstance(x, str))]:
            raise ValueError(f"DATASETS.{key} has {wrong[0]!r}; write names of data sets.")
    if not cfg.OUTPUT_DIR or "\0" in cfg.OUTPUT_DIR:
        raise ValueError(f"OUTPUT_DIR is {cfg.OUTPUT_DIR!r}; name a folder.")
    architecture = cfg.MODEL.META_ARCHITECTURE
    if cfg.TEST.DETECTIONS_PER_IMAGE < 0 and issubclass(
        META_ARCH_REGISTRY.get(architecture), DenseDetector
    ):
        raise ValueError(
            f"TEST.DETECTIONS_PER_IMAGE is {cfg.TEST.DETECTIONS_PER_IMAGE}, which two-stage models "
            f"alone take for no limit; write a number for {architecture}."
        )
    if cfg.TEST.AUG.ENABLED and not cfg.TEST.AUG.MIN_SIZES:
        raise ValueError("TEST.AUG.MIN_SIZES is empty; write the sizes of the images.")
    if wrong := [entry for entry in cfg.TEST.EXPECTED_RESULTS if len(entry) != 4]:
        raise ValueError(
            f"TEST.EXPECTED_RESULTS has {wrong[0]}; an entry is [task, metric, value, tolerance]."
        )


def check_choice(key: str, value: Any, names: Iterable) -> None:
    """Raise ValueError unless the value of a key is one of these; the message has similar ones.

    A list must have entries, and each must be one.
    """
    names = list(names)
    entries = value if isinstance(value, list) and value else [value]
    if any(x not in names for x in entries):
        texts = [str(name) for name in names]
        similar = difflib.get_close_matches(str(value), texts, n=3, cutoff=0.3) or texts
        raise ValueError(f"{key} is {value!r}; write for example {', '.join(map(repr, similar))}.")


def _is_own_backbone(name: str) -> bool:
    if name not in BACKBONE_REGISTRY:
        return False
    module = BACKBONE_REGISTRY.get(name).__module__
    return module.partition(".")[0] not in ("detectron2", "anchor_heads")


def _check_numbers(key: str, value: Any) -> None:
    numbers = [x for x in flattened([value]) if x is not None]
    for condition, (holds, pattern) in NUMBERS.items():
        if re.fullmatch(pattern, key) and not all(is_number(x) and holds(x) for x in numbers):
            subject = "its numbers" if isinstance(value, (list, tuple)) else "it"
            raise ValueError(f"{key} is {value}; {subject} must be {condition}.")
    for pattern, lengths in LENGTHS.items():
        if re.fullmatch(pattern, key) and len(value) not in lengths:
            raise ValueError(f"{key} is {value}; it must have {lengths[0]} values.")


def _check_matcher(name: str, node: CfgNode) -> None:
    thresholds, labels = list(node.IOU_THRESHOLDS), list(node.IOU_LABELS)
    if not thresholds or thresholds != sorted(thresholds) or thresholds[0] == 0:
        raise ValueError(
            f"MODEL.{name}.IOU_THRESHOLDS is {thresholds}; write one or more above 0, in ascending "
            "order."
        )
    if len(labels) != len(thresholds) + 1 or not set(labels) <= {-1, 0, 1}:
        raise ValueError(
            f"MODEL.{name}.IOU_LABELS is {labels}; write {len(thresholds) + 1} of them, for the "
            f"ranges between IOU_THRESHOLDS {thresholds}: 0 = background, -1 = ignored, 1 = object."
        )


def _check_levels(key: str, names: list[str]) -> None:
    """Levels that are named as Detectron2's go from fine to coarse."""
    levels = [re.fullmatch(r"(?:p|res)(\d+)", str(name)) for name in names]
    numbers = [int(level[1]) for level in levels if level]
    if not names or numbers != sorted(set(numbers)):
        raise ValueError(f"{key} is {names}; name each level once, from fine to coarse.")


def _check_input(node: CfgNode) -> None:
    if node.COLOR_JITTER[3] > 0.5:
        raise ValueError(f"INPUT.COLOR_JITTER is {node.COLOR_JITTER}; the hue is at most 0.5.")
    sizes, is_range = list(node.MIN_SIZE_TRAIN), node.MIN_SIZE_TRAIN_SAMPLING == "range"
    if not sizes or (is_range and (len(sizes) != 2 or sizes != sorted(sizes))):
        raise ValueError(
            f"INPUT.MIN_SIZE_TRAIN is {node.MIN_SIZE_TRAIN}; write the sizes to choose from, or "
            'for INPUT.MIN_SIZE_TRAIN_SAMPLING "range" the smallest and the largest.'
        )
    kind, sides = node.CROP.TYPE, list(node.CROP.SIZE)
    if kind.startswith("relative") and max(sides) > 1:
        raise ValueError(
            f"INPUT.CROP.SIZE is {node.CROP.SIZE}; for the type {kind!r} it is shares of the "
            "image's height and width, from 0 to 1."
        )
    if kind == "absolute_range" and sides != sorted(sides):
        raise ValueError(
            f"INPUT.CROP.SIZE is {node.CROP.SIZE}; for the type {kind!r} it is the smallest and "
            "the largest side."
        )


def _check_solver(cfg: CfgNode) -> None:
    solver, steps = cfg.SOLVER, list(cfg.SOLVER.STEPS)
    if steps != sorted(set(steps)):
        raise ValueError(f"SOLVER.STEPS are {solver.STEPS}; write them in ascending order.")
    if solver.LR_SCHEDULER_NAME == "WarmupCosineLR" and not (
        solver.BASE_LR and solver.BASE_LR_END <= solver.BASE_LR
    ):
        raise ValueError(
            f"SOLVER.BASE_LR is {solver.BASE_LR}, and SOLVER.BASE_LR_END {solver.BASE_LR_END}; "
            "WarmupCosineLR goes down from the first, above 0, to the second."
        )
    if solver.EARLY_STOP_PATIENCE and not (cfg.TEST.BEST_METRIC and cfg.TEST.EVAL_PERIOD):
        raise ValueError(
            "SOLVER.EARLY_STOP_PATIENCE needs TEST.BEST_METRIC, such as bbox/AP, and "
            "TEST.EVAL_PERIOD, the iterations between two evaluations."
        )


def check_device(key: str, name: str) -> None:
    """Raise ValueError if PyTorch does not know or have a device.

    What CUDA has is looked at elsewhere: a process that touches it cannot start others.
    """
    try:
        if not name.startswith("cuda"):
            torch.empty(0, device=name)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = first_line(error)
        raise ValueError(
            f"{key} is {name!r}, and PyTorch cannot use it ({reason}). Write cpu or cuda."
        ) from None
