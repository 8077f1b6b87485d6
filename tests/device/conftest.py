import os

import pytest
import simulated_device
import torch


@pytest.fixture(
    params=[simulated_device.NAME, pytest.param("cuda", marks=pytest.mark.gpu)],
)
def device(request) -> str:
    """A device that is not the CPU: a simulated one, and a GPU where there is one."""
    if request.param == "cuda":
        if not torch.cuda.is_available():
            pytest.skip("there is no GPU")
    elif simulated_device.IN_OWN_PROCESS in os.environ:
        simulated_device.register()
    else:
        pytest.skip("runs in a process of its own, see test_simulated_device.py")
    return request.param


@pytest.fixture(autouse=True)
def float32_convolutions(monkeypatch):
    """By default a GPU rounds the input of convolutions to TF32, three decimal digits."""
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)
