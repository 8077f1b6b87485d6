"""Dynamic Anchor's anchor strategy: one predicted anchor per location, with its shape target.

Shape shorthand in this module:

    N: number of images
    H, W: height and width of a feature level
    R: number of locations of one image, over all levels
    M: number of objects
    n: number of locations of all images that have a shape target
"""

import math
from typing import NamedTuple

import torch
from detectron2.config import CfgNode, configurable
from detectron2.structures import Instances
from torch import Tensor, nn

from anchor_heads.anchor_generation import (
    SquareGenerator,
    build_square_generator,
    decode_shapes,
    shape_scale,
)
from anchor_heads.anchor_generation.predicted_anchor_strategy import PredictedAnchorStrategy
from anchor_heads.anchor_generation.shaped_anchors import map_size, smallest_sizes
from anchor_heads.anchor_generation.strategy import (
    Assignment,
    ConfigProblem,
    Coverage,
    LevelAnchors,
)
from anchor_heads.modeling.distributed import loss_normalizer
from anchor_heads.modeling.matching import of_matched
from anchor_heads.modeling.statistics import put_scalars

from .head import Prediction
from .losses import shape_loss
from .targets import ShapeTargets, locations_by_center, objects_by_center, shape_targets

# Below the centerness of all but locations on an object's edge, so that sums of it are divided by
# themselves.
LEAST_CENTERNESS = 1e-6

# The smallest sizes of the levels in Detectron2's configs of RetinaNet and of RPN on a pyramid.
DETECTRON2_SIDES = [32, 64, 128, 256, 512]
# The side of the published squares, in strides.
SIDE_IN_STRIDES = 16


class ShapeAssignment(NamedTuple):
    """The locations that have a shape target."""

    mask: Tensor
    """(N, R) bool, n of them True."""
    locations: Tensor
    """(n,) int64, the same as indices into the flattened (N, R)."""
    matched_idxs: Tensor
    """(n,) int64, the object of the image that each is assigned to."""
    centers: Tensor
    """(n, 2) in pixels."""
    half_sides: Tensor
    """(n, 2) half the width and height of the square at each, in pixels."""
    targets: ShapeTargets
    """Their targets."""


def level_distances(sides: list[float]) -> list[tuple[float, float]]:
    """How far the farthest side of a level's objects is from the location, at least and at most.

    The range of a level is between half the side of the squares of the level before it and
    half the side of its own.

    Args:
        sides (list[float]): sides of the squares of each level in pixels, ascending.
    """
    borders = [side / 2 for side in sides[:-1]]
    return list(zip([-math.inf, *borders], [*borders, math.inf], strict=True))


class DynamicAnchoring(nn.Module):
    """Dynamic anchors and their shape targets.

    It is the part that the detector and the proposal generator share; it has no parameters.
    """

    @configurable
    def __init__(
        self,
        *,
        square_generator: SquareGenerator,
        center_radius: float = 2.0,
        level_by_short_side: bool = False,
        shape_loss_weight: float = 1.0,
    ):
        """
        Args:
            square_generator (SquareGenerator): generator of one square per location.
            center_radius (float): how far from an object's centre it is a shape target, in strides.
            level_by_short_side (bool): see :func:`locations_by_center`.
            shape_loss_weight (float): factor of the loss.

        Raises:
            ValueError: if ``center_radius`` is not above 0.
        """
        super().__init__()
        if not center_radius > 0:
            raise ValueError(
                f"center_radius is {center_radius}; it must be above 0, or no location has "
                "a shape target."
            )
        self.square_generator = square_generator
        self.center_radius = center_radius
        self.level_by_short_side = level_by_short_side
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
            "square_generator": build_square_generator(cfg, strides, node.BASE_ASPECT_RATIO),
            "center_radius": node.CENTER_RADIUS,
            "level_by_short_side": node.LEVEL_BY_SHORT_SIDE,
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
    def shape_assignment(
        self, features: list[Tensor], gt_instances: list[Instances]
    ) -> ShapeAssignment:
        """Assign the locations of N images to objects, and make their shape targets.

        Args:
            features (list[Tensor]): (N, C, H, W) per level.
            gt_instances (list[Instances]): N of them, with "gt_boxes".
        """
        squares = torch.cat([level.tensor for level in self.square_generator(features)])
        gt_boxes = [gt.gt_boxes.tensor for gt in gt_instances]
        generator = self.square_generator
        objects = objects_by_center(
            gt_boxes,
            [tuple(x.shape[2:]) for x in features],
            generator.strides,
            generator.offset,
            self.center_radius,
            level_distances(generator.sides),
            self.level_by_short_side,
        )
        mask = objects >= 0
        chosen = mask.flatten().nonzero()[:, 0]
        upper_left, lower_right = squares[chosen % len(squares)].split(2, dim=1)
        centers = (upper_left + lower_right) / 2
        boxes = of_matched(gt_boxes, objects.clamp(min=0)).flatten(0, 1)[chosen]
        return ShapeAssignment(
            mask,
            chosen,
            objects.flatten()[chosen],
            centers,
            (lower_right - upper_left) / 2,
            shape_targets(centers, boxes),
        )

    def loss(self, predictions: list[Prediction], assignment: ShapeAssignment) -> Tensor:
        """The loss of the shapes, weighted by centerness.

        Args:
            predictions (list[Prediction]): one per level.
            assignment (ShapeAssignment): see :meth:`shape_assignment`.

        Returns:
            Tensor: scalar.
        """
        targets = assignment.targets
        count = assignment.mask.sum(dim=1).float().mean()
        put_scalars({"dynamic_anchor/num_shapes": count})
        shapes = torch.cat([prediction.shape for prediction in predictions], dim=1)
        shapes = shapes.flatten(0, 1)[assignment.locations]
        # In units of the squares: the IoU is the same, and there is less to lose in float32.
        loss = shape_loss(shape_scale(shapes), targets.half_sizes / assignment.half_sides)
        loss = loss * targets.centerness
        total = targets.centerness.sum()
        normalizer = loss_normalizer(total, loss.device, least=LEAST_CENTERNESS)
        return self.shape_loss_weight * loss.sum() / normalizer


class DynamicAnchorStrategy(PredictedAnchorStrategy):
    """One anchor of predicted shape at every location."""

    starts_from_sizes = True
    consequence = "they have no shape targets"

    def keys_for_aspect_ratio(self, ratio):
        return {
            "MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO": ratio,
            "MODEL.DYNAMIC_ANCHOR.LEVEL_BY_SHORT_SIDE": True,
        }

    def config_problems(self):
        squares = self.owner.dynamic_anchoring.square_generator
        if squares.sides != DETECTRON2_SIDES:
            return super().config_problems()
        problem = ConfigProblem(
            "The anchor sizes are those of Detectron2's preset anchors. Here they decide which "
            "level an object is assigned to. They are smaller than the published "
            f"{SIDE_IN_STRIDES} strides, so that objects go to coarser levels.",
            {
                "MODEL.ANCHOR_GENERATOR.SIZES": [[SIDE_IN_STRIDES * x] for x in squares.strides],
                "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [[1.0]],
            },
        )
        return [problem, *super().config_problems()]

    def _level_anchors(self, features, predictions, image_size):
        levels = []
        anchors = self.owner.dynamic_anchoring.anchors(features, predictions)
        for name, boxes, prediction in zip(self.in_features, anchors, predictions, strict=True):
            scores = prediction.logits.sigmoid()
            if prediction.quality is not None:
                scores = scores * prediction.quality.sigmoid()
            num_locations = boxes.shape[1]
            scores = scores[0].amax(dim=1)
            levels.append(LevelAnchors(name, boxes[0], scores, num_locations, num_locations))
        return levels

    def _assignments(self, features, predictions, image_size, objects):
        anchoring = self.owner.dynamic_anchoring
        anchors = torch.cat(anchoring.anchors(features, predictions), dim=1)[0]
        valid = anchoring.square_generator.valid_mask(features, [image_size])
        shapes = anchoring.shape_assignment(features, [objects])
        targets = shapes.targets
        centers, half_sizes = shapes.centers, targets.half_sizes
        return [
            Assignment(
                rule="shape, by centre and size",
                boxes=torch.cat([centers - half_sizes, centers + half_sizes], dim=1),
                matched_idxs=shapes.matched_idxs,
                scores=targets.centerness,
                score_name="centerness",
                num_anchors=len(anchors),
            ),
            self._class_and_box_assignment(anchors, valid, objects),
        ]

    def coverage(self, boxes, image_sizes, generator=None):
        """An object is assigned to a level if a location of it is inside the object, near its
        centre, and the distance to the farthest side is in the level's range. Any shape can be
        predicted."""
        anchoring = self.owner.dynamic_anchoring
        squares = anchoring.square_generator
        sides = squares.sides if generator is None else smallest_sizes(generator)
        generator = generator or squares
        iou = boxes.new_zeros(len(boxes), len(sides))
        levels = zip(generator.strides, level_distances(sides), strict=True)
        for i, (stride, distances) in enumerate(levels):
            rows, columns = map_size(image_sizes, stride).long().unbind(1)
            radius = anchoring.center_radius * stride
            inside, index = locations_by_center(
                boxes,
                (rows, columns),
                stride,
                generator.offset,
                radius,
                distances,
                anchoring.level_by_short_side,
            )
            objects = inside.nonzero()[:, 0]
            index, columns = index[inside], columns[objects]
            column_row = torch.stack([index % columns, index // columns], dim=1)
            points = (column_row + generator.offset) * stride
            quality = shape_targets(points, boxes[objects]).quality
            iou[:, i].scatter_reduce_(0, objects, quality, "amax")
        return Coverage(
            iou=iou.amax(dim=1),
            centered_iou=torch.ones_like(iou[:, 0]),
            levels=iou > 0,
            reached=(iou > 0).any(dim=1),
            threshold=0.0,
        )
