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
    else:
        if not simulated_device.has_compiler():
            pytest.skip("there is no C++ compiler to build the simulated device")
        simulated_device.register()
    return request.param
