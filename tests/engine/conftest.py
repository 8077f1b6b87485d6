import pytest
from tiny_run import write_config, write_data_set


@pytest.fixture
def make_config(tmp_path):
    """Writes the data set, and a config for it with the overrides; returns the config's path."""
    write_data_set(tmp_path)
    return lambda model="FreeAnchorRetinaNet", *overrides: write_config(tmp_path, model, overrides)
