"""Arrays that the published code produced, and a detector that holds its weights."""

from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, ImageList, Instances
from small_models import NoBackbone

from anchor_heads import get_cfg
from anchor_heads.layers import flatten_hw
from anchor_heads.projects.dynamic_anchor.head import Prediction
from anchor_heads.projects.dynamic_anchor.retinanet import DynamicAnchorRetinaNet

DATA = Path(__file__).parent / "data"
NUM_CLASSES = 5
CHANNELS = 64
LEVELS = 5
STRIDES = [8 * 2**i for i in range(LEVELS)]
IMAGE_SIZES = [(128, 160), (120, 150)]
TOLERANCE = dict(rtol=1e-4, atol=1e-5)
LOSSES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_anchor_shape": "loss_anchor",
    "loss_anchor_quality": "loss_quality",
}


class Published:
    """Some of the archives as one."""

    def __init__(self, *names):
        archives = [np.load(DATA / f"{name}.npz") for name in names]
        self.arrays = {key: archive[key] for archive in archives for key in archive.files}

    def tensor(self, key):
        return torch.from_numpy(self.arrays[key])

    def levels(self, key):
        return [self.tensor(f"{key}/{i}") for i in range(LEVELS)]

    def by_image(self, key):
        """Arrays of all levels whose first axis is image, row, column: (2, R, ...)."""
        return torch.cat([x.view(2, -1, *x.shape[1:]) for x in self.levels(key)], dim=1)

    def parameters(self, prefix):
        """Weights or gradients of the head, under the names here."""
        names = {
            key: key.removeprefix(f"{prefix}/").replace(".gn.", ".norm.")
            for key in self.arrays
            if key.startswith(f"{prefix}/")
        }
        return {name: self.tensor(key) for key, name in names.items()}

    def instances(self, case="crafted"):
        if case == "all_empty":
            return [x[:0] for x in self.instances()]
        instances = []
        for i, size in enumerate(IMAGE_SIZES):
            keys = (f"gt/img{i}/boxes", f"gt/img{i}/labels")
            if case == "no_quality_pos":
                keys = (f"no_quality_pos/gt{i}", "no_quality_pos/label")
            x = Instances(size, gt_boxes=Boxes(self.tensor(keys[0])))
            x.gt_classes = self.tensor(keys[1])
            instances.append(x)
        return instances

    def predictions(self, prefix):
        """Those of a head, and their published leaves: shapes as exponentials, and maps."""
        names = ("anchor_preds", "cls_scores", "bbox_preds", "quality_preds")
        leaves = {
            name: [x.requires_grad_() for x in self.levels(f"{prefix}/{name}")] for name in names
        }
        maps = zip(*leaves.values(), strict=True)
        predictions = [
            Prediction(flatten_hw(shape.log()), *(flatten_hw(x) for x in others))
            for shape, *others in maps
        ]
        return predictions, leaves


def images():
    return ImageList(torch.zeros(2, 3, *IMAGE_SIZES[0]), IMAGE_SIZES)


def features(channels=1):
    """Stand-ins of the right size."""
    height, width = IMAGE_SIZES[0]
    return [torch.zeros(2, channels, -(-height // s), -(-width // s)) for s in STRIDES]


def published_cfg():
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[128], [256], [512], [1024], [2048]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    retinanet = cfg.MODEL.RETINANET
    retinanet.NUM_CLASSES, retinanet.NORM = NUM_CLASSES, "GN"
    retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS = [0.5], [0, 1]
    return cfg


def input_shape(channels=CHANNELS):
    return [ShapeSpec(channels=channels, stride=stride) for stride in STRIDES]


def detector(monkeypatch, **keys):
    cfg = published_cfg()
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    backbone = NoBackbone(CHANNELS)
    monkeypatch.setattr("anchor_heads.modeling.one_stage.build_backbone", lambda cfg: backbone)
    return DynamicAnchorRetinaNet(cfg)
