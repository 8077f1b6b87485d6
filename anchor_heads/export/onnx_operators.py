"""What torch's ONNX exporter lacks: NMS by class and resizing with antialiasing."""

import torch
from onnxscript import opset20 as op
from torch import Tensor
from torchvision.ops import batched_nms

NO_LIMIT = 2**63 - 1


@torch.library.custom_op("anchor_heads::nms_by_class", mutates_args=())
def _nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """Positions of the boxes that are kept, ascending; the boxes are sorted by score."""
    return batched_nms(boxes, scores, classes, iou_threshold)


@_nms_by_class.register_fake
def _(boxes, scores, classes, iou_threshold):
    return boxes.new_empty(torch.library.get_ctx().new_dynamic_size(), dtype=torch.int64)


def onnx_nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float):
    """:func:`anchor_heads.export.recording.nms_by_class` as one operator, which ONNX has."""
    order = scores.argsort(descending=True)
    return order[_nms_by_class(boxes[order], scores[order], classes[order], iou_threshold)]


def _translate_nms(boxes, scores, classes, iou_threshold: float):
    # ONNX has scores by class: of a box 0 but for its own class, where it is n for the best of n
    # boxes, n - 1 for the next. NMS keeps the boxes over 0, and needs no scores but their order.
    count = op.Shape(classes)
    num_classes = op.Add(op.ReduceMax(op.Concat(classes, [0], axis=0), keepdims=0), 1)
    own = op.Equal(op.Unsqueeze(op.Range(0, num_classes, 1), [1]), op.Unsqueeze(classes, [0]))
    ranks = op.Range(op.Squeeze(count), 0, -1)
    by_class = op.Where(own, op.Cast(ranks, to=1), 0.0)
    kept = op.NonMaxSuppression(
        op.Unsqueeze(boxes, [0]), op.Unsqueeze(by_class, [0]), [NO_LIMIT], [iou_threshold], [0.0]
    )
    positions = op.Squeeze(op.Slice(kept, [2], [3], [1]), [1])
    num_kept = op.Shape(positions)
    # By class and then by score: sorted by position they are sorted by score.
    ascending, _ = op.TopK(positions, num_kept, largest=0)
    return ascending


def _translate_resize(image, output_size, align_corners, scales_h=None, scales_w=None):
    size = op.Concat(*(op.Reshape(side, [1]) for side in output_size), axis=0)
    sizes = op.Concat(op.Shape(image, end=2), size, axis=0)
    return op.Resize(image, None, None, sizes, mode="linear", antialias=1)


TRANSLATIONS = {
    torch.ops.anchor_heads.nms_by_class.default: _translate_nms,
    torch.ops.aten._upsample_bilinear2d_aa.default: _translate_resize,
}
