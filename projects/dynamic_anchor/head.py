"""What Dynamic Anchor predicts.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    C: channels of a feature
    K: number of classes
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec, get_norm
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn

from anchor_heads.anchor_generation import FeatureAdaption
from anchor_heads.layers import ModulatedDeformConvPack, flatten_hw, init_prior_bias


class Prediction(NamedTuple):
    """What is predicted for the anchors of a level, by location."""

    shape: Tensor
    """(N, H*W, 2) float32, logarithms of the anchor's width and height over the square's side."""
    logits: Tensor
    """(N, H*W, K) float32; K = 1, objectness, in the proposal generator."""
    deltas: Tensor
    """(N, H*W, 4) float32, from the anchor to the box."""
    quality: Tensor | None = None
    """(N, H*W, 1) float32 logits of how well an anchor can fit there; the proposal generator has
    none."""


class Scale(nn.Module):
    """A learned factor."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, x: Tensor) -> Tensor:
        """``x`` times the factor."""
        return x * self.scale


class NormalizedConv(nn.Module):
    """A convolution, a norm and a ReLU."""

    def __init__(self, conv: nn.Module, norm: str):
        """
        Args:
            conv (nn.Module): has a ``weight`` of shape (C', C, ...).
            norm (str): see :func:`detectron2.layers.get_norm`; "" for none.
        """
        super().__init__()
        self.conv = conv
        self.norm = get_norm(norm, len(conv.weight))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) to (N, C', H, W)."""
        x = self.conv(x)
        return F.relu(x if self.norm is None else self.norm(x))


class DynamicAnchorRetinaNetHead(nn.Module):
    """The head of DA-RetinaNet: one tower, one anchor per location.

    The tower predicts the shape of the anchors, the shape steers a deformable convolution over the
    feature itself ("feature attention"), and class, box and quality are predicted from both fused.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_convs: int = 4,
        norm: str = "GN",
        prior_prob: float = 0.01,
        kaiming_init: bool = False,
    ):
        """
        Args:
            input_shape (list[ShapeSpec]): one per level, all of C channels.
            num_classes (int): K.
            num_convs (int): convolutions of the tower; the last one is deformable.
            norm (str): norm after each of them, see :func:`detectron2.layers.get_norm`. All levels
                share its parameters, and a batch norm's statistics.
            prior_prob (float): class probability that training starts from.
            kaiming_init (bool): see :class:`FeatureAdaption`; for the fusion, too.

        Raises:
            ValueError: if :class:`FeatureAdaption` does not take C channels.
        """
        super().__init__()
        channels = input_shape[0].channels
        convs = [_conv(channels, channels, 3) for _ in range(num_convs - 1)]
        convs.append(ModulatedDeformConvPack(channels, channels))
        self.anchor_convs = nn.Sequential(*(NormalizedConv(conv, norm) for conv in convs))
        self.conv_anchor = _conv(channels, 2, 3)
        self.scales = nn.ModuleList(Scale() for _ in input_shape)
        self.feature_attention = FeatureAdaption(channels, channels, kaiming_init=kaiming_init)
        half = channels // 2
        self.fusion_conv_x = _conv(channels, half, 1)
        self.fusion_conv_y = _conv(channels, half, 1)
        self.fusion = _conv(2 * half, channels, 1)
        if kaiming_init:
            for layer in (self.fusion_conv_x, self.fusion_conv_y, self.fusion):
                nn.init.kaiming_normal_(layer.weight, nonlinearity="linear")
        self.conv_cls = _conv(channels, num_classes, 3)
        self.conv_reg = _conv(channels, 4, 3)
        self.conv_quality = _conv(channels, 1, 3)
        init_prior_bias(self.conv_cls, prior_prob)

    @classmethod
    def from_config(cls, cfg, input_shape: list[ShapeSpec]):
        retinanet = cfg.MODEL.RETINANET
        return {
            "input_shape": input_shape,
            "num_classes": retinanet.NUM_CLASSES,
            "num_convs": retinanet.NUM_CONVS,
            "norm": retinanet.NORM,
            "prior_prob": retinanet.PRIOR_PROB,
            "kaiming_init": cfg.MODEL.DYNAMIC_ANCHOR.KAIMING_INIT,
        }

    def forward(self, features: list[Tensor]) -> list[Prediction]:
        """
        Args:
            features (list[Tensor]): a (N, C, H, W) feature per level.

        Returns:
            list[Prediction]: one per level.
        """
        predictions = []
        for x, scale in zip(features, self.scales, strict=True):
            tower = self.anchor_convs(x)
            shape = self.conv_anchor(tower).float()
            fused = self.fuse(self.feature_attention(x, shape), tower)
            branches = (self.conv_cls, self.conv_reg, self.conv_quality)
            outputs = (flatten_hw(branch(fused)).float() for branch in branches)
            predictions.append(Prediction(flatten_hw(scale(shape)), *outputs))
        return predictions

    def fuse(self, attention: Tensor, tower: Tensor) -> Tensor:
        """The feature of the class, box and quality branches, (N, C, H, W) as its sources."""
        both = torch.cat([self.fusion_conv_x(attention), self.fusion_conv_y(tower)], dim=1)
        return self.fusion(both)


@RPN_HEAD_REGISTRY.register()
class DynamicAnchorRPNHead(StandardRPNHead):
    """The RPN head with one anchor per location, of predicted shape.

    The shape comes from RPN's shared convolution; objectness and box see its output through a
    deformable convolution that the shape steers. There is no quality branch and no fusion.
    """

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int = 1,
        conv_dims: Sequence[int] = (-1,),
        num_levels: int = 5,
        prior_prob: float = 0.5,
        kaiming_init: bool = False,
    ):
        """
        Args:
            in_channels, conv_dims: see :class:`StandardRPNHead`.
            num_anchors (int): has no effect: there is one anchor per location. It is here for
                configs of :class:`StandardRPNHead`.
            num_levels (int): number of feature levels; each has its own scale of the shape.
            prior_prob (float): objectness that training starts from.
            kaiming_init (bool): see :class:`FeatureAdaption`.

        Raises:
            ValueError: if :class:`FeatureAdaption` does not take the channels.
        """
        super().__init__(in_channels=in_channels, num_anchors=1, conv_dims=conv_dims)
        init_prior_bias(self.objectness_logits, prior_prob)
        channels = self.objectness_logits.in_channels
        self.conv_anchor = _conv(channels, 2, 1)
        self.scales = nn.ModuleList(Scale() for _ in range(num_levels))
        self.feature_attention = FeatureAdaption(channels, channels, kaiming_init=kaiming_init)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        del ret["box_dim"]
        node = cfg.MODEL.DYNAMIC_ANCHOR
        return {
            **ret,
            "num_levels": len(input_shape),
            "prior_prob": node.RPN.PRIOR_PROB,
            "kaiming_init": node.KAIMING_INIT,
        }

    def forward(self, features: list[Tensor]) -> list[Prediction]:
        """
        Args:
            features (list[Tensor]): a (N, C, H, W) feature per level.

        Returns:
            list[Prediction]: one per level, without quality.

        Raises:
            ValueError: if there are not ``num_levels`` features.
        """
        if len(features) != len(self.scales):
            raise ValueError(
                f"DynamicAnchorRPNHead has num_levels={len(self.scales)}, but there are "
                f"{len(features)} feature maps. Set num_levels to {len(features)}."
            )
        predictions = []
        for x, scale in zip(features, self.scales, strict=True):
            t = self.conv(x)
            shape = self.conv_anchor(t).float()
            t = self.feature_attention(t, shape)
            branches = (self.objectness_logits, self.anchor_deltas)
            outputs = (flatten_hw(branch(t)).float() for branch in branches)
            predictions.append(Prediction(flatten_hw(scale(shape)), *outputs))
        return predictions


def _conv(in_channels: int, out_channels: int, kernel_size: int) -> nn.Conv2d:
    conv = nn.Conv2d(in_channels, out_channels, kernel_size, padding=kernel_size // 2)
    nn.init.normal_(conv.weight, std=0.01)
    nn.init.zeros_(conv.bias)
    return conv
