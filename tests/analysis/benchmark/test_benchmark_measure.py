import copy

import numpy as np
import pytest
import torch
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import measure as measure_module
from anchor_heads.analysis.benchmark.measure import measure
from anchor_heads.analysis.benchmark.workload import Workload

SIZE = (64, 96)


@pytest.fixture(autouse=True)
def no_memory(monkeypatch):
    """Memory is measured in processes that take seconds to start."""
    monkeypatch.setattr(
        measure_module,
        "peak_memory",
        lambda cfg, workloads, modules: [10 * i for i in range(len(workloads))],
    )


def configs(folder, **architectures):
    return {
        name: tiny_config(folder / name, *names.split()) for name, names in architectures.items()
    }


def test_inference(tmp_path):
    cfgs = configs(tmp_path, plain="RetinaNet", guided="GuidedAnchorRetinaNet")
    workloads = [Workload(SIZE, batch_size=2, kept=x) for x in (0.1, 0.5)]
    results = measure(cfgs, workloads, repeats=3)
    assert [(x["kept"], x["batch_size"], x["objects"]) for x in results] == [
        (0.1, 2, None),
        (0.5, 2, None),
    ]
    plain, guided = results[0]["models"].values()
    both = ["whole", "backbone", "head", "post-processing", "other"]
    assert list(plain["seconds"]) == both
    assert set(guided["seconds"]) == {*both, "head: anchor prediction", "head: class and box"}
    seconds = {part: np.array(turns) for part, turns in guided["seconds"].items()}
    assert all(len(turns) == 3 and turns.min() > 0 for turns in seconds.values())
    inner = seconds["head: anchor prediction"] + seconds["head: class and box"]
    assert seconds["head"].tolist() == pytest.approx(inner.tolist())

    assert plain["baseline"] == guided["baseline"] == "plain" and plain["ratios"] == {}
    assert set(guided["ratios"]) == set(both)
    low, median, high = guided["ratios"]["whole"]
    turns = sorted(seconds["whole"] / np.array(plain["seconds"]["whole"]))
    assert low <= median <= high and median == pytest.approx(turns[1])
    assert [x["models"]["guided"]["peak_memory"] for x in results] == [{"whole": 0}, {"whole": 10}]


def test_training(tmp_path):
    cfgs = configs(tmp_path, plain="RetinaNet", free="FreeAnchorRetinaNet")
    (result,) = measure(cfgs, [Workload(SIZE, objects=3)], repeats=2)
    both = ["whole", "backbone", "backbone: backward", "head", "head: backward"]
    both += ["assignment and loss", "assignment and loss: backward", "other"]
    for model in result["models"].values():
        assert list(model["seconds"]) == both
    assert set(result["models"]["free"]["ratios"]) == set(both)


def test_each_kind_of_model_has_its_baseline(tmp_path):
    cfgs = configs(
        tmp_path,
        a="ProposalNetwork RPN",
        b="RetinaNet",
        c="ProposalNetwork DynamicAnchorRPN",
        d="GeneralizedRCNN RPN",
        e="FreeAnchorRetinaNet",
    )
    (result,) = measure(cfgs, [Workload(SIZE, kept=x) for x in (0.1, 0.5)], repeats=1)
    assert result["kept"] is None  # no model predicts locations
    assert {name: x["baseline"] for name, x in result["models"].items()} == dict(
        a="a", b="b", c="a", d="d", e="b"
    )


def test_models_take_turns(tmp_path, monkeypatch):
    called = []
    original, by_part = measure_module.run, measure_module.seconds_by_part

    def run(model, *args):
        called.append(type(model).__name__)
        return original(model, *args)

    def run_by_part(model, *args):
        called.append(f"{type(model).__name__} by part")
        return by_part(model, *args)

    monkeypatch.setattr(measure_module, "run", run)
    monkeypatch.setattr(measure_module, "seconds_by_part", run_by_part)
    cfgs = configs(tmp_path, a="RetinaNet", b="FreeAnchorRetinaNet")
    measure(cfgs, [Workload(SIZE)], repeats=2)
    a, b = "RetinaNet", "FreeAnchorRetinaNet"
    assert called[-8:] == [a, b, f"{a} by part", f"{b} by part"] * 2


@pytest.mark.parametrize("good_runs", [0, 1, 5])  # fails at first, while warming up, in a turn
def test_a_model_that_fails_is_left_out(tmp_path, monkeypatch, good_runs):
    original, done = measure_module.run, []

    def run(model, batch, dtype):
        if len(batch) == 2 and type(model).__name__ == "FreeAnchorRetinaNet":
            if len(done) == good_runs:
                raise torch.OutOfMemoryError("CUDA out of memory.\nDetails")
            done.append(1)
        return original(model, batch, dtype)

    monkeypatch.setattr(measure_module, "run", run)
    cfgs = configs(tmp_path, a="RetinaNet", b="FreeAnchorRetinaNet")
    results = measure(cfgs, [Workload(SIZE, batch_size=x) for x in (1, 2, 3)], repeats=4)
    assert [list(x["models"]) for x in results] == [["a", "b"], ["a"], ["a", "b"]]
    error = {"b": "OutOfMemoryError: CUDA out of memory."}
    assert [x["failed"] for x in results] == [{}, error, {}]


def test_results_are_saved_as_they_come(tmp_path):
    saved = []
    cfgs = configs(tmp_path, a="RetinaNet", b="FreeAnchorRetinaNet")
    results = measure(
        cfgs,
        [Workload(SIZE, batch_size=x) for x in (1, 2)],
        repeats=1,
        save=lambda results: saved.append(copy.deepcopy(results)),
    )
    with_memory = [
        [sum("peak_memory" in x for x in y["models"].values()) for y in z] for z in saved
    ]
    assert with_memory == [[0], [0, 0], [1, 1], [2, 2]]
    assert saved[-1] == results


def test_training_on_masks_is_refused(tmp_path):
    cfgs = configs(tmp_path, mask="GeneralizedRCNN RPN")
    cfgs["mask"].MODEL.MASK_ON = True
    with pytest.raises(ValueError, match="mask: .*MODEL.MASK_ON False"):
        measure(cfgs, [Workload(SIZE, objects=3)], repeats=1)


def test_other_runtimes_stand_beside_eager(tmp_path):
    cfgs = configs(tmp_path, guided="GuidedAnchorRetinaNet")
    workloads = [Workload(SIZE, kept=0.1), Workload(SIZE, objects=1)]
    with torch.compiler.set_stance("force_eager"):  # compiling takes minutes
        inference, training = measure(cfgs, workloads, 2, ["torchscript", "compile"])
    assert list(inference["models"]) == ["guided", "guided (torchscript)", "guided (compile)"]
    assert list(training["models"]) == ["guided", "guided (compile)"]
    other = inference["models"]["guided (torchscript)"]
    assert list(other["seconds"]) == ["whole"] and other["baseline"] == "guided"
    assert "head" in inference["models"]["guided"]["seconds"]
    with pytest.raises(ValueError, match="--runtime needs --batch-size 1"):
        measure(cfgs, [Workload(SIZE, batch_size=2, kept=0.1)], 1, ["torchscript"])
