from copy import deepcopy

import pytest
import torch
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import parts
from anchor_heads.analysis.benchmark.parts import Stopwatch, seconds_by_part
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_measured_model,
    make_batch,
    run,
)

SIZE = (64, 96)
# What a model is at work on; a backward pass is named once for all that it goes through.
DENSE = ["other", "backbone", "head", "assignment and loss"]
PREDICTED = ["head: anchor prediction", "head: class and box"]
GUIDED = ["other", "backbone", "head", *PREDICTED, "assignment and loss"]
BACKWARD = [f"{part}: backward" for part in ("assignment and loss", "head", "backbone")]
TWO_STAGES = ["post-processing", "ROI heads", "ROI heads: backward"]
MODELS = {
    ("RetinaNet",): DENSE,
    ("FreeAnchorRetinaNet",): DENSE,
    ("GuidedAnchorRetinaNet",): GUIDED,
    ("DynamicAnchorRetinaNet",): DENSE,
    ("ProposalNetwork", "GuidedAnchorRPN"): [*GUIDED, "post-processing"],
    ("GeneralizedRCNN", "RPN"): [*DENSE, *TWO_STAGES],
    ("GeneralizedRCNN", "DynamicAnchorRPN"): [*DENSE, *TWO_STAGES],
    ("GeneralizedRCNN", "FreeAnchorRPN"): [*DENSE, *TWO_STAGES],
}


def build(folder, *names):
    return build_measured_model(tiny_config(folder, *names), SIZE)


@pytest.mark.parametrize("names", MODELS, ids=" ".join)
def test_training_by_part_gives_the_gradients_of_a_step(tmp_path, names):
    model = build(tmp_path / "model", *names).train()
    batch = make_batch(model, Workload(SIZE, objects=3))
    # A box head at the weights that training starts from passes hardly any gradient on.
    if names[0] == "GeneralizedRCNN":
        torch.nn.init.normal_(model.roi_heads.box_predictor.cls_score.weight)
    gradients = []
    for step in (run, seconds_by_part):
        torch.manual_seed(0)  # some methods sample
        copy = deepcopy(model)  # RetinaNet remembers how many positives there were
        seconds = step(copy, batch, "float32")
        gradients.append({name: x.grad for name, x in copy.named_parameters()})
    assert sum(x is not None and x.abs().max() > 0 for x in gradients[0].values()) > 20
    torch.testing.assert_close(*gradients, rtol=1e-3, atol=1e-6)
    assert set(seconds) == {*MODELS[names], *BACKWARD}
    assert all(x > 0 for x in seconds.values())


@pytest.mark.parametrize(
    "names, expected",
    [
        (["RetinaNet"], ["head"]),
        (["ProposalNetwork", "GuidedAnchorRPN"], ["head", *PREDICTED]),
        (["GeneralizedRCNN", "RPN"], ["head", "ROI heads"]),
    ],
)
def test_parts_in_inference(tmp_path, names, expected):
    model = build(tmp_path / "model", *names)
    seconds = seconds_by_part(model, make_batch(model, Workload(SIZE)), "float32")
    assert set(seconds) == {"other", "backbone", "post-processing", *expected}
    # The model is as it was.
    assert not any("forward" in vars(x) for x in model.modules())
    assert not {"forward_inference", "predict_proposals"} & set(vars(model))


def test_parts_are_all_of_the_time(tmp_path, monkeypatch):
    """By a clock that stands still but for the convolutions, which take a second each."""
    now = [0]
    monkeypatch.setattr(parts, "timer", lambda: now[0])

    def tick(*arguments):
        now[0] += 1

    model = build(tmp_path / "model", "RetinaNet")
    convolutions = {
        name: [x for x in module.modules() if isinstance(x, torch.nn.Conv2d)]
        for name, module in model.named_children()
    }
    for convolution in convolutions["backbone"] + convolutions["head"]:
        convolution.register_forward_hook(tick)
    seconds = seconds_by_part(model, make_batch(model, Workload(SIZE)), "float32")
    levels = len(model.head_in_features)
    assert seconds == {
        "backbone": len(convolutions["backbone"]),
        "head": levels * len(convolutions["head"]),
        "post-processing": 0,
        "other": 0,
    }


def test_time_within_a_part_goes_to_the_inner_part(monkeypatch):
    clock = iter([0, 1, 1, 3, 3, 7, 7, 15, 15, 31, 31, 63, 63])
    monkeypatch.setattr(parts, "timer", lambda: next(clock))
    stopwatch = Stopwatch()
    outer = stopwatch.switch("outer")
    inner = stopwatch.switch("inner")
    assert (outer, inner) == ("other", "outer")
    stopwatch.switch(inner)
    stopwatch.switch("outer: part")
    stopwatch.switch(outer)
    stopwatch.switch("other")
    seconds = {"other": 1 + 32, "outer": 2 + 8 + 16, "inner": 4, "outer: part": 16}
    assert stopwatch.seconds == seconds
