"""Starting the processes of a run."""

import os
import pickle
import signal
import sys
import tempfile
import time
import traceback
from argparse import Namespace
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlparse

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from detectron2.utils import comm

from anchor_heads.engine.lazy import is_lazy, load_lazy_config
from anchor_heads.engine.setup import load_config, merge_config
from anchor_heads.errors import first_line, is_user_error
from anchor_heads.files import open_and_rename

GRACE_SECONDS = 15  # for the other processes to save and end, once one has failed
REPORT_SECONDS = 30


class ProcessError(RuntimeError):
    """A process of the run has ended with an error; the message is its own."""


def launch(main: Callable[[Namespace], object], args: Namespace) -> None:
    """Run ``main(args)`` in every process of the run.

    The processes are those that torchrun has started, else ``--num-gpus`` on each of
    ``--num-machines``. They talk through NCCL on GPUs, through gloo with MODEL.DEVICE cpu. On one
    machine they meet at a free port, on several at ``--dist-url``.

    Args:
        main (callable): a function of a module, so that other processes can import it.
        args (Namespace): of :func:`argument_parser` or Detectron2's ``default_argument_parser``.

    Raises:
        ValueError, FileNotFoundError: if the config is wrong, the machine has too few GPUs, or the
            numbers of machines and processes cannot be.
        TimeoutError: if processes of other machines do not come.
        ProcessError: if one of several processes fails. The others are ended.
    """
    _check_numbers(args)
    device = _device(args)  # what is wrong with the config is said before any process starts
    on_gpus = device != "cpu" and torch.cuda.is_available()
    with_torchrun = dist.is_torchelastic_launched()
    num_local = int(os.environ["LOCAL_WORLD_SIZE"]) if with_torchrun else args.num_gpus
    if num_local * args.num_machines > 1:
        _check_gpus(device, num_local)
    if with_torchrun:
        _join_torchrun(on_gpus)
        main(args)
        dist.destroy_process_group()
    elif args.num_gpus * args.num_machines == 1:
        main(args)
    else:
        _start_processes(main, args, on_gpus)


def _join_torchrun(on_gpus: bool) -> None:
    if on_gpus:
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    dist.init_process_group("nccl" if on_gpus else "gloo")
    comm.create_local_process_group(int(os.environ["LOCAL_WORLD_SIZE"]))


def _check_numbers(args: Namespace) -> None:
    for option in ("num_gpus", "num_machines"):
        if vars(args)[option] < 1:
            name = option.replace("_", "-")
            raise ValueError(f"--{name} is {vars(args)[option]}; it must be at least 1.")
    if not 0 <= args.machine_rank < args.num_machines:
        raise ValueError(
            f"--machine-rank is {args.machine_rank}; with --num-machines {args.num_machines} it "
            f"must be from 0 to {args.num_machines - 1}, another one on each machine."
        )
    if args.num_machines > 1:
        if (limit := vars(args).get("dist_timeout", 30)) <= 0:
            raise ValueError(f"--dist-timeout is {limit}; it must be above 0.")
        if not _is_address(args.dist_url):
            raise ValueError(
                f"--dist-url is {args.dist_url}; for several machines it must be the address of "
                "the one with --machine-rank 0, such as tcp://192.168.0.1:29500."
            )


def _is_address(url: str) -> bool:
    address = urlparse(url)
    try:
        return address.scheme == "tcp" and bool(address.hostname and address.port)
    except ValueError:  # a port above 65535
        return False


def _device(args: Namespace) -> str:
    """The device that the config says, whether or not it is there."""
    if is_lazy(args.config_file):
        return load_lazy_config(args).train.device
    load_config(args)
    return merge_config(args).MODEL.DEVICE


def _check_gpus(device: str, num_local: int) -> None:
    if device == "cpu":
        return
    found = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if num_local > found:
        fewer = f"Ask for {found}, or for" if found else "Ask for"
        raise ValueError(
            f"--num-gpus is {num_local}, and PyTorch finds {found} on this machine. {fewer} "
            f"{num_local} processes on the CPU with MODEL.DEVICE cpu."
        )


def _start_processes(main: Callable, args: Namespace, on_gpus: bool) -> None:
    """Start this machine's processes, and end them all when one of them fails."""
    limit = timedelta(minutes=vars(args).get("dist_timeout", 30))
    host, port = "127.0.0.1", 0
    if args.num_machines > 1:
        address = urlparse(args.dist_url)
        host, port = address.hostname, address.port
    server = None
    if args.machine_rank == 0:
        server = _serve(host, port, limit)
        port = server.port
    with tempfile.TemporaryDirectory() as folder:
        context = mp.start_processes(
            _run_process,
            args=(main, args, on_gpus, (host, port), limit, folder),
            nprocs=args.num_gpus,
            join=False,
        )
        _wait(context, Path(folder))


def _serve(host: str, port: int, limit: timedelta) -> dist.TCPStore:
    try:
        return dist.TCPStore(host, port, is_master=True, wait_for_workers=False, timeout=limit)
    except RuntimeError as error:
        raise ValueError(
            f"This machine cannot be met at {host}:{port} ({first_line(error)}). Is the port "
            "taken? Write another one in --dist-url, on every machine."
        ) from None


def _wait(context: mp.ProcessContext, errors: Path) -> None:
    """Wait until all processes have ended; signals that end this process go to them first."""

    def forward(number, frame):
        for process in context.processes:
            if process.is_alive():
                os.kill(process.pid, number)

    # Ctrl-C reaches all processes by itself; they save, and end this one's waiting.
    before = [
        (signal.SIGTERM, signal.signal(signal.SIGTERM, forward)),
        (signal.SIGINT, signal.signal(signal.SIGINT, lambda *_: None)),
    ]
    try:
        while not context.join(grace_period=GRACE_SECONDS):
            pass
    except (mp.ProcessRaisedException, mp.ProcessExitedException) as error:
        raise _first_error(errors, error) from None
    finally:
        for number, handler in before:
            signal.signal(number, handler)


def _first_error(
    folder: Path, error: mp.ProcessRaisedException | mp.ProcessExitedException
) -> BaseException:
    """The error of the process that ended first; those of the others follow from it."""
    written = folder / str(error.error_pid)
    if written.exists():
        return pickle.loads(written.read_bytes())
    return ProcessError(f"{error}. Was it killed, perhaps for lack of memory?")


def _run_process(
    local_rank: int,
    main: Callable,
    args: Namespace,
    on_gpus: bool,
    address: tuple[str, int],
    limit: timedelta,
    errors: str,
) -> None:
    try:
        _meet(local_rank, args, on_gpus, address, limit)
        main(args)
        dist.destroy_process_group()
    except BaseException as error:
        # The process that has started this one says what the first error was, as the last word.
        is_exit = isinstance(error, SystemExit)
        _write(error if is_exit else ProcessError(f"{type(error).__name__}: {error}"), errors)
        if isinstance(error, Exception) and not is_user_error(error):
            traceback.print_exc()
        sys.stdout.flush()
        os._exit(1)  # not waiting for the others, as ending in order would


def _write(error: BaseException, folder: str) -> None:
    with open_and_rename(os.path.join(folder, str(os.getpid())), "wb") as file:
        pickle.dump(error, file)


def _meet(
    local_rank: int, args: Namespace, on_gpus: bool, address: tuple[str, int], limit: timedelta
) -> None:
    """Wait for all processes of the run, then let them talk to each other."""
    rank = args.machine_rank * args.num_gpus + local_rank
    num_processes = args.num_machines * args.num_gpus
    store = _connect(address, limit, says_so=local_rank == 0)
    _wait_for_all(store, num_processes, address, limit, says_so=local_rank == 0)
    if on_gpus:
        torch.cuda.set_device(local_rank)
    dist.init_process_group(
        "nccl" if on_gpus else "gloo",
        store=dist.PrefixStore("run", store),
        rank=rank,
        world_size=num_processes,
        timeout=max(limit, timedelta(minutes=30)),
    )
    comm.create_local_process_group(args.num_gpus)


def _connect(address: tuple[str, int], limit: timedelta, says_so: bool) -> dist.TCPStore:
    deadline = time.monotonic() + limit.total_seconds()
    while True:
        left = deadline - time.monotonic()
        try:
            patience = timedelta(seconds=max(1, min(REPORT_SECONDS, left)))
            store = dist.TCPStore(*address, is_master=False, timeout=patience)
            store.set_timeout(limit)
            return store
        except RuntimeError as error:
            if says_so:
                print(
                    f"Waiting for the machine with --machine-rank 0 at {address[0]}:{address[1]} "
                    f"({first_line(error)}).",
                    flush=True,
                )
            if time.monotonic() >= deadline:
                raise TimeoutError(
                    f"The machine with --machine-rank 0 could not be met at "
                    f"{address[0]}:{address[1]} in {limit} ({first_line(error)})."
                ) from None


def _wait_for_all(
    store: dist.Store, number: int, address: tuple[str, int], limit: timedelta, says_so: bool
) -> None:
    start = reported = time.monotonic()
    store.add("processes", 1)
    while (found := store.add("processes", 0)) < number:
        now = time.monotonic()
        missing = f"{number - found} of {number} processes at {address[0]}:{address[1]}"
        if now - start > limit.total_seconds():
            raise TimeoutError(
                f"{missing} did not come in {limit}. Is the command running on every machine, with "
                "the same --dist-url and --num-gpus and a --machine-rank of its own?"
            )
        if says_so and now - reported > REPORT_SECONDS:
            reported = now
            print(f"Waiting for {missing}.", flush=True)
        time.sleep(0.1)
