"""Overlap of objects with anchors, in memory that does not grow with their product.

Shape shorthand in this module:

    M: number of objects in one image
    R: number of anchors of one image, over all levels
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Entries of one chunk of the M x R overlap matrix. On a CPU a chunk with its temporaries should
# stay in the cache; on a GPU it should be large enough to hide the launch of a kernel.
CHUNK_ENTRIES = {"cpu": 2**19, "cuda": 2**25}


def pairwise_iou_chunks(objects: Tensor, anchors: Tensor) -> Iterator[tuple[slice, Tensor]]:
    """Intersection over union of every object with every anchor, some objects at a time.

    Args:
        objects (Tensor): (M, 4) boxes.
        anchors (Tensor): (R, 4) boxes.

    Yields:
        slice: the objects of this chunk, m >= 1 of them.
        Tensor: (m, R) float32, valid until the next chunk is asked for. NaN where both boxes are
        empty.
    """
    x0, y0, x1, y1 = anchors.t().contiguous()
    area = (x1 - x0) * (y1 - y0)
    entries = CHUNK_ENTRIES.get(anchors.device.type, CHUNK_ENTRIES["cpu"])
    step = max(1, entries // max(1, len(anchors)))
    for start in range(0, len(objects), step):
        chunk = slice(start, start + step)
        left, top, right, bottom = objects[chunk].unbind(1)
        object_area = (right - left) * (bottom - top)
        width = torch.minimum(right[:, None], x1).sub_(torch.maximum(left[:, None], x0))
        height = torch.minimum(bottom[:, None], y1).sub_(torch.maximum(top[:, None], y0))
        overlap = width.clamp_(min=0).mul_(height.clamp_(min=0))
        union = (object_area[:, None] + area).sub_(overlap)
        yield chunk, overlap.div_(union)
