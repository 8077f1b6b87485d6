"""Another method needs a folder of its own and no other change: every command takes it."""

import json

import one_to_one
import pytest
from tiny_run import write_model

from anchor_heads.cli import main

ARCHITECTURES = {
    "OneToOneRetinaNet": ["OneToOneRetinaNet"],
    "OneToOneRPN": ["GeneralizedRCNN", ["MODEL.PROPOSAL_GENERATOR.NAME", "OneToOneRPN"]],
}


@pytest.fixture(params=ARCHITECTURES)
def model(request, tmp_path):
    """The name of the class, and the options that name its config and weights."""
    assert request.param in one_to_one.__all__
    folder = tmp_path / request.param
    config = write_model(folder, *ARCHITECTURES[request.param])
    return request.param, ["--config-file", config], ["--weights", str(folder / "model.pth")]


def run(command, *command_line):
    return main.run(command, list(map(str, command_line)))


def test_every_command(model, tmp_path, capsys):
    name, config, weights = model
    out = tmp_path / "out"
    run("compare", *config, *weights, "--output", out, "--images", 3, "--pictures", 1)
    (compared,) = json.loads((out / "comparison.json").read_text())["models"]
    assert compared["anchors_per_image"]["all"] > 100 and compared["best_iou"]["all"]["mean"] > 0.2
    assert (
        "those assigned to an object: class and box, one to one"
        in (out / "comparison.html").read_text()
    )

    capsys.readouterr()
    run("diagnose", *config, "--output", out / "diagnosis.json")
    assert f"Anchors: {name} on p3, p4, p5" in capsys.readouterr().out
    found = {x["name"] for x in json.loads((out / "diagnosis.json").read_text())["findings"]}
    # Every object has its anchor; levels without objects there may be.
    assert "learning_rate" in found
    assert not found & {"small_objects", "large_objects", "aspect_ratios", "refused_model"}

    run("analyze", *config, "--image-size", 64, 64)
    assert "| total " in capsys.readouterr().out

    options = ["--image-size", 64, 64, "--repeats", 1, "--threads", 1, "--kept", 0.5]
    options += ["--objects", 2, "--task", "inference", "training"]
    run("benchmark", *config, *options, "--output", out / "benchmark.json")
    inference, training = json.loads((out / "benchmark.json").read_text())["runs"]
    for result in (inference, training):
        (measured,) = result["models"].values()
        assert {"whole", "backbone", "head"} <= set(measured["seconds"])
    assert "assignment and loss" in measured["seconds"]

    run("visualize", *config, *weights, tmp_path / name / "0.png", "--output", out / "pictures")
    assert list((out / "pictures").iterdir())
