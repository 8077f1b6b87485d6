"""Several processes on the CPU: the same as one with the whole batch, and no process waits.

As a script it trains two processes, of which one gets an image that is not a number.
"""

import sys

import pytest
import torch
from detectron2.engine import HookBase
from detectron2.utils import comm
from tiny_run import (
    Record,
    arguments,
    finish,
    load_weights,
    read_record,
    start,
    train,
    write_config,
    write_data_set,
)

from anchor_heads.engine import launch
from anchor_heads.modeling.distributed import loss_normalizer, sum_over_processes

STEPS = 5


class SpoilOneProcess(HookBase):
    def before_train(self):
        self.trainer.model.register_forward_pre_hook(self.spoil)

    def spoil(self, model, inputs):
        if comm.get_rank() == 1 and self.trainer.iter == 1:
            inputs[0][0]["image"] = torch.full(inputs[0][0]["image"].shape, torch.nan)


def train_and_spoil(args):
    train(args, SpoilOneProcess())


# Everything is sampled, so that the samples do not differ between one process and two.
MODELS = {
    "FreeAnchorRetinaNet": [],
    "FreeAnchorRPN": [
        *("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "FreeAnchorRPN"),
        *("MODEL.RPN.BBOX_REG_WEIGHTS", (10.0, 10.0, 5.0, 5.0)),
    ],
    "GuidedAnchorRetinaNet": [
        *("MODEL.META_ARCHITECTURE", "GuidedAnchorRetinaNet"),
        *("MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE", 10000),
    ],
    "GuidedAnchorRPN": [
        *("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "GuidedAnchorRPN"),
        *("MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE", 10000),
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000),
    ],
    "DynamicAnchorRetinaNet": ["MODEL.META_ARCHITECTURE", "DynamicAnchorRetinaNet"],
    "DynamicAnchorRPN": [
        *("MODEL.META_ARCHITECTURE", "ProposalNetwork"),
        *("MODEL.PROPOSAL_GENERATOR.NAME", "DynamicAnchorRPN"),
        *("MODEL.RPN.BATCH_SIZE_PER_IMAGE", 10000),
    ],
}


@pytest.fixture
def config(tmp_path, request):
    # The second process gets the images with odd places: with these images empty, whatever the
    # order, it has batches without an object.
    write_data_set(tmp_path, empty=(1, 4, 5, 6, 8, 9, 10))
    overrides = ["SOLVER.MAX_ITER", STEPS, "SOLVER.IMS_PER_BATCH", 4]
    overrides += getattr(request, "param", [])
    return write_config(tmp_path, overrides=overrides)


def two_processes(script, *command_line):
    return start(script, *command_line, "--num-gpus", 2, "--dist-url", "auto")


@pytest.fixture
def one_process(config, tmp_path):
    train(arguments(config, "OUTPUT_DIR", tmp_path / "one"), Record(tmp_path / "one.json"))
    return read_record(tmp_path / "one.json")


def assert_same_weights(tmp_path):
    weights = load_weights(tmp_path / "output")
    for name, weight in load_weights(tmp_path / "one").items():
        torch.testing.assert_close(weights[name], weight, rtol=0, atol=1e-5, msg=name)


def test_what_a_loss_is_divided_by_in_one_process():
    cpu = torch.device("cpu")
    assert loss_normalizer(7, cpu) == 7
    assert loss_normalizer(0, cpu) == loss_normalizer(0.5, cpu) == 1
    assert loss_normalizer(0.5, cpu, least=0.25) == 0.5
    assert loss_normalizer(0.0, cpu, least=0.25) == 0.25
    assert sum_over_processes(0, cpu) == 0


@pytest.mark.parametrize("config", MODELS.values(), ids=MODELS, indirect=True)
def test_two_processes_are_one_with_the_whole_batch(tmp_path, config, one_process):
    record = tmp_path / "two.json"
    code, said = finish(two_processes("tests/tiny_run.py", record, "--config-file", config))
    assert code == 0, said
    lines, others = (read_record(record, rank) for rank in (0, 1))
    assert len(lines) == len(others) == len(one_process) == STEPS

    empty = {f"{i}.png" for i in (1, 4, 5, 6, 8, 9, 10)}
    assert any(empty.issuperset(line["files"]) for line in lines + others)
    for line, other, whole in zip(lines, others, one_process, strict=True):
        assert sorted(line["files"] + other["files"]) == sorted(whole["files"])
        assert line["losses"] == pytest.approx(whole["losses"], abs=1e-5)
    assert_same_weights(tmp_path)


def test_torchrun(tmp_path, config, one_process):
    code, said = finish(start("train_net.py", "--config-file", config, torchrun=True))
    assert code == 0, said
    assert_same_weights(tmp_path)


@pytest.mark.parametrize(
    "config",
    [MODELS["FreeAnchorRetinaNet"], MODELS["GuidedAnchorRetinaNet"]],
    ids=["given anchors", "predicted anchors"],
    indirect=True,
)
def test_a_bad_image_in_one_process_stops_both(tmp_path, config):
    code, said = finish(two_processes("tests/engine/test_distributed.py", "--config-file", config))
    assert code != 0
    assert "At iteration 1 the loss is not finite: loss_" in said
    assert "model_last_good.pth. --resume goes on from there" in said
    saved = torch.load(tmp_path / "output/model_last_good.pth")
    assert saved["iteration"] == 0
    assert all(weight.isfinite().all() for weight in saved["model"].values())


if __name__ == "__main__":
    launch(train_and_spoil, arguments(sys.argv[2], flags=tuple(sys.argv[3:])))
