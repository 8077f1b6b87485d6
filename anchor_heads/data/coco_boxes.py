"""Boxes of annotation files: cleaned, and looked at for having been written in another format.

Shape shorthand in this module:

    n: number of annotations
"""

from typing import NamedTuple

import numpy as np

MIN_SIDE = 0.01  # pixels; a narrower box may have no width left once it is float32
CLIP_TOLERANCE = 0.01  # pixels; boxes that stick out by rounding alone are not worth a warning

# Formats that boxes are taken for when they are not (x, y, width, height) in pixels.
CORNERS = "(x0, y0, x1, y1), two corners"
CENTRES = "(x, y, width, height) with the centre of the box as x, y"
NORMALISED = "shares of the image's sides, from 0 to 1"

# Boxes by which a format in pixels can be told.
_MIN_BOXES = 4
# From this share of boxes outside their image on, they are likely of another format.
_MANY_OUTSIDE = 0.1
# That format has to place this share of them inside.
_NEARLY_ALL = 0.98
_PIXEL = 1.0  # by rounding, and where coordinates are counted from 1
# The sides of images that no pixel coordinates from 0 to 1 are expected in.
_SMALL_IMAGE = 16


class CleanedBoxes(NamedTuple):
    """Boxes clipped to their images."""

    boxes: np.ndarray
    """(n, 4) x, y, width and height."""
    has_size: np.ndarray
    """(n,) whether the box had a width and a height."""
    is_inside: np.ndarray
    """(n,) whether any of it is in the image."""
    is_clipped: np.ndarray
    """(n,) whether some of it was outside, more than by rounding."""
    is_changed: np.ndarray
    """(n,) whether anything of it was outside."""


def clean_boxes(boxes: np.ndarray, image_sizes: np.ndarray) -> CleanedBoxes:
    """Clip boxes to their images, and tell which cannot be used.

    Args:
        boxes (ndarray): (n, 4) x, y, width and height in pixels.
        image_sizes (ndarray): (n, 2) width and height of the image of each.
    """
    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)  # (n, 2, 2)
    clipped = np.clip(corners, 0, image_sizes[:, None])
    cut = np.abs(clipped - corners).max((1, 2))  # pixels
    sides = clipped[:, 1] - clipped[:, 0]
    return CleanedBoxes(
        boxes=np.concatenate([clipped[:, 0], sides], 1),
        has_size=(boxes[:, 2:] >= MIN_SIDE).all(1),
        is_inside=(sides >= MIN_SIDE).all(1),
        is_clipped=cut > CLIP_TOLERANCE,
        is_changed=cut > 0,
    )


def likely_format(boxes: np.ndarray, image_sizes: np.ndarray) -> str | None:
    """The format that boxes are likely to be written in, if it is not COCO's.

    A format is likely if COCO's makes many boxes leave their image and this one almost none, or if
    there are no other coordinates than from 0 to 1.

    Args: see :func:`clean_boxes`.

    Returns:
        str or None: CORNERS, CENTRES or NORMALISED; None for (x, y, width, height) in pixels, and
        where nothing fits.
    """
    if len(boxes) and (np.abs(boxes) <= 1).all() and (image_sizes > _SMALL_IMAGE).all():
        return NORMALISED
    if len(boxes) < _MIN_BOXES:
        return None
    first, second = boxes[:, :2], boxes[:, 2:]
    if _inside(first, first + second, image_sizes).mean() > 1 - _MANY_OUTSIDE:
        return None
    for name, start, end in (
        (CORNERS, first, second),
        (CENTRES, first - second / 2, first + second / 2),
    ):
        fits = _inside(start, end, image_sizes) & (end > start).all(1)
        if fits.mean() >= _NEARLY_ALL:
            return name
    return None


def _inside(start, end, image_sizes):
    """(n,) whether boxes with these corners, (n, 2) each, are in their images."""
    return ((start >= -_PIXEL) & (end <= image_sizes + _PIXEL)).all(1)
