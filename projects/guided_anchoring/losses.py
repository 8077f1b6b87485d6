"""The location loss, a pure function. Shapes are trained with the bounded IoU loss of
``anchor_heads.layers`` or its IoU loss.

Shape shorthand in this module:

    N: number of images
    R: number of locations of one image, over all levels
"""

from fvcore.nn import sigmoid_focal_loss
from torch import Tensor


def location_loss(
    logits: Tensor, targets: Tensor, weights: Tensor, alpha: float, gamma: float, inverted: bool
) -> Tensor:
    """Weighted focal loss of the location probability, the sum over all locations.

    Args:
        logits (Tensor): (N, R).
        targets (Tensor): (N, R), 1 in an object's centre region, else 0.
        weights (Tensor): (N, R).
        alpha, gamma (float): of the focal loss.
        inverted (bool): train the opposite, as mmdetection 2.x does.

    Returns:
        Tensor: scalar.
    """
    if inverted:
        targets = 1 - targets
    loss = sigmoid_focal_loss(logits, targets, alpha=alpha, gamma=gamma, reduction="none")
    return (loss * weights).sum()
