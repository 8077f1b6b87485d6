"""Measure what 8 bits cost: AP and size of a model's ONNX files in float32 and in int8.

    python docs/benchmarks/int8.py --config-file config.yaml --weights model_final.pth
    python docs/tables.py

The config names the data sets: int8 is calibrated on the first images of the training set, and both
files are evaluated on the test set. Writes docs/results/int8.yaml.
"""

import argparse
import os
import shutil
import tempfile
from itertools import islice
from pathlib import Path

import torch
import yaml
from detectron2.data import DatasetCatalog
from detectron2.data.detection_utils import read_image
from detectron2.evaluation import inference_on_dataset

from anchor_heads import get_cfg
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.engine import Trainer
from anchor_heads.evaluation import build_evaluator
from anchor_heads.export import ExportedPredictor, describe, export_model
from anchor_heads.export.int8 import quantize
from anchor_heads.predictor import load_predictor

CALIBRATION_IMAGES = 32
METRICS = ("AP", "AP50", "AP75")


class ExportedModel(torch.nn.Module):
    """An exported file with the inputs and outputs of a Detectron2 model."""

    def __init__(self, path: str):
        super().__init__()
        self.predictor = ExportedPredictor(path)

    def forward(self, batch: list[dict]) -> list[dict]:
        return [self.predictor(read_image(x["file_name"], format="BGR")) for x in batch]


def evaluate(cfg, path: str) -> list:
    """AP, AP50, AP75 and megabytes of an ONNX file."""
    name = cfg.DATASETS.TEST[0]
    loader = Trainer.build_test_loader(cfg, name)
    results = inference_on_dataset(ExportedModel(path), loader, build_evaluator(cfg, name))
    megabytes = os.path.getsize(path) / 1e6
    return [round(x, 1) for x in (*(results["bbox"][m] for m in METRICS), megabytes)]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--config-file", required=True)
    parser.add_argument("--weights", required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        cfg = get_cfg()
        cfg.merge_from_file(args.config_file)
        cfg.merge_from_list(["MODEL.WEIGHTS", args.weights, "OUTPUT_DIR", folder])
        register_coco_format(cfg)
        predictor, categories = load_predictor(cfg)
        float32, int8 = (os.path.join(folder, f"{name}.onnx") for name in ("float32", "int8"))
        export_model(predictor.model, float32, "onnx", describe(cfg, categories))
        shutil.copy(float32, int8)
        training = DatasetCatalog.get(cfg.DATASETS.TRAIN[0])
        files = [x["file_name"] for x in islice(training, CALIBRATION_IMAGES)]
        quantize(int8, (read_image(file, format="BGR") for file in files))
        rows = [["float32", *evaluate(cfg, float32)], ["int8", *evaluate(cfg, int8)]]
        images = len(DatasetCatalog.get(cfg.DATASETS.TEST[0]))
    content = {
        "setting": f"{cfg.MODEL.META_ARCHITECTURE} with {cfg.MODEL.TIMM.NAME}, "
        f"{cfg.DATASETS.TEST[0]}, {images} images at a short side of {cfg.INPUT.MIN_SIZE_TEST}; "
        f"calibrated on {len(files)} training images.",
        "command": "python docs/benchmarks/int8.py --config-file config.yaml "
        "--weights model_final.pth",
        "columns": ["ONNX file", *METRICS, "MB"],
        "rows": rows,
    }
    output = Path(__file__).parent.parent / "results" / "int8.yaml"
    output.write_text(yaml.safe_dump(content, sort_keys=False, width=100, default_flow_style=None))


if __name__ == "__main__":
    main()
