"""Arrays that the published code produced, and heads that hold its weights."""

from pathlib import Path

import numpy as np
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_anchor_generator
from detectron2.structures import Boxes, ImageList, Instances

from anchor_heads import get_cfg

DATA = Path(__file__).parent / "data"
NUM_CLASSES = 5
CHANNELS = 16
LEVELS = 5
EVERYTHING = 10**6  # a sampler of this size takes all locations
TOLERANCE = dict(rtol=1e-4, atol=1e-5)

# Published names of modules, and those here.
RPN_NAMES = {"rpn_conv": "conv", "conv_cls": "objectness_logits", "conv_reg": "anchor_deltas"}
RETINANET_NAMES = {"retina_cls": "cls_score", "retina_reg": "bbox_pred"}
for _i in range(2):
    RETINANET_NAMES[f"cls_convs.{_i}.conv"] = f"cls_subnet.{2 * _i}"
    RETINANET_NAMES[f"reg_convs.{_i}.conv"] = f"bbox_subnet.{2 * _i}"


class Published:
    """The arrays of "ga_rpn" or "ga_retinanet"."""

    def __init__(self, name):
        self.arrays = np.load(DATA / f"{name}.npz")
        self.names = RPN_NAMES if name == "ga_rpn" else RETINANET_NAMES
        first = 4 if name == "ga_rpn" else 8
        self.strides = [first * 2**i for i in range(LEVELS)]

    def tensor(self, key):
        return torch.from_numpy(self.arrays[key])

    def levels(self, key):
        """The arrays of all levels, (N, R, ...), those in (N, 1, H, W) too."""
        levels = [self.tensor(f"{key}{i}") for i in range(LEVELS)]
        return torch.cat([x.flatten(1) if x.dim() == 4 else x for x in levels], dim=1)

    def parameters(self, prefix):
        """Weights or gradients of the head, under the names here."""
        parameters = {}
        for key in self.arrays.files:
            if key.startswith(f"{prefix}/"):
                module, _, kind = key.removeprefix(f"{prefix}/").rpartition(".")
                parameters[f"{self.names.get(module, module)}.{kind}"] = self.tensor(key)
        return parameters

    def features(self):
        return [self.tensor(f"in/feat{i}").requires_grad_() for i in range(LEVELS)]

    def instances(self, second_without_objects=False):
        instances = []
        for i in range(2):
            size = tuple(self.tensor("in/img_shape")[i, :2].tolist())
            x = Instances(size, gt_boxes=Boxes(self.tensor(f"in/gt_bboxes{i}")))
            x.gt_classes = self.tensor(f"in/gt_labels{i}")
            instances.append(x[:0] if i and second_without_objects else x)
        return instances

    def images(self):
        return ImageList(torch.zeros(2, 3, 128, 160), [x.image_size for x in self.instances()])


def published_cfg():
    """The published settings, all nine shape samples, but samplers that take everything."""
    cfg = get_cfg()
    cfg.MODEL.DEVICE = "cpu"
    node = cfg.MODEL.ANCHOR_GENERATOR
    node.SIZES = [[size * 2 ** (i / 3) for i in range(3)] for size in (32, 64, 128, 256, 512)]
    node.ASPECT_RATIOS = [[0.5, 1.0, 2.0]]
    cfg.MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE = EVERYTHING
    cfg.MODEL.GUIDED_ANCHOR.INVERTED_LOCATION_LABEL = True
    rpn = cfg.MODEL.RPN
    rpn.IN_FEATURES = ["p2", "p3", "p4", "p5", "p6"]
    rpn.BATCH_SIZE_PER_IMAGE = EVERYTHING
    rpn.BBOX_REG_WEIGHTS = (1 / 0.07, 1 / 0.07, 1 / 0.11, 1 / 0.11)
    rpn.SMOOTH_L1_BETA = 1.0
    rpn.PRE_NMS_TOPK_TRAIN, rpn.POST_NMS_TOPK_TRAIN = 2000, 300
    rpn.PRE_NMS_TOPK_TEST, rpn.POST_NMS_TOPK_TEST = 2000, 1000
    retinanet = cfg.MODEL.RETINANET
    retinanet.NUM_CLASSES, retinanet.NUM_CONVS = NUM_CLASSES, 2
    retinanet.IOU_THRESHOLDS, retinanet.IOU_LABELS = [0.5], [0, 1]
    retinanet.SMOOTH_L1_LOSS_BETA = 0.04
    return cfg


def input_shape(strides):
    return [ShapeSpec(channels=CHANNELS, stride=stride) for stride in strides]


def sample_generator(strides, cfg=None):
    return build_anchor_generator(cfg or published_cfg(), input_shape(strides))
