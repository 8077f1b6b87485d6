"""Starting processes: who waits says so, and one that fails ends the others.

As a script it trains two processes, of which one ends in its second step.
"""

import json
import os
import socket
import sys
import time
from datetime import timedelta

import pytest
import torch
import torch.distributed as dist
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_run import arguments, finish, start, train, write_config, write_data_set

from anchor_heads.engine import launch
from anchor_heads.engine import launch as launch_function
from anchor_heads.engine.hooks import AverageBatchNorms

launching = sys.modules[launch_function.__module__]


class EndOneProcess(HookBase):
    def __init__(self, how):
        self.how = how

    def before_step(self):
        if comm.get_rank() == 1 and self.trainer.iter == 1:
            if self.how == "killed":
                os._exit(7)
            raise LookupError("the error of process 1")


def train_and_end(args):
    if os.environ["HOW"] == "average":
        write_averaged_statistics(os.environ["RESULT"])
    else:
        train(args, EndOneProcess(os.environ["HOW"]))


def write_averaged_statistics(path):
    rank = comm.get_rank()
    model = torch.nn.Sequential(torch.nn.BatchNorm2d(2), torch.nn.BatchNorm2d(3).eval())
    for norm in (model[0], model[1]):
        norm.running_mean.fill_(10.0 * rank)
        norm.running_var.fill_(1.0 + rank)
    AverageBatchNorms([model], periods=[]).average()
    statistics = {name: x.tolist() for name, x in model.state_dict().items() if "running" in name}
    with open(f"{path}{rank}", "w") as file:
        json.dump(statistics, file)


@pytest.mark.parametrize(
    "num_gpus, found, overrides, message",
    [
        (2, 1, ["MODEL.DEVICE", "cuda"], "--num-gpus is 2.* finds 1 .*MODEL.DEVICE cpu"),
        (2, 0, [], "--num-gpus is 2.* finds 0 .*MODEL.DEVICE cpu"),
        (1, 0, ["MODEL.DEVICE", "cuda"], "MODEL.DEVICE is cuda, but PyTorch finds no GPU"),
    ],
)
def test_gpus_that_are_asked_for_must_be_there(
    make_config, monkeypatch, num_gpus, found, overrides, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    config = make_config("FreeAnchorRetinaNet", "MODEL.DEVICE", "cuda")
    with pytest.raises(ValueError, match=message):
        launch(print, arguments(config, *overrides, flags=("--num-gpus", str(num_gpus))))


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num-gpus", "-1"], "--num-gpus is -1; it must be at least 1"),
        (["--num-machines", "0"], "--num-machines is 0; it must be at least 1"),
        (["--num-machines", "2", "--machine-rank", "2"], "--machine-rank is 2; .* from 0 to 1"),
        (["--num-machines", "2"], "--dist-url is auto; for several machines it must be the addr"),
    ],
)
def test_numbers_of_machines_and_processes(make_config, flags, message):
    with pytest.raises(ValueError, match=message):
        launch(print, arguments(make_config(), flags=tuple(flags)))


@pytest.mark.parametrize(
    "how, message", [("killed", "exit code 7"), ("raises", "LookupError: the error of process 1")]
)
def test_a_process_that_fails_ends_the_others(tmp_path, monkeypatch, how, message):
    monkeypatch.setenv("HOW", how)
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["SOLVER.MAX_ITER", 100000])
    begun = time.monotonic()
    flags = ["--num-gpus", "2", "--config-file", config]
    code, said = finish(start("tests/engine/test_launch.py", *flags), timeout=200)
    assert code != 0
    assert message in said.splitlines()[-1], said
    print(f"{time.monotonic() - begun:.0f} s")


def test_statistics_of_batch_norms_are_averaged(tmp_path, monkeypatch):
    """Of those in training: frozen ones are the same in all processes, and are left alone."""
    monkeypatch.setenv("HOW", "average")
    monkeypatch.setenv("RESULT", str(tmp_path / "result"))
    write_data_set(tmp_path)
    flags = ["--num-gpus", "2", "--config-file", write_config(tmp_path)]
    code, said = finish(start("tests/engine/test_launch.py", *flags), timeout=200)
    assert code == 0, said
    for rank in (0, 1):
        found = json.loads((tmp_path / f"result{rank}").read_text())
        assert found["0.running_mean"] == [5.0, 5.0]
        assert found["0.running_var"] == [1.5, 1.5]
        assert found["1.running_mean"] == [10.0 * rank] * 3


@pytest.fixture
def store():
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)


def test_waiting_for_processes_that_do_not_come(store, monkeypatch, capsys):
    monkeypatch.setattr(launching, "REPORT_SECONDS", 0.3)
    address = ("127.0.0.1", store.port)
    with pytest.raises(TimeoutError, match=rf"1 of 2 processes at 127.0.0.1:{store.port} did not"):
        launching._wait_for_all(store, 2, address, timedelta(seconds=1), says_so=True)
    said = capsys.readouterr().out.splitlines()
    assert 2 <= len(said) <= 3
    assert said[0] == f"Waiting for 1 of 2 processes at 127.0.0.1:{store.port}."
    launching._wait_for_all(store, 2, address, timedelta(seconds=1), says_so=True)  # the other one


def test_a_machine_that_is_not_there(monkeypatch, capsys):
    monkeypatch.setattr(launching, "REPORT_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]  # where no one listens afterwards
    address = ("127.0.0.1", port)
    with pytest.raises(TimeoutError, match="--machine-rank 0 could not be met at 127.0.0.1"):
        launching._connect(address, timedelta(seconds=1), says_so=True)
    assert "Waiting for the machine with --machine-rank 0" in capsys.readouterr().out


def test_a_port_that_is_taken(store):
    with pytest.raises(ValueError, match="Is the port taken.* --dist-url"):
        launching._serve("127.0.0.1", store.port, timedelta(seconds=5))


if __name__ == "__main__":
    launch(train_and_end, arguments(sys.argv[4], flags=tuple(sys.argv[1:3])))
