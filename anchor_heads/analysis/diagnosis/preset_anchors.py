"""The preset shapes of a model, and which objects its anchors reach with them or with others."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from anchor_heads.analysis.diagnosis.training_data import Objects
from anchor_heads.anchor_generation.strategy import AnchorStrategy, Coverage


def per_level(values: Sequence, num_levels: int) -> list[list[float]]:
    """Sizes or aspect ratios of the config, where one list stands for all levels."""
    lists = values if isinstance(values[0], (list, tuple)) else [values]
    return [list(x) for x in (lists * num_levels if len(lists) == 1 else lists)]


@dataclass(frozen=True)
class PresetAnchors:
    """Anchor sizes and aspect ratios per level, as a strategy uses them."""

    strategy: AnchorStrategy
    sizes: Sequence[Sequence[float]]
    """Square roots of the areas in pixels, per level."""
    aspect_ratios: Sequence[Sequence[float]]
    """Heights over widths, per level."""

    @classmethod
    def from_config(cls, cfg: CfgNode, strategy: AnchorStrategy) -> "PresetAnchors":
        node, number = cfg.MODEL.ANCHOR_GENERATOR, len(strategy.in_features)
        return cls(strategy, *(per_level(node[x], number) for x in ("SIZES", "ASPECT_RATIOS")))

    @property
    def levels(self) -> list[str]:
        """The names of the feature maps."""
        return self.strategy.in_features

    @property
    def strides(self) -> list[int]:
        """Pixels from one location to the next, per level."""
        return self.strategy.generator.strides

    @property
    def smallest(self) -> list[float]:
        """The smallest size of each level."""
        return [min(level) for level in self.sizes]

    @cached_property
    def generator(self) -> DefaultAnchorGenerator:
        """A generator of these shapes."""
        return DefaultAnchorGenerator(
            sizes=self.sizes,
            aspect_ratios=self.aspect_ratios,
            strides=self.strides,
            offset=self.strategy.generator.offset,
        )

    def coverage(self, objects: Objects) -> Coverage:
        """Which of the objects the anchors reach, as arrays."""
        parts = [
            self.strategy.coverage(
                torch.tensor(chunk.boxes),
                torch.tensor(chunk.image_sizes[:, ::-1].copy()),
                self.generator,
            )
            for chunk in objects.chunks()
        ]
        joined = {
            name: torch.cat([vars(part)[name] for part in parts]).numpy()
            for name in ("iou", "centered_iou", "levels", "reached")
        }
        return Coverage(**joined, threshold=parts[0].threshold)

    def anchors_per_image(self, image_sizes: np.ndarray) -> np.ndarray:
        """(I,) of images of these widths and heights, (I, 2)."""
        numbers = zip(self.strides, self.generator.num_anchors, strict=True)
        return sum(np.ceil(image_sizes / stride).prod(axis=1) * n for stride, n in numbers)
