import pytest
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog


@pytest.fixture(autouse=True, scope="session")
def _single_threaded():
    """Tiny tensors are faster on one thread."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.fixture(autouse=True)
def _catalogs_as_before():
    """Data sets that a test registers are forgotten after it."""
    catalogs = DatasetCatalog, MetadataCatalog
    before = [set(catalog) for catalog in catalogs]
    yield
    for catalog, names in zip(catalogs, before, strict=True):
        for name in set(catalog) - names:
            catalog.pop(name)
