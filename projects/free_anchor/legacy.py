"""The published code's boxes, whose last pixel belongs to them (width = x1 - x0 + 1).

If one is added to x1 and y1, its arithmetic equals Detectron2's except for three things, which
this module implements: rounded anchors, clipping to the image, and resizing.
"""

import math

import torch
from detectron2.config import CfgNode
from detectron2.modeling.anchor_generator import BufferList, DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances
from torch import Tensor

from anchor_heads.modeling.preset_shape_checks import shapes_by_level


def cell_anchors(sizes: list[float], aspect_ratios: list[float], stride: int) -> Tensor:
    """Anchors around (0, 0) made as the published code makes them.

    A square of side ``stride`` is given each aspect ratio, its sides are rounded to whole pixels,
    and the result is scaled to each size.

    Args:
        sizes (list[float]): square roots of the areas before rounding, in pixels.
        aspect_ratios (list[float]): height / width.
        stride (int): pixels between two locations.

    Returns:
        Tensor: (sizes x aspect_ratios, 4) float32, sizes outermost as in Detectron2.
    """
    anchors = []
    for size in sizes:
        for aspect_ratio in aspect_ratios:
            width = round(math.sqrt(stride**2 / aspect_ratio))
            height = round(width * aspect_ratio)
            w, h = width * size / stride, height * size / stride
            anchors.append([-w / 2, -h / 2, w / 2, h / 2])
    return torch.tensor(anchors)


def round_cell_anchors(generator: DefaultAnchorGenerator, node: CfgNode) -> None:
    """Give a generator built from ``MODEL.ANCHOR_GENERATOR`` the published, rounded anchors."""
    sizes, ratios = (
        shapes_by_level(x, len(generator.strides)) for x in (node.SIZES, node.ASPECT_RATIOS)
    )
    generator.cell_anchors = BufferList(
        cell_anchors(*level) for level in zip(sizes, ratios, generator.strides, strict=True)
    )


def clip(boxes: Boxes, image_size: tuple[int, int]) -> None:
    """Clip to the image (height, width), in place, so that at least one pixel is left."""
    height, width = image_size
    x0, y0, x1, y1 = boxes.tensor.unbind(dim=1)
    limits = ((x0, 0, width - 1), (y0, 0, height - 1), (x1, 1, width), (y1, 1, height))
    for side, least, most in limits:
        side.clamp_(least, most)


def shift_resized(instances: Instances, input_size: tuple[int, int]) -> None:
    """Make resized boxes those of the published code, in place.

    It multiplies the last pixel by the ratio r of the sizes, where Detectron2 multiplies the end
    of the box: (x1 - 1) * r + 1 against x1 * r.

    Args:
        instances (Instances): detections, resized from ``input_size`` to their image size.
        input_size (tuple[int, int]): height and width of the model's input.
    """
    ratio_y, ratio_x = (
        out / inp for out, inp in zip(instances.image_size, input_size, strict=True)
    )
    boxes = instances.pred_boxes.tensor
    boxes[:, 2] += 1 - ratio_x
    boxes[:, 3] += 1 - ratio_y
