"""The commands that run a model, on another device than the CPU."""

import json

import pytest
import simulated_device
from tiny_run import loggers_as_before, write_model

from anchor_heads.cli import main

MODELS = ["FreeAnchorRetinaNet", "GuidedAnchorRetinaNet", "DynamicAnchorRetinaNet"]


def run(*command_line) -> None:
    with loggers_as_before():
        assert main.main([str(x) for x in command_line]) == 0


@pytest.mark.parametrize("model", MODELS)
def test_commands_on_a_device(device, tmp_path, model):
    config, weights = write_model(tmp_path, model), tmp_path / "model.pth"
    options = ["--config-file", config, "--weights", weights]
    on_device = ["MODEL.DEVICE", device]

    extra = ["TEST.NMS_RECALL", True, "TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 64)]
    run("eval", *options, *on_device, *extra, "OUTPUT_DIR", tmp_path / "eval")
    assert (tmp_path / "eval/inference/coco_instances_results.json").exists()

    run("visualize", *options, "--output", tmp_path / "anchors", tmp_path / "0.png", *on_device)
    assert (tmp_path / "anchors/0_anchors.png").exists()

    if device != simulated_device.NAME:  # whose tensors cannot be copied by copy.deepcopy
        run("compare", *options, "--output", tmp_path / "compare", *on_device)
        assert list((tmp_path / "compare").glob("*.html"))

    found = {}
    for name in (device, "cpu"):
        output = tmp_path / f"{name}.json"
        run("predict", *options, tmp_path / "0.png", "--json", output, "MODEL.DEVICE", name)
        found[name] = json.loads(output.read_text())
    assert len(found[device]) == len(found["cpu"])
