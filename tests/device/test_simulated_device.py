"""The tests of this folder on the simulated device.

PyTorch has to know a device before the first backward pass of a process.
"""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import simulated_device
from simulated_device import IN_OWN_PROCESS

FILES = ["test_models_on_device.py", "test_commands_on_device.py"]


@pytest.mark.timeout(1200)
@pytest.mark.skipif(
    IN_OWN_PROCESS in os.environ or not simulated_device.has_compiler(),
    reason="there is no C++ compiler to build the simulated device",
)
def test_on_the_simulated_device():
    folder = Path(__file__).parent
    result = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-m", "not gpu", *(str(folder / x) for x in FILES)],
        env={**os.environ, IN_OWN_PROCESS: "1"},
        cwd=folder.parents[1],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 0, result.stdout[-5000:]
