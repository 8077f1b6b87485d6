"""Initial values of parameters."""

import math

from torch import nn


def init_prior_bias(layer: nn.Module, prior_prob: float) -> None:
    """Let a classifier start from a probability (focal loss paper, section 3.3).

    Args:
        layer (nn.Module): predicts logits; all its biases are set.
        prior_prob (float): the sigmoid of the biases, between 0 and 1.
    """
    nn.init.constant_(layer.bias, -math.log((1 - prior_prob) / prior_prob))
