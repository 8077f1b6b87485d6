"""What a resumed run takes from its config, and what it refuses."""

import logging

import pytest
import torch
from tiny_run import (
    Record,
    arguments,
    last_metrics,
    load_weights,
    train,
    write_config,
    write_data_set,
)

from anchor_heads.engine.resume import check_resumed_state


@pytest.fixture
def config(tmp_path):
    """Of a run that has stopped after two of its four iterations."""
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["SOLVER.WARMUP_ITERS", 0])
    train(arguments(config, "SOLVER.MAX_ITER", 2))
    return config


def resume(config, *overrides):
    return train(arguments(config, *overrides, flags=("--resume",)))


def test_settings_of_the_config_take_effect(config, caplog):
    with caplog.at_level(logging.WARNING):
        trainer = resume(
            config, "SOLVER.BASE_LR", 0.001, "SOLVER.WEIGHT_DECAY", 0.03, "SOLVER.MOMENTUM", 0.5
        )
    (group, *_) = trainer.optimizer.param_groups
    assert group["lr"] == pytest.approx(0.001)
    assert (group["weight_decay"], group["momentum"]) == (0.03, 0.5)
    assert trainer.start_iter == 2
    said = " ".join(record.getMessage() for record in caplog.records)
    assert "SOLVER.BASE_LR was 0.1 in the checkpoint and is 0.001: takes effect now" in said
    assert "SOLVER.WEIGHT_DECAY was 0.0001 in the checkpoint and is 0.03" in said


@pytest.mark.parametrize(
    "overrides, message",
    [
        (["SOLVER.OPTIMIZER", "AdamW"], "another optimizer. SOLVER.OPTIMIZER was SGD and is AdamW"),
        (
            ["MODEL.META_ARCHITECTURE", "RetinaNet"],
            "another model. MODEL.META_ARCHITECTURE was FreeAnchorRetinaNet and is RetinaNet",
        ),
        (["MODEL.FPN.OUT_CHANNELS", 32], "another model. MODEL.FPN.OUT_CHANNELS was 16 and is 32"),
        (
            ["SOLVER.MAX_ITER", 1],
            "from after 2 iterations, and the run has 1: .*larger SOLVER.MAX_ITER",
        ),
        (["SOLVER.MAX_EPOCHS", 0.1], "and the run has 1: write a larger SOLVER.MAX_EPOCHS"),
        (
            ["SOLVER.MAX_EPOCHS", 2, "SOLVER.IMS_PER_BATCH", 4],
            "SOLVER.IMS_PER_BATCH was 2 and is 4. .* more or fewer epochs .*SOLVER.MAX_EPOCHS 0",
        ),
        (["SOLVER.WEIGHT_DECAY_BIAS", 0.5], "other groups. .*SOLVER.WEIGHT_DECAY_BIAS was None"),
    ],
)
def test_another_run_is_refused(tmp_path, config, overrides, message):
    before = (tmp_path / "output/model_final.pth").read_bytes()
    with pytest.raises(ValueError, match=message):
        resume(config, *overrides)
    assert (tmp_path / "output/model_final.pth").read_bytes() == before


# --- features that are off by default ---


def test_the_average_of_the_weights(tmp_path):
    write_data_set(tmp_path)
    overrides = ["SOLVER.EMA_DECAY", 0.9, "SOLVER.CHECKPOINT_PERIOD", 2]
    config = write_config(tmp_path, overrides=overrides)
    weights = []

    class Keep(Record):
        def after_step(self):
            weights.append(self.trainer.model.state_dict()["head.cls_score.weight"].clone())

    trainer = train(arguments(config), Keep(""))
    expected = weights[0]
    for weight in weights[1:]:
        expected = 0.9 * expected + 0.1 * weight
    average = load_weights(tmp_path / "output", "model_final_ema.pth")
    torch.testing.assert_close(average["head.cls_score.weight"], expected)
    assert {"bbox/AP", "bbox_EMA/AP"} <= trainer.storage.latest().keys()

    final = load_weights(tmp_path / "output")
    (tmp_path / "output/last_checkpoint").write_text("model_0000001.pth")
    resume(config)
    assert_equal(load_weights(tmp_path / "output", "model_final_ema.pth"), average)
    assert_equal(load_weights(tmp_path / "output"), final)


def assert_equal(weights, others):
    assert weights.keys() == others.keys()
    for name, weight in weights.items():
        assert torch.equal(weight, others[name]), name


@pytest.fixture
def ends_early(tmp_path, monkeypatch):
    """The config of a run whose second evaluation is the best, and whose fourth is the last."""
    write_data_set(tmp_path)
    overrides = ["TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 5, "SOLVER.MAX_ITER", 50]
    overrides += ["SOLVER.EARLY_STOP_PATIENCE", 2, "SOLVER.EMA_DECAY", 0.9]
    overrides += ["SOLVER.CHECKPOINT_PERIOD", 10, "SOLVER.BASE_LR", 0.001]
    values = iter(x for value in (1.0, 3.0, 2.0, 3.0) for x in (value, value))  # the average's, too
    for name, found in (
        ("test", lambda *_: {"bbox": {"AP": next(values)}}),
        ("run_extra_evaluations", lambda *_: {"bbox_TTA": {"AP": 4.0}}),
    ):
        monkeypatch.setattr(f"anchor_heads.engine.Trainer.{name}", classmethod(found))
    return write_config(tmp_path, overrides=overrides)


@pytest.mark.parametrize("metric", ["bbox/AP", "bbox_EMA/AP"])
def test_the_best_checkpoint_and_an_early_end(tmp_path, ends_early, metric):
    trainer = train(arguments(ends_early, "TEST.BEST_METRIC", metric))
    assert trainer.iter == trainer.max_iter == 20
    output = tmp_path / "output"
    best, then = (torch.load(output / f"{x}.pth") for x in ("model_best", "model_0000009"))
    assert best["iteration"] == then["iteration"] == 9
    average = then["trainer"]["hooks"]["WeightAverage"]
    average = {name.removeprefix("module."): x for name, x in average.items() if "." in name}
    assert not torch.equal(average["head.cls_score.weight"], then["model"]["head.cls_score.weight"])
    assert_equal(best["model"], then["model"] if metric == "bbox/AP" else average)
    for name in ("model_final", "model_final_ema"):
        assert torch.load(output / f"{name}.pth")["iteration"] == 19
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    # Metrics are written every 20 iterations, those after the training by themselves.
    assert last_metrics(output).items() >= {"bbox/AP": 3.0, "bbox_TTA/AP": 4.0}.items()


def test_expected_results_decide_the_exit_of_a_run_that_ends_early(ends_early):
    expected = "TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 99.0, 0.5]]"
    with pytest.raises(SystemExit) as end:
        train(arguments(ends_early, *expected))
    assert end.value.code == 1


@pytest.mark.parametrize(
    "flag, metric, best, num_iterations",
    [
        ("--resume", "bbox/AP", {"iteration": 0, "value": 5.0}, 3),
        ("--resume", "bbox/AP50", {"iteration": 1, "value": 30.0}, 4),  # another metric
        ("--force", "bbox/AP", {"iteration": 0, "value": 3.0}, 3),  # another run
    ],
)
def test_the_best_value_is_resumed(tmp_path, monkeypatch, flag, metric, best, num_iterations):
    """The checkpoint to resume from is written before the evaluation after the same step."""
    write_data_set(tmp_path)
    overrides = ["TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 1, "SOLVER.MAX_ITER", 50]
    overrides += ["SOLVER.EARLY_STOP_PATIENCE", 2, "SOLVER.CHECKPOINT_PERIOD", 1]
    config = write_config(tmp_path, overrides=overrides)
    values = iter([5.0, 3.0, 2.0, 1.0])
    monkeypatch.setattr(
        "anchor_heads.engine.Trainer.test",
        classmethod(lambda *_: {"bbox": {"AP": (x := next(values)), "AP50": 10 * x}}),
    )

    class Killed(Record):
        def after_step(self):
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        train(arguments(config), Killed(""))
    trainer = train(arguments(config, "TEST.BEST_METRIC", metric, flags=(flag,)))
    assert trainer.iter == num_iterations
    found = torch.load(tmp_path / "output/model_best.pth")
    assert {"iteration": found["iteration"], "value": found["best"]["value"]} == best


def test_classes_are_kept(tmp_path, config):
    checkpoint = torch.load(tmp_path / "output/model_final.pth")
    assert checkpoint["class_names"] == ["square", "bar"]
    assert checkpoint["category_ids"] == [1, 2]
    assert "CLASS_NAMES:\n  - square\n  - bar" in (tmp_path / "output/config.yaml").read_text()


def test_the_state_of_any_optimizer_is_resumed_in_the_same_model():
    weight = torch.nn.Parameter(torch.ones(4, 3))
    optimizer = torch.optim.Adafactor([weight])  # keeps rows and columns
    weight.sum().backward()
    optimizer.step()
    state = optimizer.state_dict()
    assert any(x.shape not in ((), (4, 3)) for x in state["state"][0].values())
    check_resumed_state("model.pth", {"optimizer": state}, optimizer)
    other = torch.optim.Adafactor([weight, torch.nn.Parameter(torch.ones(2))])
    with pytest.raises(ValueError, match="is for 1 parameters, and the model has 2"):
        check_resumed_state("model.pth", {"optimizer": state}, other)
