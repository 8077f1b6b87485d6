"""The trainer: what it checks before the start, when it stops, what it writes."""

import json
import logging
import pickle
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.checkpoint import DetectionCheckpointer
from detectron2.engine import HookBase, SimpleTrainer
from detectron2.modeling import BACKBONE_REGISTRY, build_model
from detectron2.utils.events import EventStorage
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import (
    Record,
    arguments,
    load_weights,
    loggers_as_before,
    read_record,
    train,
    write_config,
    write_data_set,
)
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_heads.engine import Trainer, launch, load_config, setup
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.engine.setup import check_batch_size
from anchor_heads.engine.train_step import NonFiniteError
from anchor_heads.evaluation import metric_names


@pytest.fixture
def make_config(tmp_path):
    """Writes the data set, and a config for it with the overrides; returns the config's path."""
    write_data_set(tmp_path)
    return lambda model="FreeAnchorRetinaNet", *overrides: write_config(tmp_path, model, overrides)


def trainer_for(config, *overrides) -> Trainer:
    with loggers_as_before():
        return Trainer(setup(arguments(config, *overrides)))


def last_metrics(folder) -> dict:
    """All that metrics.json says, later lines over earlier ones."""
    lines = (Path(folder) / "metrics.json").read_text().splitlines()
    return {key: value for line in lines for key, value in json.loads(line).items()}


# --- stopping before the weights are spoiled ---


class Spoil(HookBase):
    """Makes the images of one iteration not a number."""

    def __init__(self, iteration):
        self.iteration = iteration

    def before_train(self):
        self.trainer.model.register_forward_pre_hook(self.spoil)

    def spoil(self, model, inputs):
        if model.training and self.trainer.iter == self.iteration:
            for image in inputs[0]:
                image["image"] = torch.full(image["image"].shape, torch.nan)


def assert_stopped_at_3(folder, error, expected, weights_after_2):
    files = next(line["files"] for line in expected if line["iteration"] == 3)
    assert "iteration 3" in str(error) and "SOLVER.BASE_LR" in str(error)
    for file in files:
        assert file in str(error)
    assert (folder / "last_checkpoint").read_text() == "model_last_good.pth"
    saved = torch.load(folder / "model_last_good.pth")
    assert saved["iteration"] == saved["trainer"]["iteration"] == 2
    for name, weight in saved["model"].items():
        assert weight.isfinite().all(), name
        torch.testing.assert_close(weight, weights_after_2[name], rtol=0, atol=1e-6, msg=name)


@pytest.mark.parametrize(
    "model, what",
    [
        ("RetinaNet", "loss_cls = nan"),
        ("DynamicAnchorRetinaNet", "loss_cls = nan"),
        ("ProposalNetwork", "Predicted boxes or"),
    ],
)
def test_a_loss_that_is_not_finite(tmp_path, make_config, model, what):
    # Batch norm takes a bad image into its statistics before there is a loss to look at.
    config = make_config(model, "SOLVER.MAX_ITER", 5, "MODEL.RESNETS.NORM", "BN")
    overrides = ["SOLVER.CHECKPOINT_PERIOD", 3, "OUTPUT_DIR", tmp_path / "good"]
    train(arguments(config, *overrides), Record(tmp_path / "good.json"))
    expected = read_record(tmp_path / "good.json")

    with pytest.raises(NonFiniteError, match=what) as error:
        train(arguments(config), Spoil(3))
    weights_after_2 = load_weights(tmp_path / "good", "model_0000002.pth")
    assert_stopped_at_3(tmp_path / "output", error.value, expected, weights_after_2)
    assert "bbox/AP" not in last_metrics(tmp_path / "output")  # a failed run is not evaluated

    train(arguments(config, flags=("--resume",)), Record(tmp_path / "resumed.json"))
    assert [line["iteration"] for line in read_record(tmp_path / "resumed.json")] == [3, 4]
    final = load_weights(tmp_path / "output")
    for name, weight in load_weights(tmp_path / "good").items():
        torch.testing.assert_close(final[name], weight, rtol=0, atol=1e-6, msg=name)


def test_a_gradient_that_is_not_finite(tmp_path, make_config):
    def spoil(trainer):
        bias = trainer.model.head.cls_score.bias
        bias.register_hook(lambda gradient: gradient * (torch.nan if trainer.iter == 1 else 1))

    with pytest.raises(NonFiniteError, match="iteration 1 the gradient.*: head.cls_score.bias"):
        train(arguments(make_config()), prepare=spoil)
    saved = torch.load(tmp_path / "output" / "model_last_good.pth")
    assert saved["iteration"] == 0
    assert all(weight.isfinite().all() for weight in saved["model"].values())


def test_a_first_step_that_fails_starts_again(tmp_path, make_config):
    config = make_config()
    with pytest.raises(NonFiniteError):
        train(arguments(config), Spoil(0))
    assert train(arguments(config, flags=("--resume",))).start_iter == 0


class CopiedBuffers(TorchDispatchMode):
    """Lists the buffers of a model that are copied as they stand, by name."""

    def __init__(self, model):
        super().__init__()
        self.names = {buffer.data_ptr(): name for name, buffer in model.named_buffers()}
        self.copied = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        if function is torch.ops.aten.clone.default and args[0].data_ptr() in self.names:
            self.copied.append(self.names[args[0].data_ptr()])
        return function(*args, **(kwargs or {}))


def test_a_step_copies_no_statistics_that_are_frozen(make_config):
    """The others are copied, so that a step that fails leaves the model as it was."""
    trainer = trainer_for(make_config("FreeAnchorRetinaNet"))
    step = trainer._trainer
    step.iter, step.data_loader = 0, trainer.build_train_loader(trainer.cfg)
    with EventStorage(), CopiedBuffers(trainer.model) as buffers:
        step.run_step()
    assert set(buffers.copied) == {x for x in buffers.names.values() if "norm" not in x}
    assert len(buffers.copied) < 10 < len(buffers.names)


# --- checkpoints ---


def test_a_checkpoint_takes_its_place_at_once(tmp_path, monkeypatch):
    model = torch.nn.Linear(2, 2)
    checkpointer = AtomicCheckpointer(model, str(tmp_path))
    checkpointer.save("model")
    before = (tmp_path / "model.pth").read_bytes()

    def killed(data, file):
        file.write(b"half a checkpoint")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    for name in ("model", "another"):
        with pytest.raises(KeyboardInterrupt):
            checkpointer.save(name)
    assert (tmp_path / "model.pth").read_bytes() == before
    assert not (tmp_path / "another.pth").exists()
    assert checkpointer.get_checkpoint_file() == str(tmp_path / "model.pth")


def test_weights_that_do_not_exist(make_config):
    config = make_config("FreeAnchorRetinaNet", "MODEL.WEIGHTS", "no/such/model.pth")
    with pytest.raises(FileNotFoundError, match="no/such/model.pth.*MODEL.WEIGHTS"):
        train(arguments(config))


WIDE_STEM = {"backbone.bottom_up.stem.conv1.weight": torch.zeros(64, 3, 7, 7)}


@pytest.mark.parametrize(
    "name, content",
    [
        (
            "model.pth",
            {"conv1.weight": torch.zeros(8, 3, 7, 7), "layer1.0.bn1.bias": torch.ones(8)},
        ),
        ("model.pth", WIDE_STEM),
        ("model.pkl", {"nowhere_w": np.zeros(3)}),  # read by Detectron2's matching of names
    ],
)
def test_weights_of_which_nothing_fits(tmp_path, make_config, name, content):
    path = tmp_path / name
    path.write_bytes(pickle.dumps(content)) if name.endswith("pkl") else torch.save(content, path)
    config = make_config("FreeAnchorRetinaNet", "MODEL.WEIGHTS", str(path))
    message = f"Nothing in {path} fits the model.* the model has backbone.fpn_lateral3.weight, "
    with pytest.raises(ValueError, match=message):
        train(arguments(config))
    assert not (tmp_path / "output" / "model_final.pth").exists()
    with loggers_as_before(), pytest.raises(ValueError, match=message):
        Trainer.evaluate(setup(arguments(config)))


def test_weights_without_entries(tmp_path, make_config):
    path = tmp_path / "model.pth"
    torch.save({}, path)
    config = make_config("FreeAnchorRetinaNet", "MODEL.WEIGHTS", str(path))
    message = f"{path} has no weights that are known here: it has no entries"
    with pytest.raises(ValueError, match=message):
        train(arguments(config))
    assert not (tmp_path / "output" / "model_final.pth").exists()
    with loggers_as_before(), pytest.raises(ValueError, match=message):
        Trainer.evaluate(setup(arguments(config)))


def test_weights_of_which_something_fits_are_loaded(tmp_path, make_config):
    fitting = torch.full((8, 3, 7, 7), 0.5)
    content = {"backbone.bottom_up.stem.conv1.weight": fitting, "fc.weight": torch.zeros(9)}
    torch.save(content, tmp_path / "model.pth")
    trainer = trainer_for(make_config("RetinaNet", "MODEL.WEIGHTS", str(tmp_path / "model.pth")))
    trainer.resume_or_load()
    assert torch.equal(trainer.model.backbone.bottom_up.stem.conv1.weight, fitting)


def test_detectron2_reads_the_checkpoints(tmp_path, make_config):
    trainer = train(arguments(make_config()))
    model = build_model(trainer.cfg)
    optimizer = Trainer.build_optimizer(trainer.cfg, model)
    rest = DetectionCheckpointer(model).load(str(tmp_path / "output" / "model_final.pth"))
    SimpleTrainer(model, [], optimizer).load_state_dict(rest["trainer"]["_trainer"])
    assert rest["iteration"] == 3
    for name, weight in trainer.model.state_dict().items():
        assert torch.equal(model.state_dict()[name], weight)
    assert len(optimizer.state_dict()["state"]) == len(list(model.parameters()))


# --- precision and devices ---


def test_mixed_precision_on_the_cpu(tmp_path, make_config):
    config = make_config()
    train(arguments(config), Record(tmp_path / "full.json"))
    mixed = ["SOLVER.AMP.ENABLED", True, "OUTPUT_DIR", tmp_path / "mixed"]
    trainer = train(arguments(config, *mixed), Record(tmp_path / "mixed.json"))
    assert {p.dtype for p in trainer.model.parameters()} == {torch.float32}
    full, mixed = (read_record(tmp_path / f"{name}.json")[0] for name in ("full", "mixed"))
    total, mixed_total = full["losses"]["total_loss"], mixed["losses"]["total_loss"]
    assert total != mixed_total == pytest.approx(total, rel=0.02)


def test_without_a_gpu_the_run_is_on_the_cpu(make_config, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = make_config("FreeAnchorRetinaNet", "MODEL.DEVICE", "cuda")
    assert load_config(arguments(config)).MODEL.DEVICE == "cpu"


@pytest.mark.parametrize(
    "num_gpus, found, overrides, message",
    [
        (2, 1, ["MODEL.DEVICE", "cuda"], "--num-gpus is 2.* finds 1 .*MODEL.DEVICE cpu"),
        (2, 0, [], "--num-gpus is 2.* finds 0 .*MODEL.DEVICE cpu"),
        (1, 0, ["MODEL.DEVICE", "cuda"], "MODEL.DEVICE is cuda, but PyTorch finds no GPU"),
    ],
)
def test_gpus_that_are_asked_for_must_be_there(
    make_config, monkeypatch, num_gpus, found, overrides, message
):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: found > 0)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: found)
    config = make_config("FreeAnchorRetinaNet", "MODEL.DEVICE", "cuda")
    with pytest.raises(ValueError, match=message):
        launch(print, arguments(config, *overrides, flags=("--num-gpus", str(num_gpus))))


@pytest.mark.parametrize(
    "flags, message",
    [
        (["--num-gpus", "-1"], "--num-gpus is -1; it must be at least 1"),
        (["--num-machines", "0"], "--num-machines is 0; it must be at least 1"),
        (["--num-machines", "2", "--machine-rank", "2"], "--machine-rank is 2; .* from 0 to 1"),
        (["--num-machines", "2"], "--dist-url is auto; for several machines it must be the addr"),
    ],
)
def test_numbers_of_machines_and_processes(make_config, flags, message):
    with pytest.raises(ValueError, match=message):
        launch(print, arguments(make_config(), flags=tuple(flags)))


# --- the config ---

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


# --- evaluation and pictures ---


def test_metrics_go_to_the_file(tmp_path, make_config):
    train(arguments(make_config()))
    metrics = last_metrics(tmp_path / "output")
    assert metrics["total_loss"] > 0 and 0 <= metrics["bbox/AP50"] <= 100


def test_evaluating_without_training(tmp_path, make_config):
    more = ["TEST.AUG.ENABLED", True, "TEST.AUG.MIN_SIZES", (48, 64), "TEST.NMS_RECALL", True]
    config = make_config("FreeAnchorRetinaNet", *more)
    train(arguments(config))
    trained = last_metrics(tmp_path / "output")
    assert {"bbox/AP", "bbox_TTA/AP", "nms_recall/NR@0.5"} <= trained.keys()

    weights = ["MODEL.WEIGHTS", tmp_path / "output/model_final.pth", "OUTPUT_DIR", tmp_path / "new"]
    with loggers_as_before():
        results = Trainer.evaluate(setup(arguments(config, *weights)))
    assert {"bbox", "bbox_TTA", "nms_recall"} <= results.keys()
    written = last_metrics(tmp_path / "new")
    assert written["iteration"] == 3
    for key, value in written.items():
        if "/" in key:
            assert value == pytest.approx(trained[key], nan_ok=True), key
    assert "bbox/AP" in EventAccumulator(str(tmp_path / "new")).Reload().Tags()["scalars"]


@pytest.mark.parametrize(
    "key, value, message",
    [
        ("MODEL.RETINANET.IN_FEATURES", ["p9"], "MODEL.RETINANET.IN_FEATURES: .* no feature 'p9'"),
        ("MODEL.FPN.IN_FEATURES", ["res9"], "MODEL.FPN.IN_FEATURES: .* no feature 'res9'"),
        ("MODEL.FPN.IN_FEATURES", ["res3", "res5"], "can be made of this config: Strides 32 8 are"),
        ("MODEL.FPN.NORM", "GN", "can be made of this config: num_channels .16. must be divisible"),
        ("MODEL.ANCHOR_GENERATOR.SIZES", [[16], [32]], "Got sizes of length 2 .* features is 3"),
        ("MODEL.FREE_ANCHOR.ALPHA", 2.0, "alpha is 2.0; it must be from 0 to 1"),
        ("SOLVER.LR_SCHEDULER_NAME", "Cosine", "SCHEDULER_NAME is 'Cosine'; .* 'WarmupCosineLR'"),
        ("SOLVER.LR_SCHEDULER_NAME", "WarmupStepWithFixedGammaLR", "write for example 'WarmupM"),
        ("DATALOADER.SAMPLER_TRAIN", "Repeat", "SAMPLER_TRAIN is .*'RepeatFactorTrainingSampler'"),
        ("DATALOADER.SAMPLER_TRAIN", "WeightedTrainingSampler", "for example 'TrainingSampler'"),
        ("TEST.BEST_METRIC", "bbox/ap", "BEST_METRIC is 'bbox/ap'; write for example 'bbox/AP'"),
        ("TEST.BEST_METRIC", "bbox/AP-baar", "BEST_METRIC is .* for example 'bbox/AP-bar'"),
        ("TEST.BEST_METRIC", "segm/AP", "BEST_METRIC is 'segm/AP'; write for example 'bbox/AP'"),
    ],
)
def test_values_of_no_run_are_refused(make_config, key, value, message):
    with pytest.raises(ValueError, match=message):
        trainer_for(make_config(), key, value).train()


def test_an_error_in_a_backbone_of_ones_own_is_not_said_of_the_config(make_config, monkeypatch):
    cfg = load_config(arguments(make_config()))
    backbones = BACKBONE_REGISTRY._obj_map
    monkeypatch.setitem(backbones, "own", lambda *_: torch.nn.Conv2d(3, 4, 3, groups=2))
    cfg.MODEL.BACKBONE.NAME = "own"
    with pytest.raises(ValueError, match="^in_channels must be divisible by groups"):
        Trainer.build_model(cfg)


def test_trainers_of_ones_own_may_have_other_metrics(make_config):
    class OwnTrainer(Trainer):
        pass

    cfg = load_config(arguments(make_config(), "TEST.BEST_METRIC", "accuracy"))
    OwnTrainer.check_best_metric(cfg)
    with pytest.raises(ValueError, match="TEST.BEST_METRIC is 'accuracy'"):
        Trainer.check_best_metric(cfg)


def test_the_names_of_metrics_are_those_of_the_results(make_config):
    trainer = trainer_for(make_config(), "SOLVER.EMA_DECAY", 0.9, "SOLVER.MAX_ITER", 1)
    trainer.train()
    found = {name for name in trainer.storage.latest() if name.startswith("bbox")}
    assert found == set(metric_names(trainer.cfg))


@pytest.mark.parametrize("steps, used", [((2, 4), 1), ((4,), 0), ((1, 2, 3, 4, 5), 3)])
def test_steps_from_the_end_on_have_no_effect(make_config, steps, used):
    overrides = ["SOLVER.STEPS", steps, "SOLVER.WARMUP_ITERS", 0]
    trainer = trainer_for(make_config(), *overrides)  # of 4 iterations
    trainer.scheduler.step(3)
    assert trainer.optimizer.param_groups[0]["lr"] == pytest.approx(0.1 * 0.1**used)


@pytest.mark.parametrize(
    "model,key", [("GeneralizedRCNN", "TEST.NMS_RECALL"), ("ProposalNetwork", "TEST.AUG.ENABLED")]
)
def test_an_impossible_evaluation_is_refused_before_training(make_config, model, key):
    config = make_config(model, key, True, "MODEL.BACKBONE.NAME", "build_resnet_fpn_backbone")
    with loggers_as_before(), pytest.raises((TypeError, ValueError), match="one-stage model"):
        Trainer(setup(arguments(config)))


def test_evaluating_several_data_sets(tmp_path, make_config):
    write_data_set(tmp_path / "second", num_images=3)
    config = Path(make_config("FreeAnchorRetinaNet", "TEST.NMS_RECALL", True))
    second = [f"{tmp_path.name}_2", str(tmp_path / "second/annotations.json")]
    second = [*second, str(tmp_path / "second")]
    names = (tmp_path.name, second[0])
    args = arguments(str(config))
    entries = [*load_config(args).DATASETS.COCO_FORMAT, second]
    args.opts = ["DATASETS.COCO_FORMAT", str(entries), "DATASETS.TEST", str(names)]
    with loggers_as_before():
        results = Trainer.evaluate(setup(args), random_weights=True)
    assert set(results) == set(names)
    assert all({"bbox", "nms_recall"} <= found.keys() for found in results.values())


def test_expected_results_decide_the_exit(make_config):
    config = make_config("FreeAnchorRetinaNet", "TEST.EXPECTED_RESULTS", [["bbox", "AP", 99, 0.5]])
    with loggers_as_before(), pytest.raises(SystemExit):
        Trainer.evaluate(setup(arguments(config)), random_weights=True)
    with pytest.raises(SystemExit):
        train(arguments(config))


def test_pictures_leave_training_as_it_is(tmp_path, make_config):
    # Detections of an untrained model have low scores; the picture must cope with none.
    config = make_config("FreeAnchorRetinaNet", "MODEL.RESNETS.NORM", "BN")
    train(arguments(config))
    train(arguments(config, "VIS_PERIOD", 2, "OUTPUT_DIR", tmp_path / "pictures"))
    events = EventAccumulator(str(tmp_path / "pictures")).Reload()
    pictures = events.Images("ground_truth_beside_detections")
    assert [picture.step for picture in pictures] == [0, 2]
    assert pictures[0].width > pictures[0].height
    with_pictures = load_weights(tmp_path / "pictures")
    for name, weight in load_weights(tmp_path / "output").items():
        torch.testing.assert_close(with_pictures[name], weight, rtol=0, atol=1e-6, msg=name)


def test_precise_batch_norm_is_computed(make_config, caplog):
    precise = ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", 2]
    config = make_config("FreeAnchorRetinaNet", "MODEL.RESNETS.NORM", "BN", *precise)
    with caplog.at_level(logging.INFO):
        trainer_for(config).train()
    assert "Running precise-BN for 2 iterations" in caplog.text


def test_an_address_that_cannot_be_reached_is_one_line_with_what_to_do(tmp_path):
    with socket.socket() as free:  # nobody listens at its port
        free.bind(("127.0.0.1", 0))
        address = f"http://127.0.0.1:{free.getsockname()[1]}/R-50.pth"
    checkpointer = AtomicCheckpointer(torch.nn.Linear(1, 1), str(tmp_path))
    with pytest.raises(FileNotFoundError) as raised:
        checkpointer.load(address)
    message = str(raised.value)
    assert message.startswith(f"The weights {address} cannot be downloaded (")
    assert "MODEL.WEIGHTS ''" in message and "\n" not in message
