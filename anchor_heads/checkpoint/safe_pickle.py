"""Reading pickle files without running code from them.

``pickle.load`` calls whatever function a file names. Weights in Detectron2's ``.pkl`` files and
files of proposals hold numpy arrays in plain containers, and nothing else is read here.
"""

import codecs
import pickle
from collections import OrderedDict, defaultdict
from typing import Any, BinaryIO

import numpy as np
from detectron2.structures import BoxMode


class UnsafePickleError(ValueError):
    """A pickle file asks for an object that could run code when it is made."""


def _reduced(value: Any):
    """The function that pickles of the value call to make it."""
    return value.__reduce_ex__(2)[0]


_NUMPY_FUNCTIONS = {
    "multiarray._reconstruct": _reduced(np.empty(0)),
    "multiarray.scalar": _reduced(np.float64(0)),
    # numpy.core.numeric._frombuffer, of pickle protocol 5
    "numeric._frombuffer": np.empty(1).__reduce_ex__(5)[0],
}
# (module, name) in a pickle file -> what it means. Python 2 and 3 name modules differently, and
# numpy.core has an underscore since numpy 2.
ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): np.ndarray,
    ("numpy", "dtype"): np.dtype,
    ("collections", "OrderedDict"): OrderedDict,
    ("collections", "defaultdict"): defaultdict,
    ("_codecs", "encode"): codecs.encode,  # bytes in protocols 0 to 2
    ("detectron2.structures.boxes", "BoxMode"): BoxMode,
    **{
        (module, kind.__name__): kind
        for module in ("builtins", "__builtin__")
        for kind in (bytes, complex, dict, float, int, list, set, frozenset, slice, str, tuple)
    },
    **{
        (f"numpy.{core}.{path.split('.')[0]}", path.split(".")[1]): function
        for core in ("core", "_core")
        for path, function in _NUMPY_FUNCTIONS.items()
    },
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise UnsafePickleError(f"{module}.{name}")
        return ALLOWED[module, name]


def load_pickle(file: BinaryIO, name: str) -> Any:
    """Read a pickle of numpy arrays, numbers, text and plain containers.

    Args:
        file (BinaryIO): an open file.
        name (str): its path, for messages.

    Returns:
        the object.

    Raises:
        UnsafePickleError: if the file asks for anything else. Nothing of it was run.
        ValueError: if the file is damaged or is no pickle.
    """
    try:
        return _Unpickler(file, encoding="latin1").load()  # as Python 2 has written arrays
    except UnsafePickleError as error:
        raise UnsafePickleError(
            f"{name} asks for {error}, which is neither a numpy array nor a plain container. "
            "Loading it could run code, so nothing was loaded. If you trust the file, write its "
            "arrays to a new one where it was made."
        ) from None
    except MemoryError:
        raise
    except Exception as error:  # a damaged file can raise anything
        raise ValueError(f"{name} is not complete, or is not a pickle file ({error!r})") from error
