"""How well predictions explain the objects. Pure functions, in the log domain.

Value and gradient stay finite and exact where a probability rounds to 0 or 1 in float32.

Shape shorthand in this module:

    M: number of objects in the batch
    B: number of anchors in a bag
    P: number of pairs of anchor and class at which a predicted box localises an object
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd import Function
from torch.autograd.function import once_differentiable

# The published code bounds 1 - P from below by this much; it keeps log(1 - P) finite.
MIN_MISS_PROBABILITY = 1e-12

# Logits handled at a time on a CPU: the handful of temporaries then stays in the cache. A GPU
# takes all of them at once.
CPU_CHUNK_LOGITS = 2**17


def log1mexp(log_p: Tensor) -> Tensor:
    """log(1 - p) of p = exp(log_p), exact for p near 0 and near 1.

    Args:
        log_p (Tensor): any shape, <= 0. Values above -1e-12 count as -1e-12.
    """
    log_p = log_p.clamp(max=-MIN_MISS_PROBABILITY)
    near_one = log_p > -math.log(2)
    # Each branch sees only arguments that are safe in it: a masked infinity has a NaN gradient.
    return torch.where(
        near_one,
        log_p.clamp(min=-math.log(2)).expm1().neg().log(),
        log_p.clamp(max=-math.log(2)).exp().neg().log1p(),
    )


def positive_bag_loss(log_match: Tensor) -> Tensor:
    """-log of the mean-max of a bag's matching probabilities (the paper's Mean-max function).

    Mean-max weighs each probability p by 1 / (1 - p). Written out, the odds of the result are the
    mean of the odds of all p, which is what is computed here.

    Args:
        log_match (Tensor): (M, B) log of the matching probability of each anchor of each bag.

    Returns:
        Tensor: (M,) losses.
    """
    log_odds = log_match - log1mexp(log_match)
    return F.softplus(math.log(log_match.shape[1]) - log_odds.logsumexp(dim=1))


def _modulated_miss(logits: Tensor, localized: Tensor, gamma: float) -> Tensor:
    """-z^gamma * log(1 - z), z = sigmoid(logits) * (1 - localized), elementwise, localized > 0."""
    log_p = F.logsigmoid(logits)
    log_z = log_p + torch.log1p(-localized)
    log_miss = torch.logaddexp(F.logsigmoid(-logits), log_p + localized.log())
    return -(gamma * log_z).exp() * log_miss


class _NegativeLoss(Function):
    """See :func:`negative_loss`. The gradient is made together with the value, chunk by chunk:
    one pass over all logits, which is almost all of the loss's work."""

    @staticmethod
    def forward(ctx, logits: Tensor, index: Tensor, localized: Tensor, gamma: float) -> Tensor:
        flat = logits.reshape(-1)
        gradient = torch.empty_like(flat) if ctx.needs_input_grad[0] else None
        step = CPU_CHUNK_LOGITS if logits.device.type == "cpu" else max(1, flat.numel())
        total = flat.new_zeros((), dtype=torch.float64)
        for start in range(0, flat.numel(), step):
            chunk = flat[start : start + step]
            p, miss = chunk.sigmoid(), F.softplus(chunk)  # miss = -log(1 - p)
            modulation = p.pow(gamma)
            total += torch.dot(modulation, miss)
            if gradient is not None:
                out = gradient[start : start + step]
                torch.sub(1, p, out=out).mul_(miss).mul_(gamma).add_(p).mul_(modulation)

        # The few pairs that localise an object count less: replace their part.
        some = flat[index]
        total -= torch.dot(some.sigmoid().pow(gamma), F.softplus(some))
        with torch.enable_grad():
            some = some.requires_grad_()
            loss = _modulated_miss(some, localized, gamma).sum()
        total += loss.detach()
        if gradient is not None:
            gradient[index] = torch.autograd.grad(loss, some)[0]
            ctx.save_for_backward(gradient.view_as(logits))
        return total.to(logits.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx, grad_output: Tensor):
        (gradient,) = ctx.saved_tensors
        return gradient * grad_output, None, None, None


def negative_loss(logits: Tensor, index: Tensor, localized: Tensor, gamma: float) -> Tensor:
    """Focal loss with background as the target of every anchor and class, except where the box
    localises an object: the sum of z^gamma * -log(1 - z) with z = sigmoid(logits) * (1 - q).

    Args:
        logits (Tensor): float32 of any shape.
        index (Tensor): (P,) int64, unique indices into the flattened logits.
        localized (Tensor): (P,) the probability q at ``index``, in (0, 1]. It is 0 elsewhere.
        gamma (float): exponent of the modulation, above 0.

    Returns:
        Tensor: scalar.
    """
    return _NegativeLoss.apply(logits, index, localized, gamma)
