"""What concerns the several processes of a run."""

import torch
import torch.distributed
from detectron2.utils import comm
from torch import Tensor, nn


def loss_normalizer(count: int, device: torch.device) -> Tensor:
    """What each process divides its summed loss by, for a loss normalised over all of them.

    It is the mean count of a process, max(1, total) / processes: after DistributedDataParallel has
    averaged the gradients, n processes with a part of the batch each have taken the same step as
    one process with the whole batch. Every process must call it, those without objects too.

    Args:
        count (int): what this process has of the thing counted, for example objects.
        device (torch.device): where the result is wanted.

    Returns:
        Tensor: a float32 scalar above 0, the same in every process.
    """
    total = torch.tensor(float(count), device=device)
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return total.clamp(min=1) / comm.get_world_size()


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself where it is wrapped for distributed training, else ``model``."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
