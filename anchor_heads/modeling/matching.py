"""Overlap of objects with anchors, and matching by it, in memory that does not grow with objects
times anchors.

Shape shorthand in this module:

    N: number of images
    M: number of objects in one image
    R: number of anchors of one image, over all levels
    A: number of boxes that stand for one anchor
"""

from collections.abc import Callable, Iterator, Sequence
from functools import reduce
from typing import NamedTuple

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import get_event_storage
from torch import Tensor

# Entries of one chunk of the M x R overlap matrix. On a CPU a chunk with its temporaries should
# stay in the cache; on a GPU it should be large enough to hide the launch of a kernel.
CHUNK_ENTRIES = {"cpu": 2**19, "cuda": 2**25}


def pairwise_iou_chunks(objects: Tensor, anchors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Intersection over union of every object with every anchor, some objects at a time.

    Args:
        objects (Tensor): (M, 4) boxes.
        anchors (Tensor): (R, 4) boxes; or (R, A, 4), then the best of A boxes counts.

    Yields:
        slice: the objects of this chunk, m >= 1 of them.
        Tensor: (m, R) float32, valid until the next chunk is asked for. NaN where both boxes are
        empty.
    """
    # One box per anchor at a time: the matrix and its temporaries then stay in the cache.
    boxes = [x.t().contiguous() for x in anchors.unsqueeze(1).flatten(1, -2).unbind(1)]
    areas = [(x1 - x0) * (y1 - y0) for x0, y0, x1, y1 in boxes]
    entries = CHUNK_ENTRIES.get(anchors.device.type, CHUNK_ENTRIES["cpu"])
    step = max(1, entries // max(1, len(anchors)))
    for start in range(0, len(objects), step):
        chunk = slice(start, start + step)
        overlaps = (_iou(objects[chunk], *pair) for pair in zip(boxes, areas, strict=True))
        yield chunk, reduce(torch.maximum, overlaps)


def _iou(objects: Tensor, boxes: Tensor, areas: Tensor) -> Tensor:
    """(m, R) of objects (m, 4) and boxes (4, R) with their areas (R,)."""
    x0, y0, x1, y1 = boxes
    left, top, right, bottom = objects.unbind(1)
    object_area = (right - left) * (bottom - top)
    width = torch.minimum(right[:, None], x1).sub_(torch.maximum(left[:, None], x0))
    height = torch.minimum(bottom[:, None], y1).sub_(torch.maximum(top[:, None], y0))
    overlap = width.clamp_(min=0).mul_(height.clamp_(min=0))
    union = (object_area[:, None] + areas).sub_(overlap)
    return overlap.div_(union)


class Match(NamedTuple):
    """Which object each anchor is to learn."""

    matched_idxs: Tensor
    """(R,) int64, an index of an object. Undefined for those not labelled 1."""
    labels: Tensor
    """(R,) int8: 1 = the anchor learns its object, 0 = background, -1 = ignored."""
    best_iou: Tensor
    """(M,) float32, the highest IoU that any anchor has with the object."""


@torch.no_grad()
def match_max_iou(
    objects: Tensor, anchors: Tensor, thresholds: Sequence[float], min_iou: float
) -> Match:
    """Match each anchor with the object that it overlaps most.

    Each object also takes all anchors that reach its highest IoU, those of other objects too; of
    several such objects the last has an anchor. (Detectron2's ``Matcher`` lets these anchors keep
    the object that they overlap most, and knows no ``min_iou``.)

    Args:
        objects (Tensor): (M, 4) boxes, M may be 0.
        anchors (Tensor): (R, 4) boxes; or (R, A, 4), then the best of A boxes counts.
        thresholds (sequence of float): an anchor whose highest IoU is below the first is
            background, from the last on it learns; in between it is ignored.
        min_iou (float): an object takes its best anchors only if their IoU is at least this.

    Returns:
        Match: without gradient.
    """
    if len(anchors) == 0:  # there is no maximum over nothing
        none = torch.zeros(0, dtype=torch.int64, device=anchors.device)
        return Match(none, none.to(torch.int8), objects.new_zeros(len(objects)))
    best = anchors.new_zeros(len(anchors))  # of each anchor, over the objects so far
    matched = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    taken_by = torch.full_like(matched, -1)
    best_of_objects = objects.new_zeros(len(objects))
    for chunk, iou in pairwise_iou_chunks(objects, anchors):
        best_here, object_here = iou.max(dim=0)
        better = best_here > best
        best[better] = best_here[better]
        matched[better] = object_here[better] + chunk.start

        best_of_object = iou.amax(dim=1)
        takes = (iou == best_of_object[:, None]) & (best_of_object >= min_iou)[:, None]
        taker, taken = takes.nonzero(as_tuple=True)
        taken_by.scatter_reduce_(0, taken, taker + chunk.start, "amax")
        best_of_objects[chunk] = best_of_object

    labels = torch.full_like(matched, -1, dtype=torch.int8)
    labels[best < thresholds[0]] = 0
    labels[best >= thresholds[-1]] = 1
    labels[taken_by >= 0] = 1
    return Match(torch.where(taken_by >= 0, taken_by, matched), labels, best_of_objects)


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

    def __call__(self, objects: Tensor, anchors: Tensor) -> Match:
        """See :func:`match_max_iou`."""
        return match_max_iou(objects, anchors, self.thresholds, self.min_iou)


def match_valid(matcher: Callable, objects: Tensor, anchors: Tensor, valid: Tensor) -> Match:
    """Match objects with some of the anchors only; the others are ignored.

    Args:
        matcher (callable): takes objects and anchors and returns a :class:`Match`.
        objects (Tensor): (M, 4) boxes.
        anchors (Tensor): (R, ...), as the matcher takes them.
        valid (Tensor): (R,) bool.

    Returns:
        Match: of all R anchors; those that are not valid are labelled -1.
    """
    if valid.all():
        return matcher(objects, anchors)
    match = matcher(objects, anchors[valid])
    matched = torch.zeros(len(anchors), dtype=torch.int64, device=anchors.device)
    labels = torch.full_like(matched, -1, dtype=torch.int8)
    matched[valid], labels[valid] = match.matched_idxs, match.labels
    return Match(matched, labels, match.best_iou)


class BatchMatch(NamedTuple):
    """What each anchor of a batch is to learn, where each image has its own anchors."""

    matched_idxs: Tensor
    """(N, R) int64, an index of an object of the image. Undefined for those not labelled 1."""
    labels: Tensor
    """(N, R) int8, see :class:`Match`."""
    boxes: Tensor
    """(N, R, 4) boxes of the objects. Undefined for those not labelled 1."""


@torch.no_grad()
def match_predicted_anchors(
    matcher: Callable, gt_instances: list[Instances], anchors: Tensor, valid: Tensor
) -> BatchMatch:
    """Match objects with the anchors that were predicted for their image.

    Anchors without width or height are ignored. The mean of the best IoU that an anchor has with
    each object goes to the event storage as "predicted_anchor/best_iou".

    Args:
        matcher (callable): takes objects and anchors and returns a :class:`Match`.
        gt_instances (list[Instances]): N of them, with "gt_boxes".
        anchors (Tensor): (N, R, 4).
        valid (Tensor): (N, R) bool, the anchors that may learn; the others are ignored.
    """
    results, best_iou = [], []
    for gt, anchors_i, valid_i in zip(gt_instances, anchors, valid, strict=True):
        objects = gt.gt_boxes.tensor
        usable = valid_i & Boxes(anchors_i).nonempty()
        match = match_valid(matcher, objects, anchors_i, usable)
        boxes = objects[match.matched_idxs] if len(objects) else torch.zeros_like(anchors_i)
        results.append((match.matched_idxs, match.labels, boxes))
        best_iou.append(match.best_iou)
    best_iou = torch.cat(best_iou)
    if len(best_iou):
        get_event_storage().put_scalar("predicted_anchor/best_iou", best_iou.mean().item())
    return BatchMatch(*(torch.stack(x) for x in zip(*results, strict=True)))
