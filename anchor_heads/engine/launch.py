"""Starting the processes of a run."""

import os
from argparse import Namespace
from collections.abc import Callable

import torch
import torch.distributed
from detectron2.engine import launch as launch_processes
from detectron2.utils import comm

from anchor_heads.engine.setup import load_config


def launch(main: Callable[[Namespace], object], args: Namespace) -> None:
    """Run ``main(args)`` in every process of the run.

    The processes are those that torchrun has started, else ``--num-gpus`` on each of
    ``--num-machines``. They talk through NCCL on GPUs, through gloo with MODEL.DEVICE cpu.

    Args:
        main (callable): a function of a module, so that other processes can import it.
        args (Namespace): of Detectron2's ``default_argument_parser``.

    Raises:
        ValueError, FileNotFoundError: if the config is wrong or the machine has too few GPUs.
    """
    cfg = load_config(args)  # what is wrong with it is said before any process starts
    on_gpus = cfg.MODEL.DEVICE != "cpu"
    if torch.distributed.is_torchelastic_launched():
        _join_torchrun(on_gpus)
        main(args)
        torch.distributed.destroy_process_group()
        return
    if args.num_gpus * args.num_machines > 1:
        if on_gpus:
            _check_gpus(args.num_gpus)
        else:  # Detectron2 lets processes talk through NCCL, from GPU to GPU, if there are any
            os.environ["CUDA_VISIBLE_DEVICES"] = ""
    launch_processes(
        main, args.num_gpus, args.num_machines, args.machine_rank, args.dist_url, args=(args,)
    )


def _join_torchrun(on_gpus: bool) -> None:
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    torch.distributed.init_process_group("nccl" if on_gpus else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _check_gpus(wanted: int) -> None:
    found = torch.cuda.device_count()
    if wanted > found:
        raise ValueError(
            f"--num-gpus is {wanted}, and this machine has {found}. Ask for {found}, or for "
            f"{wanted} processes on the CPU with MODEL.DEVICE cpu."
        )
