"""Values that no key can have are refused with the config, before anything is read or built."""

from pathlib import Path

import detectron2.model_zoo
import pytest
import torch
from tiny_run import arguments

from anchor_heads import get_cfg, model_zoo
from anchor_heads.engine.config_values import check_config_values
from anchor_heads.engine.setup import load_config
from anchor_heads.errors import is_user_error

CONFIG = "quick_start/free_anchor"
RPN = ["MODEL.META_ARCHITECTURE", "GeneralizedRCNN"]

# A key, its value as on the command line, and what is said of it.
WRONG = [
    ("MODEL.META_ARCHITECTURE", "FreeAnchorRetinanet", "for example 'FreeAnchorRetinaNet'"),
    ("MODEL.BACKBONE.NAME", "resnet_fpn", "'build_resnet_fpn_backbone'"),
    ("MODEL.ANCHOR_GENERATOR.NAME", "Foo", "'DefaultAnchorGenerator'"),
    ("MODEL.PROPOSAL_GENERATOR.NAME", "FreeAnchorRpn", "'FreeAnchorRPN'"),
    ("MODEL.RPN.HEAD_NAME", "RPNHead", "'StandardRPNHead'"),
    ("MODEL.ROI_HEADS.NAME", "CascadeHeads", "'CascadeROIHeads'"),
    ("MODEL.ROI_BOX_HEAD.NAME", "FastRCNNHead", "'FastRCNNConvFCHead'"),
    ("MODEL.RESNETS.DEPTH", "51", "'50'"),
    ("MODEL.RESNETS.NORM", "XX", "'BN'"),
    ("MODEL.RETINANET.NORM", "bn", "'BN'"),
    ("MODEL.RETINANET.BBOX_REG_LOSS_TYPE", "l1", "'smooth_l1'"),
    ("MODEL.RETINANET.BBOX_REG_WEIGHTS", "(1.0, 1.0, 1.0)", "it must have 4 values"),
    ("MODEL.RETINANET.BBOX_REG_WEIGHTS", "(0.0, 1.0, 1.0, 1.0)", "must be finite and above 0"),
    ("MODEL.RETINANET.PRIOR_PROB", "0.0", "between 0 and 1"),
    ("MODEL.RETINANET.PRIOR_PROB", "1.0", "between 0 and 1"),
    ("MODEL.RETINANET.FOCAL_LOSS_ALPHA", "7.0", "from 0 to 1, or -1 for equal weights"),
    ("MODEL.RETINANET.NUM_CONVS", "-1", "at least 0"),
    ("MODEL.RETINANET.SCORE_THRESH_TEST", "2.0", "from 0 to 1"),
    ("MODEL.RETINANET.NMS_THRESH_TEST", "-1.0", "at least 0"),
    ("MODEL.RETINANET.TOPK_CANDIDATES_TEST", "0", "at least 1"),
    ("MODEL.RETINANET.SMOOTH_L1_LOSS_BETA", "-1.0", "at least 0"),
    ("MODEL.RETINANET.FOCAL_LOSS_GAMMA", "-1.0", "at least 0"),
    ("MODEL.RETINANET.BBOX_REG_WEIGHTS", "('a', 1.0, 1.0, 1.0)", "must be finite and above 0"),
    ("MODEL.RETINANET.IOU_THRESHOLDS", "[0.5, 0.4]", "in ascending order"),
    ("MODEL.RETINANET.IOU_THRESHOLDS", "[0.0, 0.4]", "one or more above 0"),
    ("MODEL.RETINANET.IOU_LABELS", "[0, 1]", "write 3 of them, for the ranges between"),
    ("MODEL.RPN.IOU_LABELS", "[0, 5, 1]", "0 = background, -1 = ignored, 1 = object"),
    ("MODEL.ROI_HEADS.IOU_THRESHOLDS", "[]", "write one or more"),
    ("MODEL.RETINANET.IN_FEATURES", "['p3', 'p3', 'p4']", "name each level once"),
    ("MODEL.RETINANET.IN_FEATURES", "['p5', 'p4', 'p3']", "from fine to coarse"),
    ("MODEL.RPN.IN_FEATURES", "[]", "name each level once"),
    ("MODEL.RPN.CONV_DIMS", "[-5]", "at least 1, or -1"),
    ("MODEL.ROI_BOX_HEAD.FC_DIM", "0", "at least 1"),
    ("MODEL.ROI_BOX_HEAD.CONV_DIM", "-1", "at least 1"),
    ("MODEL.ROI_BOX_HEAD.POOLER_TYPE", "ROIalign", "'ROIAlign'"),
    ("MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO", "-3", "at least 0"),
    ("MODEL.ROI_BOX_HEAD.BBOX_REG_LOSS_TYPE", "iou", "'giou'|'diou'"),
    ("MODEL.ROI_BOX_CASCADE_HEAD.IOUS", "(0.5, 1.6, 0.7)", "must be from 0 to 1"),
    ("MODEL.PROPOSAL_GENERATOR.MIN_SIZE", "-5", "at least 0"),
    ("MODEL.RPN.POST_NMS_TOPK_TEST", "0", "at least 1"),
    ("MODEL.RPN.IOU_THRESHOLDS", "[0.3, 1.7]", "its numbers must be from 0 to 1"),
    ("MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE", "0", "at least 1"),
    ("MODEL.ROI_HEADS.POSITIVE_FRACTION", "1.5", "from 0 to 1"),
    ("MODEL.FPN.OUT_CHANNELS", "0", "at least 1"),
    ("MODEL.ANCHOR_GENERATOR.OFFSET", "2.0", "at least 0 and below 1"),
    ("MODEL.FPN.FUSE_TYPE", "mean", "'sum'"),
    ("MODEL.RESNETS.OUT_FEATURES", "['res9']", "'res5'"),
    ("MODEL.RESNETS.OUT_FEATURES", "[]", "'res5'"),
    ("MODEL.RESNETS.RES5_DILATION", "3", "'2'"),
    ("MODEL.RESNETS.DEFORM_ON_PER_STAGE", "[True]", "it must have 4 values"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[['16']]", "a finite number above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[[16]]]", "a finite number above 0"),
    ("MODEL.ANCHOR_GENERATOR.SIZES", "[[], [16], [32]]", "a finite number above 0"),
    ("MODEL.PIXEL_MEAN", "['a', 'b', 'c']", "must be finite"),
    ("MODEL.PIXEL_MEAN", "[1.0, 2.0]", "it must have 3 values"),
    ("MODEL.PIXEL_STD", "[]", "it must have 3 values"),
    ("MODEL.GUIDED_ANCHOR.LOCATION_THRESH", "1.5", "from 0 to 1"),
    ("MODEL.GUIDED_ANCHOR.RPN.SHAPE_STD", "0.0", "above 0"),
    ("MODEL.DYNAMIC_ANCHOR.BASE_ASPECT_RATIO", "-1.0", "above 0"),
    ("MODEL.DEVICE", "gpu", "PyTorch cannot use it .* Write cpu or cuda"),
    ("MODEL.DEVICE", "", "PyTorch cannot use it"),
    ("MODEL.DEVICE", "“cpu”", "PyTorch cannot use it"),
    ("MODEL.DEVICE", "None", "has no value; its default is 'cuda'"),
    ("INPUT.MIN_SIZE_TRAIN", "(-48,)", "at least 0"),
    ("INPUT.MIN_SIZE_TEST", "-3", "at least 0"),
    ("INPUT.MAX_SIZE_TRAIN", "0", "at least 1"),
    ("INPUT.MIN_SIZE_TRAIN", "()", "write the sizes to choose from"),
    ("INPUT.MIN_SIZE_TRAIN", "('48',)", "at least 0"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "range", "the smallest and the largest"),
    ("INPUT.MIN_SIZE_TRAIN_SAMPLING", "rnge", "'range'"),
    ("INPUT.RANDOM_FLIP", "both", "'horizontal'"),
    ("INPUT.CROP.SIZE", "[0.0, 0.0]", "above 0"),
    ("INPUT.CROP.SIZE", "[0.5]", "it must have 2 values"),
    ("INPUT.CROP.SIZE", "[300.0, 300.0]", "shares of the image's height and width"),
    ("INPUT.COLOR_JITTER", "[0.1]", "it must have 4 values"),
    ("INPUT.COLOR_JITTER", "[-0.1, 0.0, 0.0, 0.0]", "at least 0"),
    ("INPUT.COLOR_JITTER", "[0.0, 0.0, 0.0, 0.9]", "the hue is at most 0.5"),
    ("MODEL.BACKBONE.FREEZE_AT", "-1", "at least 0"),
    ("DATASETS.TRAIN", "(1,)", "has 1; write names of data sets"),
    ("DATASETS.TEST", "('',)", "has ''; write names of data sets"),
    ("DATALOADER.NUM_WORKERS", "-1", "at least 0"),
    ("DATALOADER.REPEAT_THRESHOLD", "-1.0", "at least 0"),
    ("SOLVER.MAX_ITER", "0", "at least 1"),
    ("SOLVER.MAX_ITER", "-5", "at least 1"),
    ("SOLVER.CHECKPOINT_PERIOD", "0", "at least 1"),
    ("SOLVER.GRADIENT_ACCUMULATION", "0", "at least 1"),
    ("SOLVER.BASE_LR", "1e999", "finite and at least 0"),
    ("SOLVER.BASE_LR", "-0.1", "finite and at least 0"),
    ("SOLVER.BASE_LR", "None", "has no value"),
    ("SOLVER.EMA_DECAY", "1.0", "below 1"),
    ("SOLVER.MOMENTUM", "2.0", "below 1"),
    ("SOLVER.MOMENTUM", "-1.0", "at least 0"),
    ("SOLVER.GAMMA", "-1.0", "at least 0"),
    ("SOLVER.WEIGHT_DECAY", "1e999", "finite and at least 0"),
    ("SOLVER.WARMUP_ITERS", "-5", "at least 0"),
    ("SOLVER.WARMUP_FACTOR", "-1.0", "at least 0"),
    ("SOLVER.WARMUP_METHOD", "cubic", "'constant'|'linear'"),
    ("SOLVER.MAX_EPOCHS", "-1.0", "at least 0"),
    ("SOLVER.REFERENCE_WORLD_SIZE", "-1", "at least 0"),
    ("SOLVER.STEPS", "(10, 5)", "ascending order"),
    ("SOLVER.STEPS", "(0, 5)", "must be whole and at least 1"),
    ("SOLVER.STEPS", "(0.6, 0.8)", "must be whole and at least 1"),
    ("SOLVER.STEPS", "('5', 8)", "must be whole and at least 1"),
    ("SOLVER.BASE_LR", "0.0", "WarmupCosineLR goes down from the first"),
    ("SOLVER.BASE_LR_END", "1.0", "WarmupCosineLR goes down from the first"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "0.0", "finite and above 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_VALUE", "-1.0", "finite and above 0"),
    ("SOLVER.CLIP_GRADIENTS.NORM_TYPE", "0.0", "it must be above 0"),
    ("SOLVER.CLIP_GRADIENTS.CLIP_TYPE", "foo", "'full_model'"),
    ("SOLVER.EARLY_STOP_PATIENCE", "2", "needs TEST.BEST_METRIC"),
    ("SEED", "abc", "a value of this key is of the type int"),
    ("SEED", str(2**70), r"below 2 \*\* 32"),
    ("VIS_PERIOD", "-1", "at least 0"),
    ("TEST.EVAL_PERIOD", "-1", "at least 0"),
    ("TEST.DETECTIONS_PER_IMAGE", "0", "at least 1, or of two-stage models -1 for no limit"),
    ("TEST.DETECTIONS_PER_IMAGE", "-1", "two-stage models alone take for no limit"),
    ("TEST.AUG.MIN_SIZES", "(-5,)", "at least 1"),
    ("TEST.AUG.MAX_SIZE", "0", "at least 1"),
    ("TEST.PRECISE_BN.NUM_ITER", "0", "at least 1"),
    ("FLOAT32_PRECISION", "low", "'highest'|'high'|'medium'"),
    ("TEST.EXPECTED_RESULTS", "[['bbox', 'AP', 1]]", "an entry is .task, metric, value, tol"),
    ("OUTPUT_DIR", "", "is ''; name a folder"),
    ("OUTPUT_DIR", "a\0b", "name a folder"),
    # a comma for a point, a unit, a number of another type, a word
    ("SOLVER.BASE_LR", "0,001", "a value of this key is of the type float"),
    ("SOLVER.MAX_ITER", "10k", "a value of this key is of the type int"),
    ("SOLVER.MAX_ITER", "1e3", "a value of this key is of the type int"),
    ("SOLVER.AMP.ENABLED", "yes", "a value of this key is of the type bool"),
    ("DATASETS.TRAIN", "shapes", "a value of this key is of the type tuple"),
    ("DATASETS.TRAIN", "('shapes')", "a value of this key is of the type tuple"),
    ("SOLVER.WEIGHT_DECAY", ".nan", "a value of this key is of the type float"),
    # keys
    ("model.device", "cpu", "^There is no config key model.device"),
    (
        "MODEL..DEVICE",
        "cpu",
        "^There is no config key MODEL..DEVICE. Similar keys: MODEL.DEVICE",
    ),
    ("MODEL.DEVICE.X", "cpu", "^There is no config key .* Similar keys: MODEL.DEVICE"),
    ("", "cpu", "^There is no config key"),
]


@pytest.mark.parametrize("key, value, message", WRONG)
def test_impossible_values(key, value, message):
    with pytest.raises(ValueError, match=message) as error:
        load_config(arguments(CONFIG, key, value))
    assert key in str(error.value)
    assert is_user_error(error.value) and "\n" not in str(error.value)


# A config file in place of one, and what is said of it.
FILES = {
    "empty": (b"", "is not a config: it has no keys"),
    "a list": (b"- 1\n", "is not a config: it has no keys"),
    "a tab": (b"MODEL:\n\tDEVICE: cpu\n", "is not a YAML file"),
    "cut off": (b"MODEL:\n  DEVICE: [", "is not a YAML file"),
    "UTF-16": ("MODEL:\n  DEVICE: cpu\n".encode("utf-16"), "is not text in UTF-8"),
    "a checkpoint": (b"PK\x03\x04\x80\x8a", "is not (text in UTF-8|a YAML file)"),
    "JSON": (b'{"images": []}', "Non-existent config key: images"),
    "a key that there is not": (b"FOO: 3\n", "Non-existent config key: FOO"),
    "another type": (b"MODEL:\n  DEVICE: 3\n", "the value of MODEL.DEVICE is of the wrong type"),
    "a value for a group": (b"MODEL: 3\n", "a group of keys has a value"),
    "a value for a group below": (b"MODEL:\n  RPN: 3\n", "value of MODEL.RPN is of the wrong type"),
    "nothing for a group": (b"MODEL:\n", "a group of keys has a value"),
    "a group for a value": (b"MODEL:\n  DEVICE:\n    X: 3\n", "the value of MODEL.DEVICE is of"),
    "no value": (b"MODEL:\n  DEVICE:\n", "MODEL.DEVICE has no value"),
    "no base": (b"_BASE_: nothing.yaml\n", "_BASE_ names .*nothing.yaml, which is not a file"),
    "itself as base": (b"_BASE_: own.yaml\n", "_BASE_ leads back to this file"),
    "a number as base": (b"_BASE_: 3\n", "_BASE_ names .*3, which is not a file"),
}


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_config(tmp_path, name):
    content, message = FILES[name]
    path = tmp_path / "own.yaml"
    path.write_bytes(content)
    with pytest.raises((ValueError, OSError), match=message) as error:
        load_config(arguments(str(path)))
    assert is_user_error(error.value) and "\n" not in str(error.value)


def test_a_folder_is_no_config(tmp_path):
    with pytest.raises(FileNotFoundError, match=f"no config file {tmp_path}"):
        load_config(arguments(str(tmp_path)))


@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_shipped_configs_pass(name):
    cfg = model_zoo.get_config(name)
    cfg.MODEL.DEVICE = "cpu"
    check_config_values(cfg)


def test_configs_of_detectron2_pass():
    configs = [*(Path(detectron2.model_zoo.__file__).parent / "configs").rglob("*.yaml")]
    assert len(configs) > 90
    for path in configs:
        cfg = get_cfg()
        cfg.merge_from_file(str(path), allow_unsafe=True)  # some compute their values
        cfg.MODEL.DEVICE = "cpu"
        check_config_values(cfg)


def test_two_stage_models_need_no_limit_of_detections():
    cfg = model_zoo.get_config("quick_start/faster_rcnn")
    cfg.merge_from_list(["MODEL.DEVICE", "cpu", "TEST.DETECTIONS_PER_IMAGE", -1])
    check_config_values(cfg)


def test_parts_of_ones_own_and_values_that_mean_something_pass():
    from detectron2.modeling import BACKBONE_REGISTRY

    cfg = model_zoo.get_config(CONFIG)
    cfg.MODEL.DEVICE = "meta"
    cfg.merge_from_list(["INPUT.MIN_SIZE_TRAIN", (0,), "SOLVER.STEPS", (), "SOLVER.BASE_LR", 0.0])
    cfg.SOLVER.LR_SCHEDULER_NAME = "WarmupMultiStepLR"
    cfg.merge_from_list(["MODEL.RETINANET.NMS_THRESH_TEST", 1.5])
    name = "backbone of one's own"
    BACKBONE_REGISTRY._do_register(name, torch.nn.Identity)
    cfg.MODEL.ROI_MASK_HEAD.POOLER_TYPE = ""  # the head takes the feature maps
    try:
        cfg.MODEL.BACKBONE.NAME = name
        cfg.MODEL.RESNETS.DEPTH = 200  # of its own
        check_config_values(cfg)
    finally:
        del BACKBONE_REGISTRY._obj_map[name]
