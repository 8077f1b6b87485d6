"""What Guided Anchoring predicts.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    C: channels of a feature
    K: number of classes
    n: number of chosen locations; a location is an index into the flattened (N, H, W)
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch.nn.functional as F
from detectron2.config import configurable
from detectron2.layers import ShapeSpec
from detectron2.modeling.meta_arch.retinanet import RetinaNetHead
from detectron2.modeling.proposal_generator.rpn import RPN_HEAD_REGISTRY, StandardRPNHead
from torch import Tensor, nn

from anchor_heads.anchor_generation import FeatureAdaption
from anchor_heads.layers import flatten_hw, init_prior_bias, neighborhood_3x3, sparse_conv3x3


class AnchorPrediction(NamedTuple):
    """Location and shape of a level's anchors, and the features of the class and box branches."""

    location: Tensor
    """(N, 1, H, W) float32 logits of the probability that an object has its centre there."""
    shape: Tensor
    """(N, 2, H, W) float32, from which the width and height of the anchor follow."""
    features: tuple[Tensor, ...]
    """One (N, C, H, W) feature for each prediction, not adapted yet."""


class GuidedHead(nn.Module):
    """What the heads of the proposal generator and of the detector have in common.

    :meth:`forward` predicts where anchors are, and of which shape. The class and box branches then
    classify and regress the anchors, at all locations (:meth:`predict`) or at some
    (:meth:`predict_at`).
    """

    def _add_anchor_prediction(self, channels: int, prior_prob: float) -> None:
        self.conv_loc = nn.Conv2d(channels, 1, kernel_size=1)
        self.conv_shape = nn.Conv2d(channels, 2, kernel_size=1)
        for layer in (self.conv_loc, self.conv_shape):
            nn.init.normal_(layer.weight, std=0.01)
            nn.init.zeros_(layer.bias)
        init_prior_bias(self.conv_loc, prior_prob)

    @classmethod
    def from_config(cls, cfg, input_shape):
        ret = super().from_config(cfg, input_shape)
        ret.pop("box_dim", None)
        node = cfg.MODEL.GUIDED_ANCHOR
        return {
            **ret,
            "location_prior_prob": node.LOCATION_PRIOR_PROB,
            "kaiming_init": node.KAIMING_INIT,
        }

    def forward(self, features: list[Tensor]) -> list[AnchorPrediction]:
        """
        Args:
            features (list[Tensor]): a (N, C, H, W) feature per level.

        Returns:
            list[AnchorPrediction]: one per level.
        """
        raise NotImplementedError

    def predict(self, prediction: AnchorPrediction) -> tuple[Tensor, Tensor]:
        """
        Returns:
            Tensor: (N, H*W, K) float32 logits; K = 1, objectness, in the proposal generator.
            Tensor: (N, H*W, 4) float32 deltas of boxes.
        """
        raise NotImplementedError

    def predict_at(self, prediction: AnchorPrediction, locations: Tensor) -> tuple[Tensor, Tensor]:
        """What :meth:`predict` has at (n,) locations, computed only as far as needed for that.

        Returns:
            Tensor: (n, K) float32 logits.
            Tensor: (n, 4) float32 deltas.
        """
        raise NotImplementedError


@RPN_HEAD_REGISTRY.register()
class GuidedAnchorRPNHead(GuidedHead, StandardRPNHead):
    """The RPN head with one anchor per location, and its shape (paper: GA-RPN)."""

    @configurable
    def __init__(
        self,
        *,
        in_channels: int,
        num_anchors: int = 1,
        conv_dims: Sequence[int] = (-1,),
        location_prior_prob: float = 0.01,
        prior_prob: float = 0.5,
        kaiming_init: bool = False,
    ):
        """
        Args:
            in_channels, conv_dims: see :class:`StandardRPNHead`.
            num_anchors (int): has no effect: there is one anchor per location. It is here for
                configs of :class:`StandardRPNHead`.
            location_prior_prob (float): location probability that training starts from.
            prior_prob (float): objectness that training starts from.
            kaiming_init (bool): see :class:`FeatureAdaption`.

        Raises:
            ValueError: if :class:`FeatureAdaption` does not take the channels.
        """
        super().__init__(in_channels=in_channels, num_anchors=1, conv_dims=conv_dims)
        init_prior_bias(self.objectness_logits, prior_prob)
        channels = self.objectness_logits.in_channels
        self._add_anchor_prediction(channels, location_prior_prob)
        self.feature_adaption = FeatureAdaption(channels, channels, kaiming_init=kaiming_init)

    @classmethod
    def from_config(cls, cfg, input_shape):
        return {
            **super().from_config(cfg, input_shape),
            "prior_prob": cfg.MODEL.GUIDED_ANCHOR.RPN.PRIOR_PROB,
        }

    def forward(self, features):
        predictions = []
        for x in features:
            t = self.conv(x)
            predictions.append(
                AnchorPrediction(self.conv_loc(t).float(), self.conv_shape(t).float(), (t,))
            )
        return predictions

    def predict(self, prediction):
        (t,) = prediction.features
        t = self.feature_adaption(t, prediction.shape)
        return tuple(
            flatten_hw(layer(t)).float() for layer in (self.objectness_logits, self.anchor_deltas)
        )

    def predict_at(self, prediction, locations):
        (t,) = prediction.features
        t = self.feature_adaption.forward_sparse(t, prediction.shape, locations)
        return tuple(
            F.linear(t, layer.weight.flatten(1), layer.bias).float()
            for layer in (self.objectness_logits, self.anchor_deltas)
        )


class GuidedAnchorRetinaNetHead(GuidedHead, RetinaNetHead):
    """The RetinaNet head with one anchor per location, and its shape (paper: GA-RetinaNet).

    Location comes from the tower of the classes, shape from that of the boxes.
    """

    @configurable
    def __init__(
        self,
        *,
        input_shape: list[ShapeSpec],
        num_classes: int,
        num_anchors: int = 1,
        conv_dims: Sequence[int] = (256, 256, 256, 256),
        norm: str = "",
        prior_prob: float = 0.01,
        location_prior_prob: float = 0.01,
        kaiming_init: bool = False,
    ):
        """
        Args:
            input_shape, num_classes, conv_dims, norm, prior_prob: see :class:`RetinaNetHead`.
            num_anchors (int): has no effect: there is one anchor per location. It is here for
                configs of :class:`RetinaNetHead`.
            location_prior_prob (float): location probability that training starts from.
            kaiming_init (bool): see :class:`FeatureAdaption`.

        Raises:
            ValueError: if :class:`FeatureAdaption` does not take the channels.
        """
        super().__init__(
            input_shape=input_shape,
            num_classes=num_classes,
            num_anchors=1,
            conv_dims=conv_dims,
            norm=norm,
            prior_prob=prior_prob,
        )
        channels = self.cls_score.in_channels
        self._add_anchor_prediction(channels, location_prior_prob)
        self.feature_adaption_cls, self.feature_adaption_reg = (
            FeatureAdaption(channels, channels, kaiming_init=kaiming_init) for _ in range(2)
        )

    def forward(self, features):
        predictions = []
        for x in features:
            t_cls, t_reg = self.cls_subnet(x), self.bbox_subnet(x)
            location, shape = self.conv_loc(t_cls).float(), self.conv_shape(t_reg).float()
            predictions.append(AnchorPrediction(location, shape, (t_cls, t_reg)))
        return predictions

    def _branches(self, prediction):
        adaptions = (self.feature_adaption_cls, self.feature_adaption_reg)
        return zip(prediction.features, adaptions, (self.cls_score, self.bbox_pred), strict=True)

    def predict(self, prediction):
        return tuple(
            flatten_hw(layer(adaption(t, prediction.shape))).float()
            for t, adaption, layer in self._branches(prediction)
        )

    def predict_at(self, prediction, locations):
        n, _, height, width = prediction.shape.shape
        read, neighbours = neighborhood_3x3(locations, (n, height, width))
        return tuple(
            sparse_conv3x3(
                adaption.forward_sparse(t, prediction.shape, read),
                neighbours,
                layer.weight,
                layer.bias,
            ).float()
            for t, adaption, layer in self._branches(prediction)
        )
