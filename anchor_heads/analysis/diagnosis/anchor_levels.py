"""Which objects the anchors of a config reach, and on which level. No model is built.

Shape shorthand in this module:

    M: number of objects
    L: number of feature levels
    A: number of anchor shapes of a level
    B: locations along x, or along y, that may be near the centre of an object
"""

import math
from dataclasses import dataclass
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_backbone
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator, _broadcast_params

from anchor_heads.analysis.diagnosis.model_kind import ModelKind
from anchor_heads.analysis.diagnosis.training_data import Objects

# FreeAnchor has no threshold. An anchor that overlaps an object less is taken for a poor candidate,
# as RetinaNet's matching takes it for background.
FREE_ANCHOR_IOU = 0.4
FREE_ANCHOR_GOOD_IOU = 0.5


class Coverage(NamedTuple):
    """What anchors can learn of M objects."""

    reached: np.ndarray
    """(M,) bool: whether the object has an anchor, or a location, that is there for it."""
    levels: np.ndarray
    """(M, L) bool: the levels that learn the object."""

    @property
    def num_unreached(self) -> int:
        return int((~self.reached).sum())

    @property
    def objects_per_level(self) -> np.ndarray:
        """(L,)"""
        return self.levels.sum(axis=0)


@dataclass(frozen=True)
class AnchorLevels:
    """Anchors of fixed shapes on L levels, matched with objects by their IoU."""

    names: list[str]
    """Of the feature maps."""
    strides: list[int]
    sizes: list[list[float]]
    """Square roots of the anchors' areas in pixels, per level."""
    aspect_ratios: list[list[float]]
    """Heights over widths, per level."""
    offset: float
    """Where the first anchor has its centre, in strides."""
    least_iou: float
    """An object that no anchor overlaps so much is not reached."""
    good_iou: float
    """A level learns an object if one of its anchors overlaps it so much, or best of all."""

    @cached_property
    def shapes(self) -> list[np.ndarray]:
        """(A, 2) widths and heights per level."""
        generator = DefaultAnchorGenerator(
            sizes=self.sizes, aspect_ratios=self.aspect_ratios, strides=self.strides
        )
        return [(x[:, 2:] - x[:, :2]).numpy() for x in generator.cell_anchors]

    @property
    def sides(self) -> list[float]:
        """The smallest size of each level."""
        return [min(level) for level in self.sizes]

    def reach(self, objects: Objects) -> Coverage:
        """Which of the objects are reached, by which levels."""
        parts = [self._reach(chunk) for chunk in objects.chunks()]
        return Coverage(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def best_iou(self, objects: Objects) -> np.ndarray:
        """(M, L) the best IoU that an anchor of each level has with each object."""
        ious = []
        for stride, shapes in zip(self.strides, self.shapes, strict=True):
            # The nearest location is the best one, whatever the shape.
            centers = (objects.boxes[:, :2] + objects.boxes[:, 2:]) / 2
            index = np.round(centers / stride - self.offset)
            index = np.clip(index, 0, self._cells(objects, stride) - 1)
            distances = np.abs((index + self.offset) * stride - centers)
            ious.append(_iou(objects.sides, shapes, distances).max(axis=1))
        return np.stack(ious, axis=1)

    def best_centered_iou(self, objects: Objects) -> np.ndarray:
        """(M,) the best IoU with anchors around the centre of the object itself."""
        shapes = np.concatenate(self.shapes)
        return np.concatenate(
            [_iou(x.sides, shapes, np.zeros_like(x.sides)).max(axis=1) for x in objects.chunks()]
        )

    def anchors_per_image(self, image_sizes: np.ndarray) -> np.ndarray:
        """(I,) of images of these widths and heights, (I, 2)."""
        return sum(
            np.ceil(image_sizes / stride).prod(axis=1) * len(shapes)
            for stride, shapes in zip(self.strides, self.shapes, strict=True)
        )

    def _reach(self, objects):
        iou = self.best_iou(objects)
        best = iou.max(axis=1, keepdims=True)
        return Coverage(best[:, 0] >= self.least_iou, (iou >= self.good_iou) | (iou == best))

    @staticmethod
    def _cells(objects, stride):
        """(M, 2) columns and rows of a level on the image of each object."""
        return np.ceil(objects.image_sizes / stride)


class GuidedLevels(AnchorLevels):
    """Guided Anchoring: fixed shapes stand for what a location could predict, and an object belongs
    to the level whose squares come closest to its size."""

    def _reach(self, objects):
        sides = np.log2(self.sides)
        level = np.digitize(np.log2(objects.sizes), (sides[1:] + sides[:-1]) / 2)
        reached = self.best_iou(objects).max(axis=1) >= self.least_iou
        return Coverage(reached, level[:, None] == np.arange(len(sides)))


@dataclass(frozen=True)
class DynamicLevels(AnchorLevels):
    """Dynamic Anchor: an object is learned at locations near its centre, on the levels that are
    there for the distance of its furthest side. Any shape can be predicted; no IoU counts."""

    center_radius: float
    """How near, in strides."""

    @property
    def distances(self) -> list[tuple[float, float]]:
        """The least and the greatest distance of the furthest side, in pixels, per level."""
        borders = [side / 2 for side in self.sides[:-1]]
        return list(zip([-math.inf, *borders], [*borders, math.inf], strict=True))

    def _reach(self, objects):
        levels = [
            self._learned(objects, stride, *limits)
            for stride, limits in zip(self.strides, self.distances, strict=True)
        ]
        levels = np.stack(levels, axis=1)
        return Coverage(levels.any(axis=1), levels)

    def _learned(self, objects, stride, least, greatest):
        """(M,) whether a location of the level learns the object, if no smaller one takes it."""
        low, high = (x[..., None] for x in np.split(objects.boxes, 2, axis=1))
        centers, radius = (low + high) / 2, self.center_radius * stride
        first = np.floor((centers - radius) / stride - self.offset)
        index = first + np.arange(math.ceil(2 * self.center_radius) + 2)  # (M, 2, B)
        points = (index + self.offset) * stride
        inside = (points > np.maximum(centers - radius, low)) & (
            points < np.minimum(centers + radius, high)
        )
        inside &= (index >= 0) & (index < self._cells(objects, stride)[..., None])
        # Of x and y the further side decides. So both have to be near enough, and one far enough.
        furthest = np.maximum(points - low, high - points)
        near_enough = inside & (furthest <= greatest)
        far_enough = near_enough & (furthest >= least)
        return near_enough.any(axis=2).all(axis=1) & far_enough.any(axis=(1, 2))


def build_anchor_levels(cfg: CfgNode, kind: ModelKind) -> AnchorLevels | None:
    """The anchors of a config.

    Returns:
        AnchorLevels or None: None if the model has no anchors that are upright boxes.
    """
    node = cfg.MODEL.ANCHOR_GENERATOR
    if kind.strategy is None or node.NAME != "DefaultAnchorGenerator":
        return None
    names = list((cfg.MODEL.RETINANET if kind.one_stage else cfg.MODEL.RPN).IN_FEATURES)
    with torch.device("meta"):  # only the strides are asked for
        features = build_backbone(cfg).output_shape()
    return _LEVELS[kind.strategy](
        cfg,
        kind,
        names=names,
        strides=[features[name].stride for name in names],
        sizes=[list(x) for x in _broadcast_params(node.SIZES, len(names), "sizes")],
        aspect_ratios=[
            list(x) for x in _broadcast_params(node.ASPECT_RATIOS, len(names), "aspect_ratios")
        ],
        offset=node.OFFSET,
    )


def _dense(cfg, kind, **anchors):
    thresholds = (cfg.MODEL.RETINANET if kind.one_stage else cfg.MODEL.RPN).IOU_THRESHOLDS
    return AnchorLevels(**anchors, least_iou=thresholds[0], good_iou=thresholds[-1])


def _free(cfg, kind, **anchors):
    return AnchorLevels(**anchors, least_iou=FREE_ANCHOR_IOU, good_iou=FREE_ANCHOR_GOOD_IOU)


def _guided(cfg, kind, **anchors):
    node = cfg.MODEL.GUIDED_ANCHOR
    node = node.RETINANET if kind.one_stage else node.RPN
    good_iou = node.SHAPE_IOU_THRESHOLDS[-1]
    return GuidedLevels(**anchors, least_iou=min(node.SHAPE_MIN_IOU, good_iou), good_iou=good_iou)


def _dynamic(cfg, kind, **anchors):
    radius = cfg.MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS
    return DynamicLevels(**anchors, least_iou=0.0, good_iou=0.0, center_radius=radius)


_LEVELS = {
    "Dense": _dense,
    "FreeAnchor": _free,
    "GuidedAnchor": _guided,
    "DynamicAnchor": _dynamic,
}


def _iou(sides, shapes, distances):
    """(m, A) IoU of m boxes with A shapes, given the distances (m, 2) of their centres."""
    overlap = np.float32(1)
    for axis in (0, 1):
        side, shape, distance = sides[:, axis, None], shapes[:, axis], distances[:, axis, None]
        along = np.minimum(np.minimum(side, shape), (side + shape) / 2 - distance)
        overlap = overlap * np.maximum(along, 0)
    return overlap / (sides.prod(axis=1)[:, None] + shapes.prod(axis=1) - overlap)
