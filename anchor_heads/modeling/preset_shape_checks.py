"""The preset anchor shapes of a config."""

import math
from collections.abc import Iterator, Sequence

from detectron2.config import CfgNode


def check_preset_shapes(cfg: CfgNode) -> None:
    """Refuse anchor sizes and aspect ratios that no anchor can have.

    Detectron2 takes negative sizes for positive ones, trains with sizes of 0, and ends in
    "math domain error" for ratios.

    Args:
        cfg (CfgNode): its ``MODEL.ANCHOR_GENERATOR`` is checked.

    Raises:
        ValueError: if a size or an aspect ratio is not a finite number above 0, a level has none,
            or levels have different numbers of anchors per location.
    """
    for name in ("SIZES", "ASPECT_RATIOS"):
        levels = shapes_by_level(cfg.MODEL.ANCHOR_GENERATOR[name])
        if not all(levels) or not all(is_number(x) and 0 < x < math.inf for y in levels for x in y):
            raise ValueError(
                f"MODEL.ANCHOR_GENERATOR.{name} are {cfg.MODEL.ANCHOR_GENERATOR[name]}; each must "
                "be a finite number above 0."
            )
    node = cfg.MODEL.ANCHOR_GENERATOR
    num_levels = max(len(shapes_by_level(x)) for x in (node.SIZES, node.ASPECT_RATIOS))
    sizes, ratios = (shapes_by_level(x, num_levels) for x in (node.SIZES, node.ASPECT_RATIOS))
    counts = [len(x) * len(y) for x, y in zip(sizes, ratios, strict=False)]
    if len(set(counts)) > 1:
        raise ValueError(
            f"MODEL.ANCHOR_GENERATOR: the levels have {counts} sizes times aspect ratios. Every "
            "level needs the same number."
        )


def shapes_by_level(
    values: Sequence[float] | Sequence[Sequence[float]], num_levels: int = 1
) -> list[list[float]]:
    """The sizes or aspect ratios of each level; one list of numbers, or a list with one such list,
    is for all levels, as in Detectron2."""
    is_by_level = values and all(isinstance(x, (list, tuple)) for x in values)
    levels = [list(x) for x in (values if is_by_level else [values])]
    return levels * num_levels if len(levels) == 1 else levels


def flattened(values) -> Iterator:
    """The entries of lists in lists, in order."""
    for value in values:
        yield from flattened(value) if isinstance(value, (list, tuple)) else (value,)


def is_number(value) -> bool:
    """Whether a value is an integer or a float."""
    return isinstance(value, (int, float))
