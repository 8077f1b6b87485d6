"""What concerns the several processes of a run."""

import torch
import torch.distributed
from detectron2.engine import create_ddp_model
from detectron2.utils import comm
from torch import Tensor, nn


def loss_normalizer(count: Tensor | float, device: torch.device, least: float = 1.0) -> Tensor:
    """What each process divides its summed loss by, for a loss normalised over all of them.

    It is the mean count of a process, max(least, total) / processes: after
    DistributedDataParallel has averaged the gradients, n processes with a part of the batch each
    have taken the same step as one process with the whole batch. Every process must call it, those
    without objects too.

    Args:
        count (Tensor or float): what this process has of the thing counted, for example objects;
            a scalar.
        device (torch.device): of the result.
        least (float): above 0. What a total of sums of weights, not of counts, must reach.

    Returns:
        Tensor: a float32 scalar above 0, the same in every process.
    """
    return sum_over_processes(count, device).clamp(min=least) / comm.get_world_size()


def sum_over_processes(count: Tensor | float, device: torch.device) -> Tensor:
    """The total of what each process has, a float32 scalar. Every process must call it."""
    total = torch.as_tensor(count, dtype=torch.float32, device=device).clone()
    if comm.get_world_size() > 1:
        torch.distributed.all_reduce(total)
    return total


def for_all_processes(model: nn.Module) -> nn.Module:
    """The model, wrapped for distributed training where there are several processes."""
    is_cpu = next(model.parameters()).device.type == "cpu"
    device_ids = {"device_ids": None} if is_cpu else {}
    return create_ddp_model(model, broadcast_buffers=False, **device_ids)


def unwrap(model: nn.Module) -> nn.Module:
    """The model itself where it is wrapped for distributed training, else ``model``."""
    return model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
