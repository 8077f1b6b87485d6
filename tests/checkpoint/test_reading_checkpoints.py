import argparse
import datetime
import io
import os
import pathlib
import pickle
from collections import OrderedDict

import numpy as np
import pytest
import torch

from anchor_heads.checkpoint import read_checkpoint
from anchor_heads.engine.checkpoint import AtomicCheckpointer

FORMS = {"zip": {}, "before torch 1.6": {"_use_new_zipfile_serialization": False}}
WEIGHTS = OrderedDict(
    {"module.conv.weight": torch.arange(600.0), "module.conv.bias": torch.ones(2)}
)


def write(path, content, **form):
    torch.save(content, path, **form)
    return str(path)


class Run:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_numbers_of_numpy_are_allowed(tmp_path, form):
    content = {
        "state_dict": WEIGHTS,
        "meta": {
            "mmdet_version": "2.3.0+8194b16",
            "config": "model = dict(backbone=dict(type='ResNet', style='caffe'))",
            "CLASSES": ("person",),
            "lr": np.float64(0.02),
            "best": np.float32(0.4),
            "epochs": np.arange(12),
            "done": np.bool_(True),
        },
        "optimizer": {"state": {0: {"momentum_buffer": torch.ones(2)}}},
    }
    checkpoint = read_checkpoint(write(tmp_path / "x.pth", content, **form))
    assert checkpoint.version == "2.3.0+8194b16"
    assert checkpoint.stride_in_1x1 is True
    assert list(checkpoint.weights) == ["conv.weight", "conv.bias"]
    assert torch.equal(checkpoint.weights["conv.weight"], torch.arange(600.0))


@pytest.mark.parametrize("entry", ["state_dict", "model", None])
def test_weights_are_found(tmp_path, entry):
    content = {entry: WEIGHTS, "iteration": 3} if entry else WEIGHTS
    checkpoint = read_checkpoint(write(tmp_path / "x.pth", content))
    assert checkpoint.weights.keys() == {"conv.weight", "conv.bias"}
    assert (checkpoint.version, checkpoint.stride_in_1x1) == ("", None)


@pytest.mark.parametrize(
    "function, name", [(os.mkdir, "posix.mkdir"), (eval, r"(builtins\.)?eval")]
)
@pytest.mark.parametrize("form", FORMS.values(), ids=FORMS)
def test_code_is_not_run(tmp_path, form, function, name):
    made = tmp_path / "made"
    argument = str(made) if function is os.mkdir else f"__import__('os').mkdir('{made}')"
    content = {"state_dict": WEIGHTS, "meta": Run(function, argument)}
    path = write(tmp_path / "x.pth", content, **form)
    with pytest.raises(ValueError, match=f"{path} asks for {name}, .*nothing was loaded"):
        read_checkpoint(path)
    with pytest.raises(ValueError, match=f"{path} asks for {name}, .*nothing was loaded"):
        AtomicCheckpointer(torch.nn.Linear(2, 2)).load(path)
    assert not made.exists()
    torch.load(path, weights_only=False)
    assert made.exists()


def test_code_is_not_run_where_the_user_lets_torch_run_it(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD", "1")
    made = tmp_path / "made"
    path = write(tmp_path / "x.pth", {"model": WEIGHTS, "meta": Run(os.mkdir, str(made))})
    with pytest.raises(ValueError, match="posix.mkdir"):
        AtomicCheckpointer(torch.nn.Linear(2, 2)).load(path)
    assert not made.exists()


def test_times_and_paths_are_allowed(tmp_path):
    meta = {"time": datetime.datetime(2020, 2, 19), "path": pathlib.PosixPath("work_dirs/x")}
    path = write(tmp_path / "x.pth", {"state_dict": WEIGHTS, "meta": meta})
    assert len(read_checkpoint(path).weights) == 2


@pytest.mark.parametrize(
    "config, version",
    [
        ("rpn_head=dict(type='GARPNHead', approx_anchor_generator=dict())", "2"),
        ("bbox_head=dict(type='GARetinaHead', octave_base_scale=4)", "1.0rc1+8c0a6d1"),
    ],
)
def test_a_config_of_2_counts_more_than_a_version_of_1(tmp_path, config, version):
    meta = {"mmdet_version": "1.0rc1+8c0a6d1", "config": config}
    path = write(tmp_path / "x.pth", {"state_dict": WEIGHTS, "meta": meta})
    assert read_checkpoint(path).version == version


def test_another_class_is_named(tmp_path):
    path = write(tmp_path / "x.pth", {"state_dict": WEIGHTS, "args": argparse.Namespace(a=1)})
    with pytest.raises(ValueError, match="asks for argparse.Namespace, which is neither"):
        read_checkpoint(path)


def damaged():
    for name, form in FORMS.items():
        buffer = io.BytesIO()
        torch.save({"state_dict": WEIGHTS}, buffer, **form)
        content = buffer.getvalue()
        for length in (3, 100, len(content) // 2, len(content) - 1):
            yield f"{name}: {length} of {len(content)} bytes", content[:length]
    yield "nothing", b""
    yield "text", b"hello world\n" * 99
    yield "page", b"<!DOCTYPE html><html>" * 99
    yield "pickle", pickle.dumps({"model": {"a": np.zeros(3)}})


DAMAGED = dict(damaged())


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_a_damaged_file(tmp_path, content):
    path = tmp_path / "x.pth"
    path.write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{path} is (empty|not complete, or is not a PyTorch checkpoint)"
    ):
        read_checkpoint(str(path))


@pytest.mark.parametrize(
    "content, found",
    [
        ({"meta": {}, "optimizer": {}}, "entries meta, optimizer"),
        ({"state_dict": {}}, "entries state_dict"),
        ([torch.zeros(2)], "list"),
    ],
)
def test_a_file_without_weights(tmp_path, content, found):
    path = write(tmp_path / "x.pth", content)
    with pytest.raises(ValueError, match=f"{path} has no weights, only .*{found}"):
        read_checkpoint(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(FileNotFoundError, match="x.pth"):
        read_checkpoint(str(tmp_path / "x.pth"))
