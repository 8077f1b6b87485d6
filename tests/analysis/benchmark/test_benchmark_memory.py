import sys

import pytest
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark.memory import peak_memory
from anchor_heads.analysis.benchmark.workload import Workload

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


@linux
def test_memory_of_a_model(tmp_path):
    """Backward passes need what forward passes have kept, and large images need more."""
    cfg = tiny_config(tmp_path / "model", "RetinaNet")
    size = (256, 512)
    detecting, learning = peak_memory(cfg, [Workload(size), Workload(size, objects=3)])
    # At least the normalised image, and the stem's eight channels of half its size, twice.
    assert (3 + 2 * 2) * 4 * 256 * 512 < detecting < learning < 200e6


def test_memory_on_the_cpu_of_other_systems_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    cfg = tiny_config(tmp_path / "model", "RetinaNet")
    assert peak_memory(cfg, [Workload((64, 96))]) == [None]
