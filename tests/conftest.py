import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def _single_threaded():
    """Tiny tensors are faster on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)
