import io
import os
import pickle
from collections import OrderedDict

import numpy as np
import pytest
from detectron2.structures import BoxMode

from anchor_heads.checkpoint.safe_pickle import UnsafePickleError, load_pickle


class Run:
    """Calls a function when it is unpickled."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def load(content, protocol=4):
    return load_pickle(io.BytesIO(pickle.dumps(content, protocol)), "some.pkl")


@pytest.mark.parametrize("protocol", range(6))
def test_arrays_and_containers_are_read(protocol):
    content = {
        "ids": [1, "two", 3.5, None, True, b"bytes", {4, 5}, (6,)],
        "boxes": [np.arange(8.0).reshape(2, 4), np.zeros((0, 4), np.float32)],
        "names": np.array(["a", "bc"]),
        "objects": np.array([[1], None], dtype=object),
        "number": np.float32(0.25),
        "flag": np.bool_(True),
        "bbox_mode": BoxMode.XYXY_ABS,
        "model": OrderedDict(weight=np.ones((2, 3), np.float16)),
    }
    loaded = load(content, protocol)
    assert loaded["ids"] == content["ids"]
    assert loaded["bbox_mode"] is BoxMode.XYXY_ABS
    assert loaded["number"] == np.float32(0.25) and loaded["number"].dtype == np.float32
    for key in ("names", "objects"):
        assert loaded[key].tolist() == content[key].tolist()
    for found, expected in zip(loaded["boxes"], content["boxes"], strict=True):
        np.testing.assert_array_equal(found, expected)
    assert loaded["model"]["weight"].dtype == np.float16


def test_files_of_python_2_and_of_numpy_1_are_read():
    # {"boxes": np.arange(2, dtype=np.float32), "name": "x"} as Python 2 with numpy 1 writes it
    pickled = (
        b"\x80\x02}q\x01(U\x05boxesq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray"
        b"\nq\x04K\x00\x85q\x05U\x01bq\x06\x87q\x07Rq\x08(K\x01K\x02\x85q\tcnumpy\ndtype\nq\n"
        b"U\x02f4q\x0bK\x00K\x01\x87q\x0cRq\r(K\x03U\x01<q\x0eNNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff"
        b"K\x00tq\x0fb\x89U\x08\x00\x00\x00\x00\x00\x00\x80?q\x10tq\x11bU\x04nameq\x12U\x01xq\x13u."
    )
    loaded = load_pickle(io.BytesIO(pickled), "some.pkl")
    assert loaded["name"] == "x"
    np.testing.assert_array_equal(loaded["boxes"], np.arange(2, dtype=np.float32))


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("depth", ["alone", "in an array"])
def test_planted_code_is_not_run(tmp_path, protocol, depth):
    planted = Run(os.mkdir, str(tmp_path / "planted"))
    content = planted if depth == "alone" else {"boxes": np.array([planted], dtype=object)}
    with pytest.raises(UnsafePickleError, match=r"some\.pkl asks for \w+\.mkdir.* nothing was loa"):
        load(content, protocol)
    assert not (tmp_path / "planted").exists()


@pytest.mark.parametrize("function", [eval, exec, getattr, open, __import__, np.load])
def test_functions_are_refused(function):
    with pytest.raises(UnsafePickleError, match="some.pkl asks for"):
        load(Run(function, "x"))


@pytest.mark.parametrize("content", [b"", b"no pickle", pickle.dumps(np.arange(100))[:-50]])
def test_damaged_files_are_named(content):
    with pytest.raises(ValueError, match="some.pkl is not complete, or is not a pickle file"):
        load_pickle(io.BytesIO(content), "some.pkl")
