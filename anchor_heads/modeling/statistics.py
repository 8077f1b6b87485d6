"""Numbers for the event storage, in as few transfers from the device as possible."""

import torch
from detectron2.utils.events import get_event_storage
from torch import Tensor


def put_scalars(values: dict[str, Tensor]) -> None:
    """Put scalars into the event storage with one transfer from the device.

    Args:
        values (dict[str, Tensor]): scalars of any type, all on one device.
    """
    numbers = torch.stack([x.detach().float() for x in values.values()]).tolist()
    get_event_storage().put_scalars(**dict(zip(values, numbers, strict=True)))


def put_best_iou(best_iou: Tensor) -> None:
    """Put the mean of the best IoU that objects have with predicted anchors, if there are objects.

    Args:
        best_iou (Tensor): (number of objects,).
    """
    if len(best_iou):
        put_scalars({"predicted_anchor/best_iou": best_iou.mean()})
