"""Overlap of objects with anchors, and matching by it, in memory that does not grow with objects
times anchors.

Shape shorthand in this module:

    N: number of images
    M: number of objects in one image
    R: number of anchors of one image, over all levels
    A: number of boxes that stand for one anchor
"""

from collections.abc import Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from detectron2.modeling.matcher import Matcher
from detectron2.structures import Instances
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

# Entries of one chunk of the overlap matrix. On a CPU a chunk with its temporaries should stay in
# the cache; on a GPU a kernel over it should take longer than its launch, and four chunks, 134 MB,
# should be little beside the activations. The number for a GPU is an estimate, not measured.
CHUNK_ENTRIES = {"cpu": 2**18, "cuda": 2**23}

# A box that no object overlaps.
NOWHERE = (-2e6, -2e6, -1e6, -1e6)


def pairwise_iou_chunks(objects: Tensor, anchors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Intersection over union of every object with every anchor, some objects at a time.

    Args:
        objects (Tensor): (M, 4) boxes.
        anchors (Tensor): (R, 4) boxes.

    Yields:
        slice: the objects of this chunk, m >= 1 of them.
        Tensor: (m, R) float32. NaN where both boxes are empty.
    """
    anchors = anchors.t().contiguous()
    for chunk in chunks(len(objects), anchors.shape[1], anchors.device):
        yield chunk, _iou(objects[chunk], anchors)


def anchors_of_highest_iou(objects: Tensor, anchors: Tensor) -> tuple[Tensor, Tensor]:
    """The anchor that overlaps each object most.

    Args:
        objects (Tensor): (M, 4) boxes.
        anchors (Tensor): (R, 4) boxes; R may be 0.

    Returns:
        Tensor: (M,) their IoU; 0 if there are no anchors.
        Tensor: (M,) indices of the anchors; undefined if there are none.
    """
    iou = anchors.new_zeros(len(objects))
    indices = torch.zeros(len(objects), dtype=torch.int64, device=anchors.device)
    if len(anchors):
        for chunk, overlaps in pairwise_iou_chunks(objects, anchors):
            iou[chunk], indices[chunk] = overlaps.max(dim=1)
    return iou, indices


def chunks(count: int, entries: int, device: torch.device) -> Iterator[slice]:
    """Parts of ``count`` rows of so many entries each, small enough to work on at a time."""
    step = _chunk_rows(entries, device)
    return (slice(start, start + step) for start in range(0, count, step))


def _chunk_rows(entries: int, device: torch.device) -> int:
    most = CHUNK_ENTRIES.get(device.type, CHUNK_ENTRIES["cpu"])
    return max(1, most // max(1, entries))


def flat_objects(gt_boxes: Sequence[Tensor]) -> tuple[Tensor, Tensor, Tensor]:
    """The objects of N images as one list.

    Args:
        gt_boxes (sequence of Tensor): (M, 4) for each image, M may be 0.

    Returns:
        Tensor: (sum of M, 4) boxes.
        Tensor: (sum of M,) int64, the image of each.
        Tensor: (sum of M,) int64, its number among the objects of this image.
    """
    boxes = torch.cat(list(gt_boxes))
    index = [(i, j) for i, boxes_i in enumerate(gt_boxes) for j in range(len(boxes_i))]
    image, number = torch.tensor(index, dtype=torch.int64, device=boxes.device).view(-1, 2).T
    return boxes, image, number


def pad_objects(gt_boxes: Sequence[Tensor]) -> tuple[list[int], Tensor, Tensor]:
    """The boxes of N images as one tensor, padded with zeros, the images with most objects first.

    So the images that have a j-th object are the first ones for any j.

    Args:
        gt_boxes (sequence of Tensor): (M, 4) for each image.

    Returns:
        list[int]: which image each row stands for.
        Tensor: (N, largest M, 4).
        Tensor: (N, largest M) bool, False for padding.
    """
    order = sorted(range(len(gt_boxes)), key=lambda i: -len(gt_boxes[i]))
    padded = pad_sequence([gt_boxes[i] for i in order], batch_first=True)
    counts = torch.tensor([len(gt_boxes[i]) for i in order], device=padded.device)
    return order, padded, torch.arange(padded.shape[1], device=padded.device) < counts[:, None]


def _iou(objects: Tensor, boxes: Tensor) -> Tensor:
    """(..., m, R) of objects (..., m, 4) and boxes (4, ..., R), each coordinate contiguous."""
    x0, y0, x1, y1 = boxes.unsqueeze(-2)
    left, top, right, bottom = objects.unsqueeze(-2).unbind(-1)
    object_area, area = (right - left) * (bottom - top), (x1 - x0) * (y1 - y0)
    width = torch.minimum(right, x1).sub_(torch.maximum(left, x0))
    height = torch.minimum(bottom, y1).sub_(torch.maximum(top, y0))
    overlap = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (object_area + area).sub_(overlap)
    return overlap.div_(union)


class Match(NamedTuple):
    """Which object each anchor of a batch is assigned to."""

    matched_idxs: Tensor
    """(N, R) int64, an index of an object of the image. Undefined for those not labelled 1."""
    labels: Tensor
    """(N, R) int8: 1 = positive, 0 = background, -1 = ignored."""
    best_iou: Tensor
    """(sum of M,) float32, the highest IoU that any anchor of its image has with each object."""


@torch.no_grad()
def match_max_iou(
    gt_boxes: Sequence[Tensor],
    anchors: Tensor,
    thresholds: Sequence[float],
    min_iou: float,
    valid: Tensor | None = None,
) -> Match:
    """Match each anchor with the object that it overlaps most.

    As in mmdetection's ``MaxIoUAssigner``, each object is also matched with all anchors that reach
    its highest IoU (low-quality matches), even if they overlap another object more; of several
    such objects the last one wins. (Detectron2's ``Matcher`` lets these anchors keep the object
    that they overlap most, and has no ``min_iou``.)

    Args:
        gt_boxes (sequence of Tensor): for each of N images (M, 4), M may be 0.
        anchors (Tensor): (N, R, A, 4), or (1, R, A, 4) if all images have the same. The best of A
            boxes counts.
        thresholds (sequence of float): an anchor whose highest IoU is below the first is
            background, from the last on it is positive; in between it is ignored.
        min_iou (float): an object takes its best anchors only if their IoU is at least this.
        valid (Tensor or None): (N, R) bool, anchors that may be matched, all of them with width and
            height; the others are ignored. None for all.

    Returns:
        Match: without gradient.
    """
    num_images, num_anchors, device = len(gt_boxes), anchors.shape[1], anchors.device
    order, objects, real = pad_objects(gt_boxes)
    counts = [len(gt_boxes[i]) for i in order]
    back = sorted(range(num_images), key=order.__getitem__)
    to_order = to_back = slice(None)
    if order != sorted(order):
        to_order, to_back = torch.tensor([order, back], device=device)
    shared = len(anchors) < num_images
    if not shared:
        if valid is not None:
            anchors = anchors.where(valid[..., None, None], anchors.new_tensor(NOWHERE))
        anchors = anchors[to_order]
    valid = None if valid is None else valid[to_order]
    factor = valid.float() if shared and valid is not None else None
    boxes = anchors.permute(3, 2, 0, 1).contiguous()  # (4, A, N or 1, R)
    rows = 0 if num_anchors == 0 else objects.shape[1]  # there is no maximum over nothing
    entries = num_images * num_anchors
    # As many of the A boxes at a time as keep the matrix and its temporaries in the cache.
    rows_at_once = max(1, min(rows, _chunk_rows(entries, device)))
    parts = boxes.split(_chunk_rows(entries * rows_at_once, device), dim=1)

    best = torch.zeros((num_images, num_anchors), device=device)  # over the objects so far
    matched = torch.zeros((num_images, num_anchors), dtype=torch.int64, device=device)
    taken_by = torch.full_like(matched, -1)
    best_of_objects = objects.new_zeros(objects.shape[:2])
    for chunk in chunks(rows, entries, device):
        n = sum(count > chunk.start for count in counts)  # images with objects in this chunk
        here = objects[:n, chunk]
        ious = (iou for part in parts for iou in _iou(here, part[:, :, :n]))  # A of (n, m, R)
        iou = reduce(lambda x, y: torch.maximum(x, y, out=x), ious)
        if factor is not None:
            iou.mul_(factor[:n, None])
        best_here, object_here = iou.max(dim=1)
        better = best_here > best[:n]
        matched[:n] = torch.where(better, object_here + chunk.start, matched[:n])
        best[:n] = torch.maximum(best_here, best[:n])

        best_of_object = iou.amax(dim=2)
        best_of_objects[:n, chunk] = best_of_object
        may_take = real[:n, chunk] & (best_of_object >= min_iou)
        takes = (iou == best_of_object[..., None]) & may_take[..., None]
        image, taker, taken = takes.nonzero(as_tuple=True)
        index = image * num_anchors + taken
        taken_by.view(-1).scatter_reduce_(0, index, taker + chunk.start, "amax")

    labels = torch.full_like(matched, -1, dtype=torch.int8)
    labels.masked_fill_(best < thresholds[0], 0).masked_fill_(best >= thresholds[-1], 1)
    labels.masked_fill_(taken_by >= 0, 1)
    if valid is not None:
        labels.masked_fill_(~valid, -1)
    matched = torch.where(taken_by >= 0, taken_by, matched)
    return Match(
        matched[to_back],
        labels[to_back],
        torch.cat([best_of_objects[row, : counts[row]] for row in back]),
    )


class MaxIoUMatcher:
    """:func:`match_max_iou` with Detectron2's ``IOU_THRESHOLDS`` and ``IOU_LABELS``."""

    def __init__(self, thresholds: Sequence[float], labels: Sequence[int], min_iou: float):
        """
        Args:
            thresholds, min_iou: see :func:`match_max_iou`.
            labels (sequence of int): of the anchors below, between and above the thresholds.

        Raises:
            ValueError: if it is not one threshold with the labels [0, 1], or two that ascend with
                [0, -1, 1] for an ignored band.
        """
        expected = {1: [0, 1], 2: [0, -1, 1]}.get(len(thresholds))
        if list(labels) != expected or list(thresholds) != sorted(thresholds):
            raise ValueError(
                f"IoU thresholds {list(thresholds)} with the labels {list(labels)}: this matching "
                "takes one threshold with the labels [0, 1], or two that ascend with [0, -1, 1]."
            )
        self.thresholds = tuple(thresholds)
        self.min_iou = min_iou

    @classmethod
    def of(cls, matcher: Matcher, min_iou: float) -> "MaxIoUMatcher":
        """With the thresholds and labels of Detectron2's ``Matcher``."""
        _, *thresholds, _ = matcher.thresholds  # between -inf and inf
        return cls(thresholds, matcher.labels, min_iou)

    def __call__(
        self, gt_boxes: Sequence[Tensor], anchors: Tensor, valid: Tensor | None = None
    ) -> Match:
        """See :func:`match_max_iou`."""
        return match_max_iou(gt_boxes, anchors, self.thresholds, self.min_iou, valid)


@torch.no_grad()
def match_predicted_anchors(
    matcher: MaxIoUMatcher, gt_instances: list[Instances], anchors: Tensor, valid: Tensor
) -> tuple[Match, Tensor]:
    """Match objects with the anchors that were predicted for their image.

    Anchors without width or height are ignored.

    Args:
        matcher (MaxIoUMatcher): the rule.
        gt_instances (list[Instances]): N of them, with "gt_boxes".
        anchors (Tensor): (N, R, 4).
        valid (Tensor): (N, R) bool, the anchors that may be positive; the others are ignored.

    Returns:
        Match: of the N images.
        Tensor: (N, R, 4) boxes of the matched objects. Undefined for those not labelled 1.
    """
    gt_boxes = [gt.gt_boxes.tensor for gt in gt_instances]
    match = matcher(gt_boxes, anchors[:, :, None], valid & has_area(anchors))
    return match, of_matched(gt_boxes, match.matched_idxs)


def has_area(boxes: Tensor) -> Tensor:
    """(...) bool, whether boxes (..., 4) have width and height."""
    return (boxes[..., 2:] > boxes[..., :2]).all(dim=-1)


def of_matched(per_image: Sequence[Tensor], matched_idxs: Tensor) -> Tensor:
    """What N images have for each of their objects, for each anchor that is matched with it.

    Args:
        per_image (sequence of Tensor): (M, ...) for each image, M may be 0.
        matched_idxs (Tensor): (N, R) int64 in [0, max(M, 1)).

    Returns:
        Tensor: (N, R, ...); zeros for an image without objects.
    """
    values = torch.cat([*per_image, per_image[0].new_zeros((1, *per_image[0].shape[1:]))])
    first, start = [], 0
    for x in per_image:
        first.append(start if len(x) else len(values) - 1)
        start += len(x)
    return values[matched_idxs + torch.tensor(first, device=matched_idxs.device)[:, None]]
