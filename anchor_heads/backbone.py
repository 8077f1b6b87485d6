"""A ResNet-FPN with P6 and P7, in the variants that the published detectors use.

Detectron2's ``build_retinanet_resnet_fpn_backbone`` is one of them: P6 from C5, ReLU before P7.
"""

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, build_resnet_backbone
from detectron2.modeling.backbone.fpn import LastLevelP6P7

__all__ = ["add_backbone_config", "build_resnet_fpn_p6p7_backbone"]


def add_backbone_config(cfg: CfgNode) -> None:
    """Add the keys of :func:`build_resnet_fpn_p6p7_backbone` to ``cfg.MODEL.FPN``."""
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
        ValueError: if ``MODEL.FPN.P6_INPUT`` or the last of ``MODEL.FPN.IN_FEATURES`` is wrong.
    """
    fpn = cfg.MODEL.FPN
    if fpn.P6_INPUT not in ("res5", "p5"):
        raise ValueError(f'MODEL.FPN.P6_INPUT is "{fpn.P6_INPUT}"; it must be "res5" or "p5".')
    if "res5" not in fpn.IN_FEATURES[-1:]:
        raise ValueError(
            f"MODEL.FPN.IN_FEATURES is {fpn.IN_FEATURES}; P6 and P7 need it to end with res5."
        )
    bottom_up = build_resnet_backbone(cfg, input_shape)
    res5_channels = bottom_up.output_shape()["res5"].channels
    return FPN(
        bottom_up=bottom_up,
        in_features=fpn.IN_FEATURES,
        out_channels=fpn.OUT_CHANNELS,
        norm=fpn.NORM,
        top_block=TopBlockP6P7(
            in_channels=res5_channels if fpn.P6_INPUT == "res5" else fpn.OUT_CHANNELS,
            out_channels=fpn.OUT_CHANNELS,
            in_feature=fpn.P6_INPUT,
            p7_relu=fpn.P7_RELU,
        ),
        fuse_type=fpn.FUSE_TYPE,
    )
