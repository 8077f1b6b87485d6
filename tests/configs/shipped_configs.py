"""What the tests of all configs have in common: loading, comparing and building them."""

from pathlib import Path

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import build_anchor_generator

from anchor_heads import get_cfg
from anchor_heads.engine.optimizer import build_optimizer

CONFIGS = Path(__file__).parents[2] / "configs"
EVERY_CONFIG = sorted(path.relative_to(CONFIGS).as_posix() for path in CONFIGS.rglob("*.yaml"))

# Short sides of the images in training.
ONE_SIZE = (800,)
JITTER = (640, 672, 704, 736, 768, 800)
ENHANCED_JITTER = tuple(range(480, 961, 32))

# Schedules: iterations, and the steps of the learning rate.
X1 = (90000, (60000, 80000))
X1_5 = (135000, (90000, 120000))
X2 = (180000, (120000, 160000))

# What all published models have in common: data, image sizes, solver.
ON_COCO = {
    "MODEL.BACKBONE.FREEZE_AT": 2,
    "MODEL.FPN.OUT_CHANNELS": 256,
    "MODEL.FPN.NORM": "",
    "DATASETS.TRAIN": ("coco_2017_train",),
    "DATASETS.TEST": ("coco_2017_val",),
    "DATALOADER.ASPECT_RATIO_GROUPING": True,
    "DATALOADER.FILTER_EMPTY_ANNOTATIONS": True,
    "INPUT.MIN_SIZE_TRAIN": ONE_SIZE,
    "INPUT.MIN_SIZE_TRAIN_SAMPLING": "choice",
    "INPUT.MAX_SIZE_TRAIN": 1333,
    "INPUT.MIN_SIZE_TEST": 800,
    "INPUT.MAX_SIZE_TEST": 1333,
    "INPUT.RANDOM_FLIP": "horizontal",
    "SOLVER.OPTIMIZER": "SGD",
    "SOLVER.IMS_PER_BATCH": 16,
    "SOLVER.REFERENCE_WORLD_SIZE": 8,
    "SOLVER.MOMENTUM": 0.9,
    "SOLVER.GAMMA": 0.1,
    "SOLVER.WEIGHT_DECAY": 0.0001,
    "SOLVER.LR_SCHEDULER_NAME": "WarmupMultiStepLR",
    "SOLVER.WARMUP_ITERS": 500,
    "TEST.DETECTIONS_PER_IMAGE": 100,
}

# The norm of the gradients of all parameters together, as mmdetection limits it.
GRADIENT_CLIP = {
    "SOLVER.CLIP_GRADIENTS.ENABLED": True,
    "SOLVER.CLIP_GRADIENTS.CLIP_TYPE": "full_model",
    "SOLVER.CLIP_GRADIENTS.CLIP_VALUE": 35.0,
    "SOLVER.CLIP_GRADIENTS.NORM_TYPE": 2.0,
}

# The files that mmdetection's backbones are initialised from.
MMDETECTION_WEIGHTS = {
    "R_50": "detectron2://ImageNetPretrained/MSRA/R-50.pkl",
    "R_101": "detectron2://ImageNetPretrained/MSRA/R-101.pkl",
    "X_101_32x4d": "https://download.openmmlab.com/pretrain/third_party/"
    "resnext101_32x4d-a5af3160.pth",
    "X_101_64x4d": "https://download.openmmlab.com/pretrain/third_party/"
    "resnext101_64x4d-ee2c6f71.pth",
}

# Caffe style, and PyTorch style with the statistics of batch norm frozen.
_MMDETECTION_RESNET = {
    "MODEL.RESNETS.NUM_GROUPS": 1,
    "MODEL.RESNETS.WIDTH_PER_GROUP": 64,
    "MODEL.RESNETS.STRIDE_IN_1X1": True,
    "MODEL.RESNETS.NORM": "FrozenBN",
    "MODEL.RESNETS.NORM_EVAL": False,
}
_MMDETECTION_RESNEXT = {
    "MODEL.RESNETS.WIDTH_PER_GROUP": 4,
    "MODEL.RESNETS.STRIDE_IN_1X1": False,
    "MODEL.RESNETS.NORM": "BN",
    "MODEL.RESNETS.NORM_EVAL": True,
}


def mmdetection_backbone(name):
    """The keys of a backbone as mmdetection's models have it, and what they are to be.

    Args:
        name (str): a key of MMDETECTION_WEIGHTS.
    """
    groups = {"X_101_32x4d": {"MODEL.RESNETS.NUM_GROUPS": 32}}
    groups["X_101_64x4d"] = {"MODEL.RESNETS.NUM_GROUPS": 64}
    return {
        **(_MMDETECTION_RESNEXT if name.startswith("X") else _MMDETECTION_RESNET),
        **groups.get(name, {}),
        "MODEL.RESNETS.DEPTH": 50 if name == "R_50" else 101,
        "MODEL.WEIGHTS": MMDETECTION_WEIGHTS[name],
    }


def names_in(folder):
    """The names of the configs in a folder, without their ending."""
    return {Path(name).stem for name in EVERY_CONFIG if name.startswith(f"{folder}/")}


def load(name):
    cfg = get_cfg()
    cfg.merge_from_file(str(CONFIGS / name), allow_unsafe=False)
    return cfg


def flat(node, prefix=""):
    """``{"MODEL.FPN.NORM": "", ...}``"""
    items = {}
    for key, value in node.items():
        if isinstance(value, CfgNode):
            items.update(flat(value, f"{prefix}{key}."))
        else:
            items[prefix + key] = value
    return items


def assert_values(name, expected):
    """Assert that a config has these values, given as in :func:`flat`."""
    actual = flat(load(name))
    assert {key: actual[key] for key in expected} == expected


def changed(cfg, other):
    """The keys that have not the same value in both."""
    cfg, other = flat(cfg), flat(other)
    return {key for key in cfg.keys() | other.keys() if cfg.get(key) != other.get(key)}


def build_without_memory(cfg):
    """The model on the meta device: shapes and names, no storage and no initialisation."""
    cfg.MODEL.DEVICE = "meta"
    with torch.device("meta"):
        return build_model(cfg)


def shapes_of(model):
    return {name: tuple(parameter.shape) for name, parameter in model.named_parameters()}


def trained_with(name):
    """The learning rate and weight decay of each trained parameter, before any warm-up."""
    cfg = load(name)
    model = build_without_memory(cfg)
    name_of = {parameter: name for name, parameter in model.named_parameters()}
    return {
        name_of[parameter]: (group["lr"], group["weight_decay"])
        for group in build_optimizer(cfg, model).param_groups
        for parameter in group["params"]
    }


def assert_nine_anchors(name, strides, base_scale, centre):
    """Assert that a location has three octaves of three aspect ratios, of exact sizes.

    Args:
        name (str): the config.
        strides (list[int]): of the levels.
        base_scale (int): side of the smallest square, in strides.
        centre (float): of the first location's anchors, in strides.
    """
    generator = build_anchor_generator(load(name), [ShapeSpec(stride=s) for s in strides])
    levels = generator([torch.zeros(1, 1, 1, 1) for _ in strides])
    for stride, anchors in zip(strides, levels, strict=True):
        width, height = (anchors.tensor[:, 2:] - anchors.tensor[:, :2]).unbind(1)
        sides = base_scale * stride * 2 ** (torch.arange(3) / 3)
        centres = torch.full((9, 2), centre * stride)
        torch.testing.assert_close(anchors.get_centers(), centres, atol=1e-4, rtol=0)
        torch.testing.assert_close((width * height).sqrt(), sides.repeat_interleave(3))
        torch.testing.assert_close(height / width, torch.tensor([0.5, 1.0, 2.0]).repeat(3))
