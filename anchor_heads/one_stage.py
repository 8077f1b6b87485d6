"""What the one-stage detectors have in common."""

import sys
from contextlib import contextmanager

from torch import nn

from anchor_heads.distributed import unwrap

# An IoU never exceeds 1, so NMS at this threshold removes nothing.
_NMS_OFF = 2.0


@contextmanager
def candidates_before_nms(model: nn.Module, topk_candidates: int | None = None):
    """Let a dense detector return its candidates instead of its detections.

    Inside the context ``model`` returns all boxes with a score over ``test_score_thresh``, in
    descending order of score: neither NMS nor the limit of detections per image applies. On exit,
    also by an exception, the model is as it was.

    Args:
        model (nn.Module): a dense detector whose inference follows the attributes of Detectron2's
            RetinaNet (``test_topk_candidates``, ``test_nms_thresh``,
            ``max_detections_per_image``), or the DistributedDataParallel module around it.
        topk_candidates (int or None): candidates kept per feature level, the best first; None for
            all of them.

    Raises:
        TypeError: if the model lacks one of these attributes, as GeneralizedRCNN does.
    """
    model = unwrap(model)
    settings = {
        "test_topk_candidates": sys.maxsize if topk_candidates is None else topk_candidates,
        "test_nms_thresh": _NMS_OFF,
        "max_detections_per_image": sys.maxsize,
    }
    missing = [name for name in settings if not hasattr(model, name)]
    if missing:
        raise TypeError(
            f"{type(model).__name__} has no candidates before NMS to return: it lacks "
            f"{', '.join(missing)}. Use a one-stage model (RetinaNet or one built on it)."
        )
    before = {name: getattr(model, name) for name in settings}
    try:
        for name, value in settings.items():
            setattr(model, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(model, name, value)
