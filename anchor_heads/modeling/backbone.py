"""ResNet-FPNs in the variants that the published detectors use.

The top levels are P6 (pooled, for R-CNN), or P6 and P7. Detectron2 has a builder for each; these
here also train batch norms whose statistics are fixed, and vary where P6 and P7 come from.
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelMaxPool, LastLevelP6P7
from torch import nn

__all__ = [
    "add_backbone_config",
    "build_resnet_fpn_p6_backbone",
    "build_resnet_fpn_p6p7_backbone",
]


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of this module's builders to ``cfg.MODEL.RESNETS`` and ``cfg.MODEL.FPN``."""
    # With NORM "BN": whether the batch norms keep the statistics of the pre-trained weights, in
    # training too, and only their scale and shift are trained. ("FrozenBN" trains neither.)
    cfg.MODEL.RESNETS.NORM_EVAL = False
    # What the stride-2 convolution to P6 reads: "res5", the last ResNet stage (RetinaNet paper,
    # Guided Anchoring), or "p5", the finished FPN level (FreeAnchor, Dynamic Anchor).
    cfg.MODEL.FPN.P6_INPUT = "res5"
    # Whether P7 is made from relu(P6) or from P6 itself (Guided Anchoring).
    cfg.MODEL.FPN.P7_RELU = True


class TopBlockP6P7(LastLevelP6P7):
    """Detectron2's two top levels, with a choice about the ReLU between them."""

    def __init__(self, in_channels: int, out_channels: int, in_feature: str, p7_relu: bool):
        """
        Args:
            in_channels (int): channels of ``in_feature``.
            out_channels (int): channels of P6 and P7.
            in_feature (str): name of the feature P6 is made from, of the ResNet or of the FPN.
            p7_relu (bool): whether a ReLU stands between P6 and P7.
        """
        super().__init__(in_channels, out_channels, in_feature)
        self.p7_relu = p7_relu

    def forward(self, x: torch.Tensor) -> list[torch.Tensor]:
        """
        Args:
            x (Tensor): feature of stride 32, of shape (N, in_channels, H, W).

        Returns:
            list[Tensor]: P6 and P7, of strides 64 and 128.
        """
        p6 = self.p6(x)
        return [p6, self.p7(F.relu(p6) if self.p7_relu else p6)]


class FixedStatisticsBatchNorm2d(nn.BatchNorm2d):
    """A batch norm that always normalises with its running statistics, and never updates them.

    Its scale and shift are parameters like those of any other batch norm.
    """

    def train(self, mode: bool = True):
        """Stay in evaluation mode, whatever ``mode`` is."""
        return super().train(False)


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_p6_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet-FPN with levels P2 to P6, or from wherever ``MODEL.FPN.IN_FEATURES`` begins.

    It is Detectron2's ``build_resnet_fpn_backbone`` with ``MODEL.RESNETS.NORM_EVAL``.

    Args:
        cfg (CfgNode): reads ``MODEL.RESNETS`` and ``MODEL.FPN``.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        FPN: features "p2" ... "p6" of ``MODEL.FPN.OUT_CHANNELS`` channels and strides 4 ... 64.

    Raises:
        ValueError: if ``MODEL.RESNETS.NORM_EVAL`` does not go with ``MODEL.RESNETS.NORM``.
    """
    return build_fpn_p6(cfg, _build_resnet(cfg, input_shape))


@BACKBONE_REGISTRY.register()
def build_resnet_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build a ResNet-FPN with levels P3 to P7, or from wherever ``MODEL.FPN.IN_FEATURES`` begins.

    Args:
        cfg (CfgNode): reads ``MODEL.RESNETS`` and ``MODEL.FPN``, the latter with the keys of
            :func:`add_backbone_config`.
        input_shape (ShapeSpec): channels of the image.

    Returns:
        FPN: features "p3" ... "p7" of ``MODEL.FPN.OUT_CHANNELS`` channels and strides 8 ... 128.

    Raises:
        ValueError: if ``MODEL.FPN.P6_INPUT`` or the last of ``MODEL.FPN.IN_FEATURES`` is wrong, or
            ``MODEL.RESNETS.NORM_EVAL`` does not go with ``MODEL.RESNETS.NORM``.
    """
    return build_fpn_p6p7(cfg, _build_resnet(cfg, input_shape))


def _build_resnet(cfg: CfgNode, input_shape: ShapeSpec) -> nn.Module:
    """Detectron2's ResNet, with fixed statistics if the config asks for them."""
    resnets = cfg.MODEL.RESNETS
    if resnets.NORM_EVAL and resnets.NORM != "BN":
        raise ValueError(
            f'MODEL.RESNETS.NORM_EVAL True is for MODEL.RESNETS.NORM "BN", not "{resnets.NORM}": '
            "FrozenBN has fixed statistics anyway, and where they are fixed nothing is to be "
            "synchronised between processes."
        )
    resnet = build_resnet_backbone(cfg, input_shape)
    if resnets.NORM_EVAL:
        _fix_statistics(resnet)
    return resnet


def _fix_statistics(module: nn.Module) -> None:
    """Put a FixedStatisticsBatchNorm2d in the place of each new batch norm in ``module``.

    Those of the stages up to ``MODEL.BACKBONE.FREEZE_AT`` are FrozenBatchNorm2d by then.
    """
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FixedStatisticsBatchNorm2d(child.num_features).eval())
        else:
            _fix_statistics(child)


def build_fpn_p6(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """An FPN on any backbone, with a pooled P6 on top."""
    return _build_fpn(cfg, bottom_up, LastLevelMaxPool())


def build_fpn_p6p7(cfg: CfgNode, bottom_up: Backbone) -> FPN:
    """An FPN on any backbone with a "res5", with P6 and P7 on top.

    Raises:
        ValueError: if ``MODEL.FPN.P6_INPUT`` or the last of ``MODEL.FPN.IN_FEATURES`` is wrong.
    """
    fpn = cfg.MODEL.FPN
    if fpn.P6_INPUT not in ("res5", "p5"):
        raise ValueError(f'MODEL.FPN.P6_INPUT is "{fpn.P6_INPUT}"; it must be "res5" or "p5".')
    if "res5" not in fpn.IN_FEATURES[-1:]:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {fpn.IN_FEATURES}; P6 and P7 need it to end with res5."
        )
    res5_channels = bottom_up.output_shape()["res5"].channels
    top_block = TopBlockP6P7(
        in_channels=res5_channels if fpn.P6_INPUT == "res5" else fpn.OUT_CHANNELS,
        out_channels=fpn.OUT_CHANNELS,
        in_feature=fpn.P6_INPUT,
        p7_relu=fpn.P7_RELU,
    )
    return _build_fpn(cfg, bottom_up, top_block)


def _build_fpn(cfg: CfgNode, bottom_up: Backbone, top_block: nn.Module) -> FPN:
    fpn = cfg.MODEL.FPN
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=top_block,
        fuse_type=fpn.FUSE_TYPE,
    )
