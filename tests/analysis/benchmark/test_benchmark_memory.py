import sys

import pytest
import torch
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import memory
from anchor_heads.analysis.benchmark.memory import MemoryMeter, peak_memory
from anchor_heads.analysis.benchmark.workload import Workload

linux = pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")


class Counter:
    """A process that holds ``now`` bytes and held up to ``most``."""

    now = most = 100

    def allocate(self, size):
        self.now += size
        self.most = max(self.now, self.most)

    def held(self):
        return self.now

    def peak(self):
        return self.most

    def forget_peak(self):
        self.most = self.now


def test_a_part_needs_what_it_holds_itself():
    counter = Counter()
    meter = MemoryMeter(counter)
    meter.switch("head: anchor prediction")
    counter.allocate(50)
    counter.allocate(-20)
    meter.switch("loss")
    counter.allocate(7)
    meter.switch("head: class and box")
    counter.allocate(40)
    meter.switch("loss: backward")  # holds its 7 still
    counter.allocate(10)
    counter.allocate(-17)
    meter.switch("other")
    assert meter.peaks == {"other": 0, "head": 30 + 40, "loss": 17}


@linux
def test_bytes_are_those_of_linux():
    meter = MemoryMeter(memory._counter(torch.device("cpu")))
    meter.switch("head")
    kept = torch.ones(40_000_000, dtype=torch.uint8)
    meter.switch("loss")
    torch.ones(80_000_000 * len(kept[:1]), dtype=torch.uint8)
    meter.switch("other")
    assert meter.peaks["head"] == pytest.approx(40e6, rel=0.1)
    assert meter.peaks["loss"] == pytest.approx(80e6, rel=0.1)


@linux
def test_memory_of_a_model(tmp_path):
    """Backward passes need what forward passes have kept, and large images need more."""
    cfg = tiny_config(tmp_path / "model", "RetinaNet")
    size = (256, 512)
    detecting, learning = peak_memory(cfg, [Workload(size), Workload(size, objects=3)])
    assert set(detecting) == {"whole", "other", "backbone", "head", "post-processing"}
    assert set(learning) == {"whole", "other", "backbone", "head", "assignment and loss"}
    pixels = 256 * 512
    # The normalised image; eight channels of half its size, before and after batch norm.
    assert 3 * 4 * pixels <= detecting["other"] < 30 * 4 * pixels
    assert 2 * 8 * pixels <= detecting["backbone"] < learning["backbone"] < 60e6
    assert detecting["head"] < learning["head"]
    assert detecting["whole"] > detecting["backbone"] and detecting["whole"] < learning["whole"]


def test_memory_on_the_cpu_of_other_systems_is_not_known(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    cfg = tiny_config(tmp_path / "model", "RetinaNet")
    assert peak_memory(cfg, [Workload((64, 96))]) is None
