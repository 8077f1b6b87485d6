"""What of the configs in ``configs/own_data`` depends on the shapes of a data set's objects.

Shape shorthand in this module:

    M: number of objects
"""

import numpy as np
from detectron2.config import CfgNode

# Guided Anchoring's shape samples: the median aspect ratio of the objects times these.
SAMPLED_FACTORS = (0.25, 0.5, 1.0, 2.0, 4.0)


def median_aspect_ratio(sides: np.ndarray) -> float:
    """Height over width in the median of (M, 2) widths and heights, to two digits; 1 without
    objects."""
    sides = sides[(sides > 0).all(axis=1)]
    if len(sides) == 0:
        return 1.0
    return float(f"{np.median(sides[:, 1] / sides[:, 0]):.2g}")


def recipe(cfg: CfgNode, sides: np.ndarray) -> dict[str, object]:
    """The keys that predicted anchors should have for a data set, over those of a config of
    ``configs/own_data``.

    Args:
        cfg (CfgNode): the config. Of other methods nothing is changed: what their anchors should be
            is said by ``anchor-heads diagnose`` itself.
        sides (ndarray): (M, 2) widths and heights of the objects, in pixels of the network's input.

    Returns:
        dict[str, object]: config keys and their values.
    """
    ratio = median_aspect_ratio(sides)
    name = cfg.MODEL.META_ARCHITECTURE + cfg.MODEL.PROPOSAL_GENERATOR.NAME
    if "DynamicAnchor" in name:
        return {"MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO": ratio}
    if "GuidedAnchor" in name:
        samples = [float(f"{factor * ratio:.2g}") for factor in SAMPLED_FACTORS]
        return {
            "MODEL.GUIDED_ANCHOR.BASE_ASPECT_RATIO": ratio,
            "MODEL.ANCHOR_GENERATOR.ASPECT_RATIOS": [samples],
        }
    return {}
