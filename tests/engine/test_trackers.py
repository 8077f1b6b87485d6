"""Experiment trackers as event writers."""

import sys
from contextlib import nullcontext
from types import SimpleNamespace

import pytest
from detectron2.utils.events import EventStorage
from tiny_run import arguments, train, write_config, write_data_set

from anchor_heads import get_cfg
from anchor_heads.engine import Trainer, setup
from anchor_heads.engine.trackers import TrackerWriter, build_trackers, check_trackers


def config_for(name, tmp_path):
    cfg = get_cfg()
    cfg.OUTPUT_DIR, cfg.EXPERIMENT_TRACKERS = str(tmp_path / "my_run"), [name]
    return cfg


def test_what_is_new_is_given_once():
    logged = []
    writer = TrackerWriter(lambda metrics, i: logged.append((i, metrics)), lambda failed: None)
    with EventStorage() as storage:
        storage.put_scalars(loss=2.0, lr=0.1, smoothing_hint=False)
        storage.step()
        storage.put_scalar("loss", 1.0, smoothing_hint=False)
        writer.write()
        writer.write()
        storage.step()
        storage.put_scalar("bbox/AP", 30.0, smoothing_hint=False)
        writer.write()
    assert logged == [(0, {"lr": 0.1}), (1, {"loss": 1.0}), (2, {"bbox/AP": 30.0})]


@pytest.fixture
def wandb(monkeypatch):
    """In the place of the package: what runs were started with, and the calls to them."""
    calls, started = [], {}
    run = SimpleNamespace(
        log=lambda metrics, step: calls.append((step, metrics)),
        finish=lambda exit_code: calls.append(exit_code),
    )
    module = SimpleNamespace(init=lambda **kwargs: started.update(kwargs) or run)
    monkeypatch.setitem(sys.modules, "wandb", module)
    return started, calls


def test_a_service_gets_the_metrics_and_the_config(tmp_path, wandb):
    started, calls = wandb
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["EXPERIMENT_TRACKERS", ["wandb"]])
    train(arguments(config))
    assert started["name"] == "output" and started["project"] == "anchor_heads"
    assert started["config"]["SOLVER"]["MAX_ITER"] == 4
    assert calls[-1] == 0
    metrics = {name for _, new in calls[:-1] for name in new}
    assert {"total_loss", "lr", "time", "bbox/AP"} <= metrics


@pytest.mark.parametrize(
    "overrides,exit_code",
    [
        (["SOLVER.BASE_LR", 1e30], 1),
        (
            ["TEST.BEST_METRIC", "bbox/AP", "TEST.EVAL_PERIOD", 1, "SOLVER.EARLY_STOP_PATIENCE", 1],
            0,
        ),
    ],
)
def test_a_service_is_told_whether_a_run_failed(tmp_path, wandb, overrides, exit_code):
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["EXPERIMENT_TRACKERS", ["wandb"], *overrides])
    with pytest.raises(FloatingPointError) if exit_code else nullcontext():
        train(arguments(config))
    calls = wandb[1]
    assert calls[-1] == exit_code
    assert max(iteration for iteration, _ in calls[:-1]) < 3  # of 4 iterations


def test_a_service_is_told_that_the_last_evaluation_failed(tmp_path, wandb, monkeypatch):
    def test(cfg, model):
        raise OSError("no space")

    monkeypatch.setattr(Trainer, "test", staticmethod(test))
    write_data_set(tmp_path)
    config = write_config(tmp_path, overrides=["EXPERIMENT_TRACKERS", ["wandb"]])
    with pytest.raises(OSError, match="no space"):
        train(arguments(config))
    assert wandb[1][-1] == 1


def test_a_service_that_is_not_known_or_not_there(tmp_path, monkeypatch):
    with pytest.raises(ValueError, match="there is no 'comet', only wandb, mlflow, trackio"):
        check_trackers(config_for("comet", tmp_path))
    monkeypatch.setitem(sys.modules, "mlflow", None)
    with pytest.raises(ModuleNotFoundError, match=r"pip install 'anchor-heads\[mlflow\]'"):
        check_trackers(config_for("mlflow", tmp_path))
    config = write_config(tmp_path, overrides=["EXPERIMENT_TRACKERS", ["mlflow"]])
    with pytest.raises(ModuleNotFoundError):
        setup(arguments(config))  # before anything of the run is there
    assert not (tmp_path / "output").exists()


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_the_services_offline(tmp_path, monkeypatch, name):
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("TRACKIO_DIR", str(tmp_path / "trackio"))  # which it reads when imported
    pytest.importorskip(name)
    (tmp_path / "my_run").mkdir()
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    (writer,) = build_trackers(config_for(name, tmp_path))
    with EventStorage() as storage:
        storage.put_scalars(**{"loss": 1.0, "box_proposals/AR@100": 2.0})
        writer.write()
    writer.finish(False)
    assert any(path.is_file() for path in tmp_path.rglob("*"))
    assert not list((tmp_path / "here").iterdir())
