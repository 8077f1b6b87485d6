"""A tiny data set and model, and a script that trains it and records what each step saw.

python tests/tiny_run.py RECORD ...   takes train_net.py's arguments after the file to write to.
"""

import json
import logging
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np
import torch
from detectron2.engine import HookBase
from detectron2.modeling import build_model
from detectron2.utils import comm

from anchor_heads import get_cfg
from anchor_heads.engine import Trainer, argument_parser, launch, setup

REPOSITORY = Path(__file__).parent.parent
SIZES = [(64, 48), (48, 64), (64, 64)]  # width, height
CLASSES = ("square", "bar")


def write_data_set(folder: Path, num_images: int = 12, empty: tuple[int, ...] = ()) -> None:
    """Noisy images, each with one or two bright boxes; those numbered in ``empty`` with none."""
    rng = np.random.default_rng(0)
    folder.mkdir(parents=True, exist_ok=True)
    images, annotations = [], []
    for i in range(num_images):
        width, height = SIZES[i % len(SIZES)]
        pixels = rng.integers(0, 100, (height, width, 3), dtype=np.uint8)
        images.append({"id": i, "file_name": f"{i}.png", "width": width, "height": height})
        for _ in range(0 if i in empty else 1 + i % 2):
            kind = int(rng.integers(2))
            box_width, box_height = [(20, 20), (28, 10)][kind]
            x, y = (int(rng.integers(0, 40 - side)) for side in (box_width, box_height))
            pixels[y : y + box_height, x : x + box_width] = (255, 200, 150)
            box = [x, y, box_width, box_height]
            annotations.append(
                {"id": len(annotations) + 1, "image_id": i, "category_id": kind + 1, "bbox": box}
            )
        cv2.imwrite(str(folder / f"{i}.png"), pixels)
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(CLASSES)]
    content = {"images": images, "annotations": annotations, "categories": categories}
    (folder / "annotations.json").write_text(json.dumps(content))


def write_config(folder: Path, meta_architecture: str = "FreeAnchorRetinaNet", overrides=()):
    """A config of a model that makes a step on the data set in ``folder`` in milliseconds.

    Returns:
        str: path of the config file; its OUTPUT_DIR is ``folder/output``. The data set has the
        name of the folder, since a process knows only one data set by a name.
    """
    cfg = get_cfg()
    cfg.DATASETS.COCO_FORMAT = [[folder.name, str(folder / "annotations.json"), str(folder)]]
    cfg.DATASETS.TRAIN = cfg.DATASETS.TEST = (folder.name,)
    cfg.DATALOADER.NUM_WORKERS = 0
    cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS = False
    cfg.INPUT.MIN_SIZE_TRAIN, cfg.INPUT.MIN_SIZE_TEST = (48,), 48
    cfg.INPUT.RANDOM_FLIP = "none"
    cfg.MODEL.META_ARCHITECTURE = meta_architecture
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.BACKBONE.NAME = "build_resnet_fpn_backbone"
    cfg.MODEL.BACKBONE.FREEZE_AT = 0
    cfg.MODEL.RESNETS.merge_from_list(["STEM_OUT_CHANNELS", 8, "RES2_OUT_CHANNELS", 8])
    cfg.MODEL.RESNETS.merge_from_list(["WIDTH_PER_GROUP", 4, "NORM", "FrozenBN"])
    cfg.MODEL.PIXEL_STD = [2000.0] * 3  # keeps the output of a deep net without norm small
    cfg.MODEL.RESNETS.OUT_FEATURES = cfg.MODEL.FPN.IN_FEATURES = ["res3", "res4", "res5"]
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RETINANET.merge_from_list(["NUM_CLASSES", 2, "NUM_CONVS", 1])
    cfg.MODEL.RETINANET.IN_FEATURES = cfg.MODEL.RPN.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ROI_HEADS.merge_from_list(["NAME", "StandardROIHeads", "NUM_CLASSES", 2])
    cfg.MODEL.ROI_HEADS.IN_FEATURES = ["p3", "p4", "p5"]
    cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["NAME", "FastRCNNConvFCHead", "NUM_FC", 1])
    cfg.MODEL.ROI_BOX_HEAD.merge_from_list(["FC_DIM", 32, "POOLER_RESOLUTION", 2])
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16], [32], [64]]
    cfg.SOLVER.merge_from_list(["IMS_PER_BATCH", 2, "BASE_LR", 0.1, "WARMUP_ITERS", 3])
    cfg.SOLVER.merge_from_list(["MAX_ITER", 4, "STEPS", (), "CHECKPOINT_PERIOD", 2])
    cfg.SEED = 3
    cfg.OUTPUT_DIR = str(folder / "output")
    cfg.merge_from_list(list(overrides))
    path = folder / "config.yaml"
    path.write_text(cfg.dump())
    return str(path)


def write_model(folder, *args) -> str:
    """Write a data set, the config of a model, and its weights as initialised.

    Returns:
        str: path of the config; the weights are "model.pth" beside it.
    """
    write_data_set(folder)
    config = write_config(folder, *args)
    cfg = get_cfg()
    cfg.merge_from_file(config)
    torch.save({"model": build_model(cfg).state_dict()}, folder / "model.pth")
    return config


def arguments(config_file: str, *overrides, flags: tuple[str, ...] = ()):
    """The parsed command line."""
    command_line = ["--config-file", config_file, *flags, *map(str, overrides)]
    return argument_parser().parse_args(command_line)


def start(script: str, *command_line, torchrun: bool = False) -> subprocess.Popen:
    """Start a script of the repository in a process group of its own, on one thread."""
    python = [sys.executable]
    if torchrun:
        python += "-m torch.distributed.run --standalone --nproc-per-node 2".split()
    folders = [str(REPOSITORY), str(REPOSITORY / "tests"), os.environ.get("PYTHONPATH", "")]
    path = os.pathsep.join(folders)
    log = tempfile.TemporaryFile("w+")  # not a pipe, which stops the script when it is full
    process = subprocess.Popen(
        [*python, str(REPOSITORY / script), *map(str, command_line)],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": path},
        stdout=log,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    process.log = log
    return process


def finish(process: subprocess.Popen, timeout: float = 240) -> tuple[int, str]:
    """Wait for a script to end.

    Returns:
        tuple[int, str]: its exit code, and what it said.
    """
    try:
        process.wait(timeout)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
    process.log.seek(0)
    return process.returncode, process.log.read()


class Record(HookBase):
    """Appends a line per step and process to a file: the iteration, image files and losses."""

    def __init__(self, path: str):
        self.path = path

    def after_step(self):
        line = {
            "iteration": self.trainer.iter,
            "files": [os.path.basename(x["file_name"]) for x in self.trainer.current_batch],
            "losses": {
                name: history.latest()
                for name, history in self.trainer.storage.histories().items()
                if "loss" in name
            },
            "rank": comm.get_rank(),
        }
        with open(self.path, "a") as file:
            file.write(json.dumps(line) + "\n")


def load_weights(output_dir, name: str = "model_final.pth") -> dict[str, torch.Tensor]:
    return torch.load(Path(output_dir) / name)["model"]


def read_record(path, rank: int = 0) -> list[dict]:
    lines = [json.loads(line) for line in Path(path).read_text().splitlines()]
    return [line for line in lines if line["rank"] == rank]


@contextmanager
def loggers_as_before():
    """Undo what setup() does to logging, for tests in the same process that look at log records."""
    loggers = [logging.getLogger(name) for name in ("anchor_heads", "detectron2", "fvcore")]
    before = [(logger.handlers[:], logger.propagate, logger.level) for logger in loggers]
    try:
        yield
    finally:
        for logger, (handlers, propagate, level) in zip(loggers, before, strict=True):
            logger.handlers[:], logger.propagate, logger.level = handlers, propagate, level


def train(args, *hooks: HookBase, prepare=lambda trainer: None) -> Trainer:
    """Train as train_net.py does; ``prepare`` may change the trainer before it starts."""
    with loggers_as_before():
        trainer = Trainer(setup(args))
        trainer.register_hooks([*hooks])
        prepare(trainer)
        trainer.resume_or_load(resume=args.resume)
        trainer.train()
    return trainer


def trainer_for(config, *overrides) -> Trainer:
    """A trainer that has not started."""
    with loggers_as_before():
        return Trainer(setup(arguments(config, *overrides)))


def last_metrics(folder) -> dict:
    """All that metrics.json says, later lines over earlier ones."""
    lines = (Path(folder) / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


def finite_gradients(model):
    """Whether all that is trained has a gradient, of finite numbers."""
    return all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def train_and_record(args) -> None:
    train(args, Record(args.record))


if __name__ == "__main__":
    record, *command_line = sys.argv[1:]
    parsed = argument_parser().parse_args(command_line)
    parsed.record = record
    launch(train_and_record, parsed)
