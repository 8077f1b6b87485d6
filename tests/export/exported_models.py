"""Small detectors to export, with weights that let them detect something in noise."""

from pathlib import Path

import pytest
import torch
from detectron2.layers import Conv2d, FrozenBatchNorm2d, ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_model
from tiny_run import CLASSES, write_config
from torch import nn

from anchor_heads import get_cfg

RPN = "MODEL.PROPOSAL_GENERATOR.NAME"
MODELS = {
    "RetinaNet": ("RetinaNet",),
    "FreeAnchorRetinaNet": ("FreeAnchorRetinaNet",),
    "GuidedAnchorRetinaNet": ("GuidedAnchorRetinaNet",),
    "DynamicAnchorRetinaNet": ("DynamicAnchorRetinaNet",),
    "RPN": ("GeneralizedRCNN", RPN, "RPN"),
    "FreeAnchorRPN": ("GeneralizedRCNN", RPN, "FreeAnchorRPN"),
    "GuidedAnchorRPN": ("GeneralizedRCNN", RPN, "GuidedAnchorRPN"),
    "DynamicAnchorRPN": ("GeneralizedRCNN", RPN, "DynamicAnchorRPN"),
}
# The exporter of torch takes some ten seconds for a model.
FORMATS = (
    "torchscript",
    pytest.param("onnx", marks=pytest.mark.exhaustive),
    pytest.param("torch-export", marks=pytest.mark.exhaustive),
)
# One coarse level has a single cell at the second size; none is a multiple of 32.
SIZES = ((96, 130), (31, 33), (161, 72))
SEED = 7  # weights with which the images keep few, most and no locations
GREY = torch.tensor([104, 116, 124], dtype=torch.uint8)  # about the pixel mean
ROUNDING = 5e-7  # of scores: a few units in the last place of float32
CATEGORIES = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]


class Stages(Backbone):
    """Three convolutions with frozen batch norms, in place of a ResNet."""

    def __init__(self):
        super().__init__()
        strides = {"res3": 8, "res4": 2, "res5": 2}
        channels = [3, 8, 8, 8]
        self.stages = nn.ModuleDict(
            {
                name: Conv2d(
                    channels[i],
                    channels[i + 1],
                    kernel_size=stride + 1,
                    stride=stride,
                    padding=stride // 2,
                    norm=FrozenBatchNorm2d(channels[i + 1]),
                    activation=torch.relu,
                )
                for i, (name, stride) in enumerate(strides.items())
            }
        )

    def forward(self, x):
        features = {}
        for name, stage in self.stages.items():
            features[name] = x = stage(x)
        return features

    def output_shape(self):
        strides = zip(self.stages, (8, 16, 32), strict=True)
        return {name: ShapeSpec(channels=8, stride=stride) for name, stride in strides}


@BACKBONE_REGISTRY.register()
def build_three_stages_fpn(cfg, input_shape):
    return FPN(Stages(), cfg.MODEL.FPN.IN_FEATURES, out_channels=cfg.MODEL.FPN.OUT_CHANNELS)


def config(name: str, folder: Path):
    cfg = get_cfg()
    overrides = ["MODEL.BACKBONE.NAME", "build_three_stages_fpn"]
    cfg.merge_from_file(write_config(folder, MODELS[name][0], [*MODELS[name][1:], *overrides]))
    cfg.MODEL.PIXEL_STD = [50.0] * 3
    cfg.INPUT.MIN_SIZE_TEST = 0
    cfg.OUTPUT_DIR = ""
    return cfg


def detector(cfg) -> nn.Module:
    """A model in evaluation mode. Where it filters locations, their share grows with the contrast
    of the image, from none in a grey one."""
    torch.manual_seed(SEED)
    model = build_model(cfg).eval()
    torch.manual_seed(SEED)  # again, since the model's own initialisation may change
    for name, parameter in model.named_parameters():
        if parameter.dim() > 1:
            std = (1.5 / parameter[0].numel()) ** 0.5
            if name.endswith(("bbox_pred.weight", "anchor_deltas.weight", "conv_reg.weight")):
                std *= 0.2
            if "conv_shape" in name or "conv_anchor" in name:
                std *= 0.2
            parameter.data = std * torch.randn(parameter.shape)
        if name.endswith("conv_loc.weight"):
            parameter.data = parameter.data.abs() * 8
        if name.endswith("conv_loc.bias"):
            parameter.data.fill_(-9.0)
        if name.endswith(("cls_score.bias", "conv_cls.bias")):
            parameter.data.fill_(-0.5)
    for buffers in model.modules():
        if isinstance(buffers, FrozenBatchNorm2d):
            buffers.running_mean.uniform_(-0.02, 0.02)
            buffers.running_var.uniform_(0.5, 1.5)
            buffers.weight.uniform_(0.5, 1.5)
    return model


def images():
    """(3, height, width) uint8, by size and contrast."""
    generator = torch.Generator().manual_seed(2)
    result = {}
    for size, contrast in zip(SIZES, (3, 90, 30), strict=True):
        noise = torch.randn((3, *size), generator=generator) * contrast
        result[size] = (noise + GREY[:, None, None]).clamp(0, 255).to(torch.uint8)
    return result


def grey_image():
    """(3, height, width) uint8."""
    return GREY[:, None, None].repeat(1, 40, 70)


def detect(model, image, **size):
    """Boxes, scores and classes of eager PyTorch."""
    with torch.no_grad():
        instances = model([{"image": image, **size}])[0]["instances"]
    return instances.pred_boxes.tensor, instances.scores, instances.pred_classes


def assert_same_detections(ours, eager):
    """In the same order, but for those of eager's whose scores are equal up to rounding."""
    boxes, scores, classes = (torch.as_tensor(x) for x in ours)
    assert len(boxes) == len(scores) == len(classes) == len(eager[0])
    if not len(boxes):
        return
    # Each of ours is one of eager's.
    corners = torch.cat([boxes, 1e4 * classes[:, None]], dim=1)
    expected = torch.cat([eager[0], 1e4 * eager[2][:, None]], dim=1)
    match = torch.cdist(corners.double(), expected.double()).argmin(dim=1)
    assert len(match.unique()) == len(match)
    torch.testing.assert_close(corners, expected[match], rtol=0, atol=1e-3)
    torch.testing.assert_close(scores, eager[1][match], rtol=0, atol=1e-5)
    torch.testing.assert_close(eager[1][match], eager[1], rtol=0, atol=ROUNDING)
