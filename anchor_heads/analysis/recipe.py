"""What of a config with predicted anchors depends on the shapes of a data set's objects.

Shape shorthand in this module:

    M: number of objects
"""

import numpy as np

from anchor_heads.anchor_generation import AnchorStrategy


def median_aspect_ratio(sides: np.ndarray) -> float:
    """Height over width in the median of (M, 2) widths and heights, to two digits; 1 without
    objects."""
    sides = sides[(sides > 0).all(axis=1)]
    if len(sides) == 0:
        return 1.0
    return float(f"{np.median(sides[:, 1] / sides[:, 0]):.2g}")


def recipe(strategy: AnchorStrategy, sides: np.ndarray) -> dict[str, object]:
    """The keys that predicted anchors should have for a data set, over those of a config of
    ``configs/own_data``: they start from the objects' median shape.

    Args:
        strategy (AnchorStrategy): the model's.
        sides (ndarray): (M, 2) widths and heights of the objects.

    Returns:
        dict[str, object]: config keys and their values; none for preset anchors.
    """
    return strategy.keys_for_aspect_ratio(median_aspect_ratio(sides))
