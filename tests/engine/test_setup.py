"""The config of a run: what is wrong with it is said before anything is built."""

from pathlib import Path

import pytest
import torch
from tiny_run import arguments, loggers_as_before, trainer_for

from anchor_heads.engine import Trainer, launch, load_config, setup
from anchor_heads.engine.setup import check_batch_size

SHAPES = "MODEL.ANCHOR_GENERATOR"


def test_a_shipped_config_by_name():
    by_name = load_config(arguments("free_anchor/free_anchor_R_50_FPN_1x.yaml"))
    assert by_name.MODEL.META_ARCHITECTURE == "FreeAnchorRetinaNet"


@pytest.mark.parametrize(
    "config_file, overrides, error, message",
    [
        ("", [], ValueError, "--config-file is missing.*free_anchor/"),
        ("no/such.yaml", [], FileNotFoundError, "no/such.yaml"),
        ("tiny", ["SOLVER.BASE_RL", 1], ValueError, "no config key SOLVER.BASE_RL.*SOLVER.BASE_LR"),
        ("tiny", ["SOLVER.BASE_LR"], ValueError, "pairs of key and value, and SOLVER.BASE_LR has"),
        ("tiny", ["SEED", "SOLVER.BASE_LR", 1], ValueError, "and SEED has no value.$"),
        ("tiny", ["SEED", 1, "--num-gpus", 2], ValueError, "^--num-gpus stands behind config keys"),
        ("tiny", ["SOLVER.BASE_LR=1"], ValueError, "KEY VALUE, not .*: SOLVER.BASE_LR 1$"),
        ("tiny", ["MODEL", 3], ValueError, "^MODEL is a group of keys, such as MODEL.[A-Z_]*.$"),
        ("tiny", ["SOLVER.MAX_ITER", "x"], ValueError, "SOLVER.MAX_ITER x: .*type int, such as 4"),
        ("tiny", ["MODEL.PIXEL_STD", "[1.0, 0.0, 1.0]"], ValueError, "PIXEL_STD .* above 0"),
        ("tiny", ["MODEL.PIXEL_MEAN", "[1.0, 1e999, 1.0]"], ValueError, "PIXEL_MEAN .*finite"),
        (
            "tiny",
            [f"{SHAPES}.SIZES", "[[32], [0]]"],
            ValueError,
            r"SIZES are \[\[32\], \[0\]\]; each",
        ),
        ("tiny", [f"{SHAPES}.SIZES", "[[-32]]"], ValueError, "SIZES are .* finite number above 0"),
        (
            "tiny",
            [f"{SHAPES}.ASPECT_RATIOS", "[[0.0]]"],
            ValueError,
            "ASPECT_RATIOS are .* above 0",
        ),
        ("tiny", [f"{SHAPES}.ASPECT_RATIOS", "[[]]"], ValueError, "ASPECT_RATIOS are .* above 0"),
        ("wrong", [], ValueError, "config.yaml.*MODEL.NO_SUCH_KEY"),
    ],
)
def test_a_config_that_is_wrong(make_config, config_file, overrides, error, message):
    if config_file in ("tiny", "wrong"):
        path = Path(make_config())
        if config_file == "wrong":
            path.write_text("MODEL:\n  NO_SUCH_KEY: 1\n")
        config_file = str(path)
    with pytest.raises(error, match=message):
        launch(print, arguments(config_file, *overrides))


FOR_8 = ["SOLVER.REFERENCE_WORLD_SIZE", 8, "SOLVER.IMS_PER_BATCH", 16, "SOLVER.BASE_LR", 0.01]
FOR_8 += ["SOLVER.MAX_ITER", 90000, "SOLVER.STEPS", (60000, 80000), "SOLVER.WARMUP_ITERS", 1000]


@pytest.mark.parametrize(
    "processes, overrides, message",
    [
        (
            1,
            ["SOLVER.IMS_PER_BATCH", 2],
            "SOLVER.IMS_PER_BATCH 2 is for SOLVER.REFERENCE_WORLD_SIZE 8 processes together, and 2 "
            "images cannot be divided among 8. For this run with 1 process(es), write instead: "
            "SOLVER.REFERENCE_WORLD_SIZE 0 SOLVER.IMS_PER_BATCH 2 SOLVER.BASE_LR 0.00125 "
            'SOLVER.MAX_ITER 720000 SOLVER.STEPS "(480000, 640000)" SOLVER.WARMUP_ITERS 8000',
        ),
        (  # what the user has set stays
            2,
            ["SOLVER.IMS_PER_BATCH", 3, "SOLVER.BASE_LR", 0.1],
            "with 2 process(es), write instead: SOLVER.REFERENCE_WORLD_SIZE 0 "
            "SOLVER.IMS_PER_BATCH 4 SOLVER.BASE_LR 0.1 SOLVER.MAX_ITER 360000",
        ),
        (
            3,
            ["SOLVER.REFERENCE_WORLD_SIZE", 0],
            "SOLVER.IMS_PER_BATCH 16 is for the 3 processes of this run together",
        ),
    ],
)
def test_a_batch_that_cannot_be_divided(make_config, processes, overrides, message):
    args = arguments(make_config("FreeAnchorRetinaNet", *FOR_8), *overrides)
    with pytest.raises(ValueError) as error:
        check_batch_size(load_config(args), args, processes)
    assert message in str(error.value)


def test_the_batch_is_scaled_to_the_number_of_processes(make_config):
    trainer = trainer_for(make_config("FreeAnchorRetinaNet", *FOR_8))
    assert trainer.cfg.SOLVER.IMS_PER_BATCH == 2
    assert trainer.cfg.SOLVER.BASE_LR == trainer.optimizer.defaults["lr"] == 0.00125
    assert trainer.max_iter == trainer.cfg.SOLVER.MAX_ITER == 720000


def test_classes_are_checked_before_anything_is_built(make_config, monkeypatch):
    monkeypatch.setattr(Trainer, "build_model", pytest.fail)
    config = make_config("FreeAnchorRetinaNet", "MODEL.RETINANET.NUM_CLASSES", 80)
    with loggers_as_before():
        cfg = setup(arguments(config))
        for start in (Trainer, Trainer.evaluate):
            with pytest.raises(ValueError, match="MODEL.RETINANET.NUM_CLASSES") as error:
                start(cfg)
            assert "80" in str(error.value) and "2" in str(error.value)


def test_without_a_gpu_the_run_is_on_the_cpu(make_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config("FreeAnchorRetinaNet", "MODEL.DEVICE", "cuda")
    assert load_config(arguments(config)).MODEL.DEVICE == "cpu"
