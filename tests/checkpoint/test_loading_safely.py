"""Loading weights: no file runs code, a refused file leaves the checkpointer usable."""

import gzip
import io
import os
import pickle
import socket
import threading

import numpy as np
import pytest
import torch
from torch import nn

from anchor_heads.engine import checkpoint
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.errors import is_user_error


class Planted:
    """An object whose pickle runs a command when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.system, (f"touch {self.path}",)


@pytest.fixture
def model():
    return nn.Linear(2, 2)


@pytest.mark.parametrize("name", ["model.pkl", "model.pth", "model.pyth"])
def test_a_planted_command_is_not_run(tmp_path, model, name):
    planted = tmp_path / "planted"
    content = {"model": {"weight": np.zeros((2, 2)), "bias": Planted(planted)}, "__author__": "x"}
    path = tmp_path / name
    if name.endswith("pkl"):
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match="system"):
        AtomicCheckpointer(model).load(str(path))
    assert not planted.exists()


@pytest.mark.parametrize(
    "content",
    [[1, 2], 3, {"epoch": 3, "net": {"weight": torch.zeros(2, 2)}}, {"model": [torch.zeros(2)]}],
)
@pytest.mark.parametrize("suffix", ["pth", "pkl"])
def test_files_without_weights(tmp_path, model, content, suffix):
    path = tmp_path / f"model.{suffix}"
    if suffix == "pkl":
        content = np.zeros(2).tolist() if isinstance(content, dict) else content
        path.write_bytes(pickle.dumps(content))
    else:
        torch.save(content, path)
    with pytest.raises(ValueError, match=f"{path} has no weights"):
        AtomicCheckpointer(model).load(str(path))


GOOD = {"weight": torch.ones(2, 2), "bias": torch.ones(2)}
NAN = torch.full((2,), float("nan"))


def scripted() -> bytes:
    stream = io.BytesIO()
    torch.jit.save(torch.jit.script(nn.Linear(2, 2)), stream)
    return stream.getvalue()


# The content of a file (bytes as they are), and what is said of it.
REFUSED = {
    "empty": (b"", "is empty"),
    "text": (b"hello", "is not complete, or is not a PyTorch checkpoint.$"),
    "a page": (b"<!DOCTYPE html><html>404", "is not complete, or is not a PyTorch checkpoint.$"),
    "Git LFS": (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
    "an archive": (b"PK\5\6" + bytes(18), "is not complete, or is not a PyTorch checkpoint"),
    "no weights": ({"model": {}}, "has no weights"),
    "nothing": ({"model": None}, "has no weights"),
    "a module": (torch.nn.Linear(2, 2), "asks for torch.nn.modules.linear.Linear"),
    "numbered": ({"model": dict(enumerate(GOOD.values()))}, "has no weights that are known here"),
    "complex": ({"model": {**GOOD, "bias": torch.ones(2) * 1j}}, "has no weights that are known"),
    "sparse": ({"model": {**GOOD, "weight": torch.ones(2, 2).to_sparse()}}, "has no weights that"),
    "without values": (
        {"model": {**GOOD, "bias": NAN.to("meta")}},
        "has no weights that are known",
    ),
    "TorchScript": (
        scripted(),
        "Cannot use .* TorchScript archives passed to",
    ),
    "named by position": ({"model": [*GOOD.items()]}, "it has a list"),
    "one level too deep": ({"model": {"model": GOOD}}, "has no weights that are known here"),
    "with text": ({"model": {**GOOD, "version": "1"}}, "has no weights that are known here"),
    "compressed": (gzip.compress(b"PK"), "is not complete, or is not a PyTorch checkpoint.$"),
    "too large for a float": (
        {"model": {**GOOD, "bias": torch.ones(2).double() * 1e39}},
        "infinite or",
    ),
    "of another model": ({"model": {f"model.{k}": x for k, x in GOOD.items()}}, "Nothing in"),
    "of other shapes": ({"model": {k: torch.ones(()) for k in GOOD}}, "Nothing in"),
    "not a number": ({"model": {**GOOD, "bias": NAN}}, "infinite or not a number: bias. .*earlier"),
    "infinite": ({"model": {**GOOD, "bias": 1 / torch.zeros(2)}}, "infinite or not a number"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_files_that_are_refused(tmp_path, model, name):
    content, message = REFUSED[name]
    path = tmp_path / "model.pth"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(ValueError, match=message) as error:
        AtomicCheckpointer(model).load(str(path))
    assert is_user_error(error.value) and "\n" not in str(error.value)


def test_arrays_of_objects_are_no_weights(tmp_path, model):
    content = {"model": {"weight": np.array([None])}, "__author__": "someone"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    with pytest.raises(ValueError, match="has no weights that are known here"):
        AtomicCheckpointer(model).load(str(tmp_path / "model.pkl"))


@pytest.mark.parametrize(
    "change",
    [
        *(lambda x: x.half(), lambda x: x.double(), lambda x: x.bfloat16(), lambda x: x.bool()),
        *(lambda x: x.numpy(), lambda x: x.half().numpy(), nn.Parameter),
    ],
)
def test_weights_of_other_types_are_taken(tmp_path, model, change):
    torch.save({"model": {f"module.{k}": change(x) for k, x in GOOD.items()}}, tmp_path / "x.pth")
    AtomicCheckpointer(model).load(str(tmp_path / "x.pth"))
    assert model.weight.tolist() == [[1, 1], [1, 1]]


@pytest.mark.parametrize("address", ["s3://bucket/model.pth", "zip://model.pth", "catalog://model"])
def test_addresses_of_a_kind_that_is_not_known(model, address):
    with pytest.raises(FileNotFoundError, match=f"{address} are not found, or at an address"):
        AtomicCheckpointer(model).load(address)


def test_a_checkpointer_works_after_a_refused_file(tmp_path, model):
    torch.save({"other": torch.zeros(3)}, tmp_path / "other.pth")
    (tmp_path / "torn.pth").write_bytes(b"PK\x03\x04")
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(2)}, tmp_path / "good.pth")
    checkpointer = AtomicCheckpointer(model)
    for name, message in (("other", "Nothing in"), ("torn", "not complete"), ("no", "no file")):
        with pytest.raises((ValueError, FileNotFoundError), match=message):
            checkpointer.load(str(tmp_path / f"{name}.pth"))
    checkpointer.load(str(tmp_path / "good.pth"))
    assert model.bias.tolist() == [1, 1]


def test_what_is_evaluated_must_be_complete(tmp_path, model):
    torch.save({"weight": torch.ones(2, 2)}, tmp_path / "part.pth")
    torch.save({"weight": torch.ones(2, 2), "bias": torch.ones(3)}, tmp_path / "shape.pth")
    checkpointer = AtomicCheckpointer(model)
    for name in ("part", "shape"):
        path = str(tmp_path / f"{name}.pth")
        checkpointer.load(path)
        with pytest.raises(ValueError, match="lacks 1 of the model's 2 parameters.*: bias"):
            checkpointer.load_to_evaluate(path)
        checkpointer.load_to_evaluate(path, random_weights=True)
    with pytest.raises(ValueError, match="no weights to evaluate.*--random-weights"):
        checkpointer.load_to_evaluate("")


def test_an_address_that_sends_nothing(tmp_path, model, monkeypatch):
    monkeypatch.setenv("FVCORE_CACHE", str(tmp_path))
    monkeypatch.setattr(checkpoint, "STALLED_SECONDS", 0.3)
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        accepted = []
        thread = threading.Thread(target=lambda: accepted.append(server.accept()), daemon=True)
        thread.start()
        with pytest.raises(TimeoutError, match=f"{port}/model.pth sent nothing for 0.3 seconds"):
            AtomicCheckpointer(model).load(f"http://127.0.0.1:{port}/model.pth")
    assert socket.getdefaulttimeout() is None
