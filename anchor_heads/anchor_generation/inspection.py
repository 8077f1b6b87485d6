"""Which anchors a model has for an image, and how much each of them counts.

A meta architecture or proposal generator whose anchors are special says so itself, in a method

    inspect_anchors(features, image_size, objects) -> InspectedAnchors

    features (list[Tensor]): the feature maps of one image, as its head takes them.
    image_size (tuple[int, int]): height and width of the image in them, in pixels.
    objects (Instances): with "gt_boxes" and "gt_classes", in the frame of ``image_size``.

Of Detectron2's own dense anchors those are shown that its matching gives to objects.

Shape shorthand in this module:

    H, W: height and width of a feature map
    n: number of anchors that are shown
    R: number of anchors of one image, over all levels
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch import Tensor, nn

from anchor_heads.modeling.distributed import unwrap
from anchor_heads.modeling.model_parts import anchor_part, head_features, preprocess


@dataclass(frozen=True)
class LocationMap:
    """How likely an object has its centre at each location of one level."""

    level: str
    """Name of the feature map."""
    probability: Tensor
    """(H, W), in [0, 1]."""
    threshold: float
    """There are anchors only where the probability is at least this."""
    stride: int
    """Pixels from one location to the next."""
    offset: float
    """Where the first location lies, as a share of the stride."""


@dataclass(frozen=True)
class InspectedAnchors:
    """Anchors of one image that are worth a look."""

    image_size: tuple[int, int]
    """Height and width of the network's input, without padding."""
    boxes: Tensor
    """(n, 4) in pixels of the network's input."""
    strength: Tensor
    """(n,) how much each anchor counts, in [0, 1]."""
    strength_name: str
    """What ``strength`` is, in a word or two."""
    caption: str
    """What these anchors are, and how many."""
    location_maps: list[LocationMap] = field(default_factory=list)
    """One per level, of methods that predict where anchors are; else empty."""


def anchor_source(model: nn.Module) -> nn.Module:
    """The part of a model that has the anchors: itself, or its proposal generator.

    Raises:
        TypeError: if the model has no anchors that are upright boxes.
    """
    model = unwrap(model)
    source = anchor_part(model)
    if source is None:
        raise TypeError(
            f"This {type(model).__name__} gets precomputed proposals and has no anchors. Name a "
            "proposal generator in MODEL.PROPOSAL_GENERATOR.NAME, such as RPN."
        )
    generator = getattr(source, "anchor_generator", None)
    matches = generator is not None and getattr(source, "anchor_matcher", None) is not None
    upright = getattr(generator, "box_dim", 4) == 4
    if not hasattr(source, "inspect_anchors") and not (matches and upright):
        raise TypeError(
            f"{type(source).__name__} has no anchors to show. RetinaNet, RPN and the models of "
            "this package have."
        )
    return source


@torch.no_grad()
def inspect_anchors(model: nn.Module, image: Tensor, objects: Instances) -> InspectedAnchors:
    """Look at the anchors that a model has for an image.

    Args:
        model (nn.Module): a dense detector, GeneralizedRCNN or ProposalNetwork.
        image (Tensor): (C, height, width), resized for the network, in its channel order.
        objects (Instances): with "gt_boxes" and "gt_classes", in the frame of ``image``.

    Returns:
        InspectedAnchors: on the model's device.

    Raises:
        TypeError: see :func:`anchor_source`.
        ValueError: if an object is of a class that the model does not know.
    """
    model = unwrap(model)
    source = anchor_source(model)
    num_classes = getattr(model, "num_classes", None)
    if num_classes and len(objects) and (last := int(objects.gt_classes.max())) >= num_classes:
        raise ValueError(
            f"An object is of class {last}, but the model knows the classes 0 to "
            f"{num_classes - 1}: the data set is not the one that the model was trained for."
        )
    images = preprocess(model, image)
    features = head_features(model, images)
    inspect = getattr(source, "inspect_anchors", None)
    arguments = features, images.image_sizes[0], objects.to(images.device)
    return inspect(*arguments) if inspect else _inspect_matched(source, *arguments)


def crop_location_maps(
    levels: Sequence[str],
    probabilities: Sequence[Tensor],
    anchor_generator: nn.Module,
    threshold: float,
    image_size: tuple[int, int],
) -> list[LocationMap]:
    """Location maps of one image, without the locations in the padding.

    Args:
        levels (sequence of str): names of the feature maps.
        probabilities (sequence of Tensor): (H, W) per level.
        anchor_generator (nn.Module): Detectron2's DefaultAnchorGenerator for these levels.
        threshold (float): there are anchors only where the probability is at least this.
        image_size (tuple[int, int]): height and width of the image, in pixels.
    """
    offset = anchor_generator.offset
    result = []
    for level, probability, stride in zip(
        levels, probabilities, anchor_generator.strides, strict=True
    ):
        height, width = (max(1, math.ceil(size / stride - offset)) for size in image_size)
        result.append(LocationMap(level, probability[:height, :width], threshold, stride, offset))
    return result


def _inspect_matched(source, features, image_size, objects) -> InspectedAnchors:
    """The anchors that Detectron2's RetinaNet or RPN would train to find the objects."""
    anchors = Boxes.cat(source.anchor_generator(features))
    iou = pairwise_iou(objects.gt_boxes, anchors)
    matched = source.anchor_matcher(iou)[1] == 1
    if getattr(source, "anchor_boundary_thresh", -1) >= 0:
        matched &= anchors.inside_box(image_size, source.anchor_boundary_thresh)
    best = iou.amax(dim=0) if len(objects) else iou.new_zeros(len(anchors))
    return InspectedAnchors(
        image_size,
        anchors.tensor[matched],
        best[matched],
        "IoU",
        f"{int(matched.sum())} of {len(anchors)} anchors, those matched with an object",
    )
