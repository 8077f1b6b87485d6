"""A training step: when it stops before the weights are spoiled, what it copies, its precision."""

import pytest
import torch
from detectron2.data import DatasetCatalog
from detectron2.engine import HookBase
from detectron2.utils.events import EventStorage
from tiny_run import (
    Record,
    arguments,
    last_metrics,
    load_weights,
    read_record,
    train,
    trainer_for,
)
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.engine.train_step import NonFiniteError


class Spoil(HookBase):
    """Makes the images of one iteration not a number."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train(self):
        self.trainer.model.register_forward_pre_hook(self.spoil)

    def spoil(self, model, inputs):
        if model.training and self.trainer.iter == self.iteration:
            for image in inputs[0]:
                image["image"] = torch.full(image["image"].shape, torch.nan)


def assert_stopped_at_3(folder, error, expected, weights_after_2):
    files = next(line["files"] for line in expected if line["iteration"] == 3)
    assert "iteration 3" in str(error) and "SOLVER.BASE_LR" in str(error)
    for file in files:
        assert file in str(error)
    assert (folder / "last_checkpoint").read_text() == "model_last_good.pth"
    saved = torch.load(folder / "model_last_good.pth")
    assert saved["iteration"] == saved["trainer"]["iteration"] == 2
    for name, weight in saved["model"].items():
        assert weight.isfinite().all(), name
        torch.testing.assert_close(weight, weights_after_2[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "model, what",
    [
        ("RetinaNet", "loss_cls = nan"),
        ("DynamicAnchorRetinaNet", "loss_cls = nan"),
        ("ProposalNetwork", "Predicted boxes or"),
    ],
)
def test_a_loss_that_is_not_finite(tmp_path, make_config, model, what):
    # Batch norm takes a bad image into its statistics before there is a loss to look at.
    config = make_config(model, "SOLVER.MAX_ITER", 5, "MODEL.RESNETS.NORM", "BN")
    overrides = ["SOLVER.CHECKPOINT_PERIOD", 3, "OUTPUT_DIR", tmp_path / "good"]
    train(arguments(config, *overrides), Record(tmp_path / "good.json"))
    expected = read_record(tmp_path / "good.json")

    with pytest.raises(NonFiniteError, match=what) as error:
        train(arguments(config), Spoil(3))
    weights_after_2 = load_weights(tmp_path / "good", "model_0000002.pth")
    assert_stopped_at_3(tmp_path / "output", error.value, expected, weights_after_2)
    assert "bbox/AP" not in last_metrics(tmp_path / "output")  # a failed run is not evaluated

    train(arguments(config, flags=("--resume",)), Record(tmp_path / "resumed.json"))
    assert [line["iteration"] for line in read_record(tmp_path / "resumed.json")] == [3, 4]
    final = load_weights(tmp_path / "output")
    for name, weight in load_weights(tmp_path / "good").items():
        torch.testing.assert_close(final[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_gradient_that_is_not_finite(tmp_path, make_config):
    def spoil(trainer):
        bias = trainer.model.head.cls_score.bias
        bias.register_hook(lambda gradient: gradient * (torch.nan if trainer.iter == 1 else 1))

    with pytest.raises(NonFiniteError, match="iteration 1 the gradient.*: head.cls_score.bias"):
        train(arguments(make_config()), prepare=spoil)
    saved = torch.load(tmp_path / "output" / "model_last_good.pth")
    assert saved["iteration"] == 0
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_a_first_step_that_fails_starts_again(tmp_path, make_config):
    config = make_config()
    with pytest.raises(NonFiniteError):
        train(arguments(config), Spoil(0))
    assert train(arguments(config, flags=("--resume",))).start_iter == 0


def test_accumulated_gradients_are_those_of_the_batch(make_config):
    """Of images of one size, in two parts with three objects each."""
    config, found = make_config("FreeAnchorRetinaNet", "SOLVER.IMS_PER_BATCH", 4), {}
    for parts in (1, 2):
        trainer = trainer_for(config, "SOLVER.GRADIENT_ACCUMULATION", parts)
        records = DatasetCatalog.get(trainer.cfg.DATASETS.TRAIN[0])
        mapper = DatasetMapper(trainer.cfg, is_train=True)
        batch = [mapper(records[i]) for i in (2, 5, 11, 8)]
        assert [len(x["instances"]) for x in batch] == [1, 2, 2, 1]
        assert len({x["image"].shape for x in batch}) == 1
        step = trainer._trainer
        step.iter, step.data_loader = 0, [batch]
        with EventStorage() as storage:
            step.run_step()
        gradients = {name: x.grad for name, x in trainer.model.named_parameters()}
        found[parts] = gradients, storage.latest()["total_loss"][0]
    assert found[2][1] == pytest.approx(found[1][1])
    for name, gradient in found[1][0].items():
        limit = 1e-5 * gradient.abs().max().item()
        torch.testing.assert_close(found[2][0][name], gradient, rtol=1e-4, atol=limit, msg=name)


class CopiedBuffers(TorchDispatchMode):
    """Lists the buffers of a model that are copied as they stand, by name."""

    def __init__(self, model):
        super().__init__()
        self.names = {buffer.data_ptr(): name for name, buffer in model.named_buffers()}
        self.copied = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.clone.default and args[0].data_ptr() in self.names:
            self.copied.append(self.names[args[0].data_ptr()])
        return function(*args, **(kwargs or {}))


def test_a_step_copies_no_statistics_that_are_frozen(make_config):
    """The others are copied, so that a step that fails leaves the model as it was."""
    trainer = trainer_for(make_config("FreeAnchorRetinaNet"))
    step = trainer._trainer
    step.iter, step.data_loader = 0, trainer.build_train_loader(trainer.cfg)
    with EventStorage(), CopiedBuffers(trainer.model) as buffers:
        step.run_step()
    assert set(buffers.copied) == {x for x in buffers.names.values() if "norm" not in x}
    assert len(buffers.copied) < 10 < len(buffers.names)


def test_mixed_precision_on_the_cpu(tmp_path, make_config):
    config = make_config()
    train(arguments(config), Record(tmp_path / "full.json"))
    mixed = ["SOLVER.AMP.ENABLED", True, "OUTPUT_DIR", tmp_path / "mixed"]
    trainer = train(arguments(config, *mixed), Record(tmp_path / "mixed.json"))
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    full, mixed = (read_record(tmp_path / f"{name}.json")[0] for name in ("full", "mixed"))
    total, mixed_total = full["losses"]["total_loss"], mixed["losses"]["total_loss"]
    assert total != mixed_total == pytest.approx(total, rel=0.02)
