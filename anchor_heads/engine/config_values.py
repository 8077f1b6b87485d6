"""Values of config keys that no model and no run can have.

Detectron2 takes some of them without a word. Of others it complains in terms of its own functions,
and not before it has come to them, which may be after the training.
"""

import difflib
import math
import re
from collections.abc import Callable, Iterable, Iterator
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
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY

from anchor_heads.config import get_cfg
from anchor_heads.modeling.preset_shape_checks import check_preset_shapes, flattened

# What each number in the values of some keys must be -> how to see it, and which keys.
NUMBERS: dict[str, tuple[Callable[[float], bool], str]] = {
    "at least 1": (
        lambda x: x >= 1,
        r"SOLVER\.(MAX_ITER|CHECKPOINT_PERIOD|GRADIENT_ACCUMULATION)|INPUT\.MAX_SIZE_\w+"
        r"|.+TOPK\w*|.+BATCH_SIZE_PER_IMAGE|.+OUT_CHANNELS"
        r"|.+WIDTH_PER_GROUP|.+NUM_GROUPS|.+POOLER_RESOLUTION",
    ),
    "at least 1, or -1 for no limit": (
        lambda x: x >= 1 or x == -1,
        r"TEST\.DETECTIONS_PER_IMAGE",
    ),
    "finite and above 0": (
        lambda x: 0 < x < math.inf,
        r"MODEL\.PIXEL_STD|.+BBOX_REG_WEIGHTS|INPUT\.CROP\.SIZE|.+SHAPE_STD|.+BASE_ASPECT_RATIO",
    ),
    "finite and at least 0": (
        lambda x: 0 <= x < math.inf,
        r"INPUT\.MIN_SIZE_(TRAIN|TEST)|DATALOADER\.(NUM_WORKERS|REPEAT_THRESHOLD)"
        r"|SOLVER\.(BASE_LR\w*|WARMUP_(ITERS|FACTOR)|WEIGHT_DECAY\w*|GAMMA|STEPS|MAX_EPOCHS"
        r"|BIAS_LR_FACTOR|REFERENCE_WORLD_SIZE|EARLY_STOP_PATIENCE)|TEST\.EVAL_PERIOD|VIS_PERIOD"
        r"|.+BETA|.+LOSS_WEIGHT|.+NMS_THRESH\w*|.+NUM_CONVS?|.+NUM_FC",
    ),
    "finite": (math.isfinite, r"MODEL\.PIXEL_MEAN"),
    "from 0 to 1": (
        lambda x: 0 <= x <= 1,
        r".+SCORE_THRESH_TEST|.+IOU_THRESH\w*|.+POSITIVE_FRACTION|.+MIN_IOU|.+LOCATION_THRESH",
    ),
    "from 0 to 1, or -1 for equal weights": (
        lambda x: 0 <= x <= 1 or x == -1,
        r".+FOCAL_LOSS_ALPHA",
    ),
    "at least 0 and below 1": (
        lambda x: 0 <= x < 1,
        r"SOLVER\.(MOMENTUM|EMA_DECAY)|MODEL\.ANCHOR_GENERATOR\.OFFSET",
    ),
    "between 0 and 1": (lambda x: 0 < x < 1, r".+PRIOR_PROB"),
    "below 2 ** 32": (lambda x: x < 2**32, r"SEED"),
}
# Boxes have four sides, rotated ones an angle, too; the commands read images of three colours.
LENGTHS = {r".+(RETINANET|RPN|BOX_HEAD)\.BBOX_REG_WEIGHTS": (4, 5), r"MODEL\.PIXEL_\w+": (3,)}
CHOICES = {
    r"INPUT\.RANDOM_FLIP": ("horizontal", "vertical", "none"),
    r"INPUT\.MIN_SIZE_TRAIN_SAMPLING": ("choice", "range"),
    r"INPUT\.MASK_FORMAT": ("polygon", "bitmask"),
    r"INPUT\.CROP\.TYPE": ("relative", "relative_range", "absolute", "absolute_range"),
    r"SOLVER\.WARMUP_METHOD": ("linear", "constant"),
    r"SOLVER\.CLIP_GRADIENTS\.CLIP_TYPE": ("value", "norm", "full_model"),
    r"MODEL\.RESNETS\.DEPTH": (18, 34, 50, 101, 152),
    r".+\.NORM": (
        *("", "BN", "SyncBN", "FrozenBN", "GN", "LN"),
        *("nnSyncBN", "naiveSyncBN", "naiveSyncBN_N"),
    ),
    r".+BBOX_REG_LOSS_TYPE": ("smooth_l1", "giou", "diou", "ciou", "iou"),
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
# Names that Detectron2 knows besides those in its registries: of no model part.
NO_PART = ("", "PrecomputedProposals")


def check_config_values(cfg: CfgNode) -> None:
    """
    Args:
        cfg (CfgNode): the full config.

    Raises:
        ValueError: if the value of a key is impossible; says what it must be.
    """
    defaults = dict(_leaves(get_cfg()))
    for key, value in _leaves(cfg):
        if value is None and defaults.get(key) is not None:
            raise ValueError(f"{key} has no value; its default is {defaults[key]!r}.")
        _check_numbers(key, value)
        for pattern, names in CHOICES.items():
            if re.fullmatch(pattern, key):
                check_choice(key, value, names)
        for pattern, registry in REGISTRIES.items():
            if re.fullmatch(pattern, key) and value not in NO_PART:
                check_choice(key, value, [name for name, _ in registry])
    check_preset_shapes(cfg)
    _check_solver(cfg)
    _check_device(cfg.MODEL.DEVICE)
    if not cfg.OUTPUT_DIR:
        raise ValueError("OUTPUT_DIR is empty; name a folder.")
    if wrong := [entry for entry in cfg.TEST.EXPECTED_RESULTS if len(entry) != 4]:
        raise ValueError(
            f"TEST.EXPECTED_RESULTS has {wrong[0]}; an entry is [task, metric, value, tolerance]."
        )


def check_choice(key: str, value: Any, names: Iterable) -> None:
    """Raise ValueError unless the value of a key is one of these; the message has similar ones."""
    names = list(names)
    if value not in names:
        texts = [str(name) for name in names]
        similar = difflib.get_close_matches(str(value), texts, n=3, cutoff=0.3) or texts
        raise ValueError(f"{key} is {value!r}; write for example {', '.join(map(repr, similar))}.")


def _leaves(cfg: CfgNode, prefix: str = "") -> Iterator[tuple[str, Any]]:
    for name, value in cfg.items():
        if isinstance(value, CfgNode):
            yield from _leaves(value, f"{prefix}{name}.")
        else:
            yield prefix + name, value


def _check_numbers(key: str, value: Any) -> None:
    numbers = [x for x in flattened([value]) if isinstance(x, (int, float))]
    for condition, (holds, pattern) in NUMBERS.items():
        if re.fullmatch(pattern, key) and not all(map(holds, numbers)):
            subject = "its numbers" if isinstance(value, (list, tuple)) else "it"
            raise ValueError(f"{key} is {value}; {subject} must be {condition}.")
    for pattern, lengths in LENGTHS.items():
        if re.fullmatch(pattern, key) and len(value) not in lengths:
            raise ValueError(f"{key} is {value}; it must have {lengths[0]} numbers.")


def _check_solver(cfg: CfgNode) -> None:
    steps = list(cfg.SOLVER.STEPS)
    if steps != sorted(set(steps)):
        raise ValueError(f"SOLVER.STEPS are {cfg.SOLVER.STEPS}; write them in ascending order.")
    if cfg.SOLVER.EARLY_STOP_PATIENCE and not (cfg.TEST.BEST_METRIC and cfg.TEST.EVAL_PERIOD):
        raise ValueError(
            "SOLVER.EARLY_STOP_PATIENCE needs TEST.BEST_METRIC, such as bbox/AP, and "
            "TEST.EVAL_PERIOD, the iterations between two evaluations."
        )


def _check_device(name: str) -> None:
    """What CUDA has is looked at elsewhere: a process that touches it cannot start others."""
    try:
        if not name.startswith("cuda"):
            torch.empty(0, device=name)
    except (RuntimeError, NotImplementedError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise ValueError(
            f"MODEL.DEVICE is {name!r}, and PyTorch cannot use it ({reason}). Write cpu or cuda."
        ) from None
