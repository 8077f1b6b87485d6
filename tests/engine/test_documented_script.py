"""The script for data of one's own in docs/own_data.md, as it stands there."""

import json
import re

import pytest
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from tiny_run import REPOSITORY, loggers_as_before, write_config, write_data_set

from anchor_heads.engine import argument_parser, launch


@pytest.fixture
def script(tmp_path):
    """Runs the script with these arguments, in this process."""
    write_data_set(tmp_path)
    coco = json.loads((tmp_path / "annotations.json").read_text())

    def load_cells():
        return [
            {
                "file_name": str(tmp_path / image["file_name"]),
                "image_id": image["id"],
                "height": image["height"],
                "width": image["width"],
                "annotations": [
                    {"bbox": x["bbox"], "bbox_mode": BoxMode.XYWH_ABS, "category_id": 0}
                    for x in coco["annotations"]
                    if x["image_id"] == image["id"]
                ],
            }
            for image in coco["images"]
        ]

    text = (REPOSITORY / "docs/own_data.md").read_text()
    (code,) = re.findall(r"```python\n(from anchor_heads.engine.*?)```", text, re.DOTALL)
    names = {"__name__": "script", "load_cells": load_cells}
    exec(code, names)

    def run(*command_line):
        DatasetCatalog.pop("cells_train", None)
        MetadataCatalog.pop("cells_train", None)
        with loggers_as_before():
            launch(names["main"], argument_parser().parse_args([*map(str, command_line)]))

    return run


def test_it_trains_and_evaluates(tmp_path, script):
    overrides = ["DATASETS.TRAIN", ("cells_train",), "DATASETS.TEST", ("cells_train",)]
    config = write_config(tmp_path, overrides=["MODEL.RETINANET.NUM_CLASSES", 3, *overrides])
    script("--config-file", config, "SOLVER.MAX_ITER", 2)
    weights = tmp_path / "output/model_final.pth"
    before = weights.read_bytes()

    output = ["OUTPUT_DIR", tmp_path / "evaluated"]
    script("--config-file", config, "--eval-only", "MODEL.WEIGHTS", weights, *output)
    assert "bbox/AP" in (tmp_path / "evaluated/metrics.json").read_text()
    assert weights.read_bytes() == before
    assert not list((tmp_path / "evaluated").glob("*.pth"))
    with pytest.raises(ValueError, match="no weights to evaluate"):
        script("--config-file", config, "--eval-only", *output)
