"""The preset shapes of a model's anchors, which objects they reach, and better ones."""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator

from anchor_heads.analysis.diagnosis.training_data import Objects
from anchor_heads.anchor_generation.strategy import AnchorStrategy, Coverage
from anchor_heads.modeling.preset_shape_checks import shapes_by_level

SIZES, ASPECT_RATIOS = "MODEL.ANCHOR_GENERATOR.SIZES", "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS"

# Objects whose overlaps with anchors are computed at a time.
CHUNK = 2**14
# Shapes are tried on so many objects; what is said about them is counted on all.
SAMPLE = 2000
# Factors of the finest and of the coarsest level's sizes, in half octaves.
HALF_OCTAVES = range(-6, 5)
# Sizes are rated by the share of objects that they do not reach. Each half octave away from the
# present ones counts as this share, and all levels being without objects as the second.
COST_OF_HALF_OCTAVE, COST_OF_EMPTY_LEVELS = 0.001, 0.05
LEAST_STEP = 1.4  # from level to level, unless it is less now: closer levels have the same objects
# Aspect ratios are added until they leave this share of the objects, or there are so many new ones.
FEW_LEFT, MAX_NEW_ASPECT_RATIOS = 0.1, 4


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
        node = cfg.MODEL.ANCHOR_GENERATOR
        sizes, aspect_ratios = (
            shapes_by_level(x, len(strategy.in_features)) for x in (node.SIZES, node.ASPECT_RATIOS)
        )
        return cls(strategy, sizes, aspect_ratios)

    @cached_property
    def generator(self) -> DefaultAnchorGenerator:
        """A generator of these shapes."""
        return DefaultAnchorGenerator(
            sizes=self.sizes,
            aspect_ratios=self.aspect_ratios,
            strides=self.strategy.generator.strides,
            offset=self.strategy.generator.offset,
        )

    def coverage(self, objects: Objects) -> Coverage:
        """Which of the objects the anchors reach, as arrays."""
        boxes, sizes = torch.tensor(objects.boxes), torch.tensor(objects.image_sizes).flip(1)
        chunks = zip(boxes.split(CHUNK), sizes.split(CHUNK), strict=True)
        parts = [self.strategy.coverage(*chunk, self.generator) for chunk in chunks]
        joined = {
            name: torch.cat([vars(part)[name] for part in parts]).numpy()
            for name in ("iou", "centered_iou", "levels", "reached")
        }
        return Coverage(**joined, threshold=parts[0].threshold)

    def fitted_sizes(self, objects: Objects, keep_finest: bool = False) -> "PresetAnchors":
        """The same with sizes that reach most objects and leave few levels without any.

        The finest and the coarsest level are scaled, those between them in proportion; the sizes
        within a level keep their ratios.

        Args:
            objects (Objects): to reach.
            keep_finest (bool): whether the finest level keeps its sizes.
        """
        sample, steps = objects.sample(SAMPLE), _steps(self.sizes)

        def cost(half_octaves):
            tried = self._scaled(half_octaves)
            if (_steps(tried.sizes) < np.minimum(steps, LEAST_STEP)).any():
                return np.inf
            coverage = tried.coverage(sample)
            return (
                (~coverage.reached).mean()
                + COST_OF_EMPTY_LEVELS * (~coverage.levels.any(axis=0)).mean()
                + COST_OF_HALF_OCTAVE * sum(map(abs, half_octaves))
            )

        finest = (0,) if keep_finest else HALF_OCTAVES
        return self._scaled(min(itertools.product(finest, HALF_OCTAVES), key=cost))

    def _scaled(self, half_octaves):
        """Sizes scaled by so much on the finest and on the coarsest level."""
        factors = 2 ** (np.linspace(*half_octaves, len(self.sizes)) / 2)
        levels = zip(self.sizes, factors, strict=True)
        return replace(
            self, sizes=[[_rounded(x * factor) for x in level] for level, factor in levels]
        )

    def with_aspect_ratios_of(self, objects: Objects) -> "PresetAnchors":
        """The same with more aspect ratios: again and again the median of the objects that are
        still missed, of the tall ones or of the wide ones, whichever are more."""
        anchors, missed = self, objects
        for _ in range(MAX_NEW_ASPECT_RATIOS):
            logs = np.log2(missed.aspect_ratios)
            ratio = 2 ** np.median(logs[(logs > 0) == (np.median(logs) > 0)])
            ratios = [sorted({*level, float(f"{ratio:.2g}")}) for level in anchors.aspect_ratios]
            anchors = replace(anchors, aspect_ratios=ratios)
            coverage = anchors.coverage(missed)
            missed = missed[coverage.centered_iou < coverage.threshold]
            if len(missed) <= FEW_LEFT * len(objects):
                break
        return anchors


def _steps(sizes) -> np.ndarray:
    """The factor from each level's smallest size to the next level's."""
    smallest = np.array([min(level) for level in sizes])
    return smallest[1:] / smallest[:-1]


def _rounded(size):
    return round(float(size)) if size >= 10 else round(float(size), 1)
