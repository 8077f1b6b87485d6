"""From predictions to anchors, and what their shapes should have been.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    R: number of locations of one image, over all levels
    n: number of locations of all images that learn a shape
"""

import math
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor, nn

from anchor_heads.anchor_generation import (
    SquareGenerator,
    build_square_generator,
    decode_shapes,
    shape_scale,
)
from anchor_heads.modeling.distributed import loss_normalizer

from .head import Prediction
from .losses import shape_loss
from .targets import ShapeTargets, objects_by_center, shape_targets

# Below the centerness of any single location, so that sums of it are divided by themselves.
LEAST_CENTERNESS = 1e-6


class ShapeLearners(NamedTuple):
    """The locations that learn a shape."""

    mask: Tensor
    """(N, R) bool, n of them True."""
    half_sides: Tensor
    """(n, 2) half the width and height of the square at each, in pixels."""
    targets: ShapeTargets
    """What they should predict."""


class DynamicAnchoring(nn.Module):
    """Dynamic anchors, and what their shapes learn.

    It is the part that the detector and the proposal generator share; it has no parameters.
    """

    @configurable
    def __init__(
        self, *, square_generator: SquareGenerator, center_radius: float, shape_loss_weight: float
    ):
        """
        Args:
            square_generator (SquareGenerator): generator of one square per location.
            center_radius (float): how far from an object's centre its shape is learned, in strides.
            shape_loss_weight (float): factor of the loss.

        Raises:
            ValueError: if ``center_radius`` is not above 0.
        """
        super().__init__()
        if not center_radius > 0:
            raise ValueError(
                f"MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS is {center_radius}; it must be above 0, or no "
                "location learns a shape."
            )
        self.square_generator = square_generator
        self.center_radius = center_radius
        self.shape_loss_weight = shape_loss_weight

    @classmethod
    def from_config(cls, cfg: CfgNode, strides: list[int]):
        """
        Args:
            cfg (CfgNode): the config.
            strides (list[int]): pixels from one location to the next, per level.
        """
        node = cfg.MODEL.DYNAMIC_ANCHOR
        return {
            "square_generator": build_square_generator(cfg, strides),
            "center_radius": node.CENTER_RADIUS,
            "shape_loss_weight": node.SHAPE_LOSS_WEIGHT,
        }

    def anchors(self, features: list[Tensor], predictions: list[Prediction]) -> list[Tensor]:
        """The anchors of all locations.

        Args:
            features (list[Tensor]): (N, C, H, W) per level.
            predictions (list[Prediction]): one per level.

        Returns:
            list[Tensor]: (N, H*W, 4) per level, not clipped to the image.
        """
        squares = self.square_generator(features)
        return [
            decode_shapes(level.tensor, prediction.shape)
            for level, prediction in zip(squares, predictions, strict=True)
        ]

    @torch.no_grad()
    def shape_learners(
        self, features: list[Tensor], gt_instances: list[Instances]
    ) -> ShapeLearners:
        """Which locations learn a shape, and which one.

        Args:
            features (list[Tensor]): (N, C, H, W) per level.
            gt_instances (list[Instances]): N of them, with "gt_boxes".
        """
        squares = torch.cat([level.tensor for level in self.square_generator(features)])
        masks, chosen, boxes = [], [], []
        for gt in gt_instances:
            objects = self._objects(gt.gt_boxes.tensor, features)
            masks.append(objects >= 0)
            chosen.append(squares[masks[-1]])
            boxes.append(gt.gt_boxes.tensor[objects[masks[-1]]])
        upper_left, lower_right = torch.cat(chosen).split(2, dim=1)
        return ShapeLearners(
            torch.stack(masks),
            (lower_right - upper_left) / 2,
            shape_targets((upper_left + lower_right) / 2, torch.cat(boxes)),
        )

    def _objects(self, gt_boxes, features):
        """The object of each location of an image, (R,). A level is for the distances between half
        the side of the squares of the level before it and half the side of its own."""
        generator = self.square_generator
        borders = [side / 2 for side in generator.sides[:-1]]
        distances = zip([-math.inf, *borders], [*borders, math.inf], strict=True)
        return torch.cat(
            [
                objects_by_center(
                    gt_boxes,
                    tuple(x.shape[2:]),
                    stride,
                    generator.offset,
                    self.center_radius * stride,
                    limits,
                )
                for x, stride, limits in zip(features, generator.strides, distances, strict=True)
            ]
        )

    def loss(self, predictions: list[Prediction], learners: ShapeLearners) -> Tensor:
        """The loss of the shapes, weighted by centerness.

        Args:
            predictions (list[Prediction]): one per level.
            learners (ShapeLearners): see :meth:`shape_learners`.

        Returns:
            Tensor: scalar.
        """
        mask, half_sides, targets = learners
        counts = mask.sum(dim=1).float()
        get_event_storage().put_scalar("dynamic_anchor/num_shapes", counts.mean().item())
        shapes = torch.cat([prediction.shape for prediction in predictions], dim=1)[mask]
        # In units of the squares: the IoU is the same, and there is less to lose in float32.
        loss = shape_loss(shape_scale(shapes), targets.half_sizes / half_sides)
        loss = loss * targets.centerness
        total = targets.centerness.sum().item()
        normalizer = loss_normalizer(total, loss.device, least=LEAST_CENTERNESS)
        return self.shape_loss_weight * loss.sum() / normalizer
