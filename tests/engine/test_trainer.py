"""The trainer: what it refuses, and what its evaluation and pictures give."""

import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import BACKBONE_REGISTRY
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tiny_run import (
    arguments,
    last_metrics,
    load_weights,
    loggers_as_before,
    train,
    trainer_for,
    write_data_set,
)

from anchor_heads.data.checks import check_datasets
from anchor_heads.engine import Trainer, load_config, setup
from anchor_heads.evaluation import metric_names


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
        ("DATALOADER.SAMPLER_TRAIN", "RandomSubsetTrainingSampler", "example 'TrainingSampler'"),
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
    check_datasets(cfg)
    OwnTrainer.check_best_metric(cfg)
    with pytest.raises(ValueError, match="TEST.BEST_METRIC is 'accuracy'"):
        Trainer.check_best_metric(cfg)


def test_a_test_set_without_objects_has_no_best_metric(tmp_path, make_config):
    config = make_config("FreeAnchorRetinaNet", "TEST.BEST_METRIC", "bbox/AP")
    coco = json.loads((tmp_path / "annotations.json").read_text())
    (tmp_path / "empty.json").write_text(json.dumps({**coco, "annotations": []}))
    sets = [
        (name, str(tmp_path / f"{name}.json"), str(tmp_path)) for name in ("annotations", "empty")
    ]
    overrides = ["DATASETS.COCO_FORMAT", sets, "DATASETS.TRAIN", ("annotations",)]
    with pytest.raises(ValueError, match="needs a test set with annotated objects, .*'empty'"):
        trainer_for(config, *overrides, "DATASETS.TEST", ("empty",))


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


@pytest.mark.parametrize("key", ["KEYPOINT_ON", "LOAD_PROPOSALS"])
def test_augmentation_of_models_whose_results_it_does_not_merge(make_config, key):
    cfg = load_config(arguments(make_config("GeneralizedRCNN", "TEST.AUG.ENABLED", True)))
    model = Trainer.build_model(cfg)
    cfg.MODEL[key] = True
    with pytest.raises(ValueError, match=f"MODEL.{key} True: set TEST.AUG.ENABLED to False"):
        Trainer.check_extra_evaluations(cfg, model)


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


@pytest.mark.parametrize("names", [["bar", "square"], ["square", "circle"]])
def test_classes_of_the_checkpoint_and_of_the_data_set(tmp_path, make_config, caplog, names):
    config = make_config("FreeAnchorRetinaNet", "SOLVER.MAX_ITER", 1, "DATASETS.TEST", ())
    train(arguments(config))
    path = tmp_path / "output/model_final.pth"
    content = torch.load(path)
    content["class_names"] = names
    torch.save(content, path)
    test = "DATASETS.TEST", (tmp_path.name,)
    with loggers_as_before():
        cfg = setup(arguments(config, *test, "MODEL.WEIGHTS", path, flags=("--eval-only",)))
    if "bar" in names:
        with pytest.raises(ValueError, match="classes bar, square, and .* has square, bar: the sa"):
            Trainer.evaluate(cfg)
        with pytest.raises(ValueError, match="the same in another order"):
            train(arguments(config, "SOLVER.MAX_ITER", 2, flags=("--resume",)))
    else:
        Trainer.evaluate(cfg)
        assert "the classes square, circle, and data set" in caplog.text


def test_a_data_set_is_evaluated_once(tmp_path, make_config):
    with pytest.raises(ValueError, match="DATASETS.TEST is .*: name each data set once"):
        trainer_for(make_config(), "DATASETS.TEST", (tmp_path.name, tmp_path.name))


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


def test_precise_batch_norm_is_computed(tmp_path, make_config):
    """It replaces the statistics and changes nothing else."""
    config = make_config("FreeAnchorRetinaNet", "MODEL.RESNETS.NORM", "BN")
    for iterations in (1, 2):
        precise = ["TEST.PRECISE_BN.ENABLED", True, "TEST.PRECISE_BN.NUM_ITER", iterations]
        train(arguments(config, *precise, "OUTPUT_DIR", tmp_path / str(iterations)))
    one, two = (load_weights(tmp_path / str(iterations)) for iterations in (1, 2))
    for name, weight in one.items():
        is_statistic = ".norm." in name and name.endswith(("running_mean", "running_var"))
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(weight, two[name]) != is_statistic, name
