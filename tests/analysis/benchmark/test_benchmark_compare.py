import numpy as np
import pytest
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import compare as compare_module
from anchor_heads.analysis.benchmark.compare import compare, compare_times, take_turns
from anchor_heads.analysis.benchmark.workload import Workload, build_timed_model, make_image

SIZE = (64, 96)


def build(folder, *names):
    return build_timed_model(tiny_config(folder, *names), make_image(*SIZE))


def turns(run, model):
    return {part: np.array(x["turns"]) for part, x in run["seconds"][model].items()}


def test_models_take_turns(monkeypatch):
    called = []
    monkeypatch.setattr(compare_module, "run", lambda model, x: called.append((model, "whole")))
    monkeypatch.setattr(
        compare_module, "run_by_part", lambda model, x, meter: called.append((model, "parts"))
    )
    models = {"a": "A", "b": "B"}
    ways = {"b": (None, lambda: called.append(("B", "dense")))}
    seconds = take_turns(models, {"a": {}, "b": {}}, ways, repeats=2)
    turn = [("A", "whole"), ("B", "whole"), ("A", "parts"), ("B", "parts"), ("B", "dense")]
    assert called == turn * (compare_module.WARMUP_TURNS + 2)
    assert seconds["a"]["whole"].shape == (2,)
    assert set(seconds["a"]) == {"whole"} and set(seconds["b"]) == {"whole", "judging, dense"}


@pytest.mark.parametrize(
    "guided, plain",
    [
        (["GuidedAnchorRetinaNet"], ["RetinaNet"]),
        (["GeneralizedRCNN", "GuidedAnchorRPN"], ["GeneralizedRCNN", "RPN"]),
    ],
)
def test_models_with_given_locations(tmp_path, guided, plain):
    model = build(tmp_path / "guided", *guided)
    models = {"model": model, "baseline": build(tmp_path / "plain", *plain)}
    modules = dict(model.named_modules())
    weights = {name: x.clone() for name, x in model.state_dict().items()}

    few, many = (compare_times(models, Workload(SIZE, kept=x), repeats=3) for x in (0.1, 0.5))
    assert 1 <= few["mean_blob_cells"] < many["mean_blob_cells"]
    assert few["largest_difference"].keys() == {"model"}
    assert few["largest_difference"]["model"] < 1e-5
    assert few["boxes"].keys() == {"model", "baseline"}
    both = ["whole", "backbone", "head", "post-processing", "other"]
    both += ["ROI heads"] if "GeneralizedRCNN" in guided else []
    assert set(few["seconds"]["baseline"]) == set(both)
    assert set(few["seconds"]["model"]) == {
        *both,
        *("head: guide", "head: judging", "judging, dense"),
    }
    for values in (few["seconds"], few["ratios"]):
        for value in (x for parts in values.values() for x in parts.values()):
            assert len(value["turns"]) == 3 and min(value["turns"]) > 0
            low, median, high = value["quartiles"]
            assert low <= median <= high and median == sorted(value["turns"])[1]
    ours, theirs = turns(few, "model"), turns(few, "baseline")
    guide, sparse, dense = (ours[x] for x in ("head: guide", "head: judging", "judging, dense"))
    assert ours["head"].tolist() == pytest.approx((guide + sparse).tolist())
    assert few["ratios"].keys() == {"model / baseline", "model"}
    assert few["ratios"]["model / baseline"].keys() == set(both)
    for where, name, ratio in [
        ("model / baseline", "whole", ours["whole"] / theirs["whole"]),
        ("model / baseline", "head", ours["head"] / theirs["head"]),
        ("model", "judging, sparse / dense", sparse / dense),
        ("model", "head, sparse / dense", (guide + sparse) / (guide + dense)),
    ]:
        assert few["ratios"][where][name]["turns"] == pytest.approx(ratio.tolist())

    after = dict(model.named_modules())
    assert list(after) == list(modules) and all(after[name] is modules[name] for name in modules)
    assert all(x.equal(weights[name]) for name, x in model.state_dict().items())


def test_a_wrong_sparse_path_shows_in_the_largest_difference(tmp_path, monkeypatch):
    model = build(tmp_path / "guided", "GuidedAnchorRetinaNet")
    predict_at = model.head.predict_at

    def wrong(guide, locations):
        logits, deltas = predict_at(guide, locations)
        return logits, deltas + 0.001

    monkeypatch.setattr(model.head, "predict_at", wrong)
    run = compare_times({"model": model}, Workload(SIZE, kept=0.1), repeats=1)
    assert run["largest_difference"]["model"] == pytest.approx(0.001, rel=0.02)


def test_deformable_convolutions_of_a_head_are_a_part_of_it(tmp_path):
    names = ("DynamicAnchorRetinaNet", "RetinaNet", "GuidedAnchorRetinaNet")
    models = {name: build(tmp_path / name, name) for name in names}
    run = compare_times(models, Workload(SIZE, kept=0.1), repeats=2)
    dynamic = "DynamicAnchorRetinaNet"
    assert set(run["ratios"]) == {
        *(f"{dynamic} / {other}" for other in names[1:]),
        *(dynamic, "GuidedAnchorRetinaNet"),
    }
    seconds = turns(run, dynamic)
    deformable = seconds["head: deformable convolutions"]
    assert (deformable < seconds["head"]).all()
    share = run["ratios"][dynamic]["deformable convolutions / whole"]["turns"]
    assert share == pytest.approx((deformable / seconds["whole"]).tolist())


def test_training(tmp_path):
    models = {x: build(tmp_path / x, x) for x in ("GuidedAnchorRetinaNet", "RetinaNet")}
    run = compare_times(models, Workload(SIZE, num_objects=3), repeats=2)
    assert run.keys() == {"seconds", "ratios"}
    both = ["whole", "backbone", "backbone: backward", "head", "head: backward"]
    both += ["assignment and loss", "assignment and loss: backward", "other"]
    assert list(run["seconds"]["RetinaNet"]) == both
    assert list(run["ratios"]) == ["GuidedAnchorRetinaNet / RetinaNet"]
    assert set(run["ratios"]["GuidedAnchorRetinaNet / RetinaNet"]) == set(both)
    seconds = turns(run, "GuidedAnchorRetinaNet")
    details = [seconds[f"head: {x}"] for x in ("guide", "judging", "backward")]
    assert seconds["head"].tolist() == pytest.approx(sum(details).tolist())


@pytest.fixture
def no_memory(monkeypatch):
    """Measured elsewhere, in processes that take seconds to start."""
    monkeypatch.setattr(
        compare_module,
        "peak_memory",
        lambda cfg, workloads: [{"whole": 10 * i} for i in range(len(workloads))],
    )


def test_models_that_predict_no_locations_detect_once(tmp_path, no_memory):
    cfgs = {x: tiny_config(tmp_path / x, x) for x in ("FreeAnchorRetinaNet", "RetinaNet")}
    (run,) = compare(cfgs, [Workload(SIZE, kept=x) for x in (0.1, 0.5)], repeats=1)
    assert run.keys() == {"seconds", "ratios", "boxes", "peak_memory"}
    assert run["peak_memory"] == {x: {"whole": 0} for x in cfgs}


def test_a_run_for_each_workload(tmp_path, no_memory):
    cfgs = {"model": tiny_config(tmp_path / "x", "GuidedAnchorRetinaNet")}
    few, many = compare(cfgs, [Workload(SIZE, kept=x) for x in (0.1, 0.5)], repeats=1)
    assert (few["kept"], many["kept"]) == (0.1, 0.5)
    few, many = compare(cfgs, [Workload(SIZE, num_objects=x) for x in (0, 30)], repeats=1)
    assert (few["objects"], many["objects"]) == (0, 30)
    assert many["peak_memory"] == {"model": {"whole": 10}}
