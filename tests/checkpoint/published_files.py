"""Small published files: a made-up backbone, and a head with the arrays of the published code."""

import numpy as np
import torch
from detectron2.modeling import build_model
from source_models import (
    da_retinanet_head,
    free_anchor_head,
    ga_retinanet_head,
    ga_rpn_head,
    make_up_statistics,
    source_model,
)
from tiny_run import REPOSITORY

from anchor_heads import model_zoo
from anchor_heads.engine.checkpoint import AtomicCheckpointer

NUM_CLASSES = 5
CHANNELS = {"da_retinanet": 64}  # 16 in the others' arrays
CONFIGS = {
    "ga_rpn": "guided_anchoring/ga_rpn_R_50_FPN_1x",
    "ga_faster_rcnn": "guided_anchoring/ga_faster_rcnn_R_50_FPN_1x",
    "ga_retinanet": "guided_anchoring/ga_retinanet_R_50_FPN_1x",
    "da_retinanet": "dynamic_anchor/da_retinanet_R_50_FPN_1x",
    "free_anchor": "free_anchor/free_anchor_R_50_FPN_1x",
}
ARRAYS = {
    "ga_rpn": ("guided_anchoring", ["ga_rpn"]),
    "ga_faster_rcnn": ("guided_anchoring", ["ga_rpn"]),
    "ga_retinanet": ("guided_anchoring", ["ga_retinanet"]),
    "da_retinanet": ("dynamic_anchor", ["head_tower", "head_branches", "head_forward"]),
    "free_anchor": ("free_anchor", ["head_forward"]),
}
SMALL = ["MODEL.RESNETS.WIDTH_PER_GROUP", 4, "MODEL.RETINANET.NUM_CLASSES", NUM_CLASSES]


class Arrays:
    """What the published code of a method made."""

    def __init__(self, method):
        project, names = ARRAYS[method]
        folder = REPOSITORY / "tests/projects" / project / "data"
        archives = [np.load(folder / f"{name}.npz") for name in names]
        self.arrays = {key: archive[key] for archive in archives for key in archive.files}

    def __getitem__(self, key):
        return torch.from_numpy(self.arrays[key])

    def below(self, prefix):
        """The arrays whose keys begin with the prefix, by the rest of their keys."""
        return {
            key.removeprefix(prefix): self[key] for key in self.arrays if key.startswith(prefix)
        }

    def levels(self, prefix):
        return [self[f"{prefix}{i}"] for i in range(5)]


def published_head(method):
    """A module with the published names, and the weights of the arrays."""
    arrays = Arrays(method)
    if method in ("ga_rpn", "ga_faster_rcnn"):
        head, prefix = ga_rpn_head(16), "state/"
    elif method == "ga_retinanet":
        head, prefix = ga_retinanet_head(16, NUM_CLASSES, convs=2), "state/"
    elif method == "da_retinanet":
        head, prefix = da_retinanet_head(64, NUM_CLASSES), "sd/"
    else:
        head, prefix = free_anchor_head(16, NUM_CLASSES), "sd/"
    head.load_state_dict(arrays.below(prefix))
    return head


def small_source(method, **kwargs):
    """The network that a small published file would be of, in evaluation mode."""
    backbone = {"width": 4} | kwargs
    source = source_model(method, CHANNELS.get(method, 16), published_head(method), **backbone)
    make_up_statistics(source)
    return source.eval()


def contents(method, weights):
    """A file's contents, in the framework's form."""
    if method == "free_anchor":
        return {
            "model": {f"module.{key}": x for key, x in weights.items()},
            "optimizer": {"param_groups": [{"lr": 0.01}]},
            "scheduler": {"milestones": [60000, 80000]},
            "iteration": 90000,
        }
    meta = {"mmdet_version": "2.4.0", "CLASSES": ("person", "bicycle"), "epoch": 12}
    return {"state_dict": weights, "meta": meta, "optimizer": {"state": {}}}


def write_published(path, method, weights):
    torch.save(contents(method, weights), path)
    return str(path)


def overrides_of(method):
    overrides = [*SMALL, "MODEL.FPN.OUT_CHANNELS", CHANNELS.get(method, 16)]
    if method == "ga_retinanet":
        overrides += ["MODEL.RETINANET.NUM_CONVS", 2]
    if method == "free_anchor":
        overrides += ["MODEL.FREE_ANCHOR.LEGACY_BOXES", True]
    return overrides


def small_cfg(method, *overrides, config=None):
    cfg = model_zoo.get_config(config or CONFIGS[method], [*overrides_of(method), *overrides])
    cfg.MODEL.DEVICE = "cpu"
    return cfg


def load_small(method, path, *overrides, config=None):
    """The model of a small config with the weights of a file, in evaluation mode."""
    model = build_model(small_cfg(method, *overrides, config=config))
    AtomicCheckpointer(model).load(str(path))
    return model.eval()
