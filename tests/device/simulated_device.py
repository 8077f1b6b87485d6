"""The device "sim": the CPU in disguise, which reports every mix of CPU and device tensors.

It finds code that forgets a device on a machine without a GPU. It knows no autocast kernels and no
streams, ``torch.save`` refuses its tensors, and it says nothing about speed.
"""

import functools
import os
import shutil
import sys
import types
from pathlib import Path

import torch
from torch.utils.cpp_extension import load

NAME = "sim"
# Set in the process that test_simulated_device.py starts.
IN_OWN_PROCESS = "ANCHOR_HEADS_SIMULATED_DEVICE"


def has_compiler() -> bool:
    return shutil.which(os.environ.get("CXX", "c++")) is not None


@functools.cache
def register() -> None:
    """Build the device, or take the build of an earlier run, and make it known to this process.

    PyTorch keeps the build in its cache of extensions (``TORCH_EXTENSIONS_DIR``).
    """
    # ninja is a program beside Python's own.
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    source = Path(__file__).with_suffix(".cpp")
    load("simulated_device", [str(source)], extra_cflags=["-O1", "-w"])
    torch.utils.rename_privateuse1_backend(NAME)
    torch._register_device_module(NAME, _device_module())
    torch.utils.generate_methods_for_privateuse1_backend(for_storage=False)


def _device_module() -> types.ModuleType:
    """What PyTorch asks of ``torch.<device>``."""
    module = types.ModuleType(f"torch.{NAME}")
    module.is_available = lambda: True
    module.device_count = lambda: 1
    module.current_device = lambda: 0
    module.synchronize = lambda device=None: None
    module._is_in_bad_fork = lambda: False
    module.manual_seed_all = lambda seed: None
    module.get_rng_state = lambda device=None: torch.zeros(1, dtype=torch.uint8)
    module.set_rng_state = lambda state, device=None: None
    module.get_amp_supported_dtype = lambda: [torch.bfloat16, torch.float16]
    return module
