import warnings

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _quiet_and_single_threaded():
    """Tiny tensors are faster on one thread, and two pytest runs do not fight for cores."""
    torch.set_num_threads(1)
    # Detectron2's own use of pkg_resources, torch.jit and meshgrid.
    warnings.filterwarnings("ignore", category=DeprecationWarning)
    warnings.filterwarnings("ignore", message="torch.meshgrid")


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
