"""Published files in ``MODEL.WEIGHTS``."""

import logging
import pickle

import numpy as np
import pytest
import torch
from detectron2.engine import DefaultPredictor
from detectron2.modeling import build_model
from published_files import CONFIGS, small_cfg, small_source, write_published
from source_models import make_up_statistics, resnet, stages

from anchor_heads.checkpoint.detectron2_loading import convert_loaded
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.predictor import load_predictor

LOGGER = "anchor_heads.checkpoint.detectron2_loading"
CONV = torch.zeros(8, 3, 7, 7)
OURS = {"backbone.bottom_up.stem.conv1.weight": CONV, "backbone.top_block.p6.bias": CONV}
LEFT_ALONE = {
    "Detectron2's checkpoint": {"model": OURS, "optimizer": {"state": {}}, "iteration": 3},
    "of parallel training": {"model": {f"module.{key}": x for key, x in OURS.items()}},
    "weights alone": OURS,
    "numpy arrays": {"model": {"backbone.bottom_up.stem.conv1.weight": np.zeros((8, 3, 7, 7))}},
    "another detector": {"backbone.body.conv1.weight": CONV, "rpn.head.conv.weight": CONV},
    "a part of a ResNet": {"conv1.weight": CONV, "layer1.0.conv1.weight": CONV},
    "both entries": {"model": OURS, "state_dict": {"rpn_head.conv_loc.weight": CONV}},
}


@pytest.mark.parametrize("loaded", LEFT_ALONE.values(), ids=LEFT_ALONE)
def test_other_files_stay_as_detectron2_reads_them(loaded):
    assert convert_loaded(loaded, "model.pth", OURS, "RetinaNet") is loaded


def small_model(method="ga_retinanet"):
    return build_model(small_cfg(method))


def test_detectron2_files_load_as_ever(tmp_path, caplog):
    """Also the rest of a checkpoint, weights of ``.pkl`` files and the matching of names."""
    source = small_model()
    with torch.no_grad():
        source.head.conv_loc.bias.fill_(7)
    AtomicCheckpointer(source, str(tmp_path)).save("model", iteration=4)
    arrays = {"head.conv_loc.bias": np.full(1, 8.0, dtype=np.float32)}
    content = {"model": arrays, "__author__": "someone"}
    (tmp_path / "model.pkl").write_bytes(pickle.dumps(content))
    torch.save({"conv_loc.bias": torch.full((1,), 9.0)}, tmp_path / "other.pth")

    model = small_model()
    with caplog.at_level(logging.INFO, LOGGER):
        rest = AtomicCheckpointer(model).load(str(tmp_path / "model.pth"))
        assert rest == {"iteration": 4}
        for name, x in source.state_dict().items():
            assert torch.equal(model.state_dict()[name], x)
        AtomicCheckpointer(model).load(str(tmp_path / "model.pkl"))
        assert model.head.conv_loc.bias == 8
        AtomicCheckpointer(model).load(f"{tmp_path / 'other.pth'}?matching_heuristics=True")
        assert model.head.conv_loc.bias == 9
    assert not [x for x in caplog.records if x.name == LOGGER]


def test_a_network_that_has_the_names_of_the_file_itself_gets_them_as_they_are(tmp_path, caplog):
    """A ResNet of torchvision's, saved and loaded by Detectron2's checkpointer."""
    source, model = (resnet(width=1, stride_in_1x1=False) for _ in range(2))
    AtomicCheckpointer(source, str(tmp_path)).save("model")
    with caplog.at_level(logging.INFO):
        AtomicCheckpointer(model).load(str(tmp_path / "model.pth"))
    for name, x in source.state_dict().items():
        assert torch.equal(model.state_dict()[name], x)
    assert not [x for x in caplog.records if x.name == LOGGER or x.levelno >= logging.WARNING]


def test_weights_of_another_model_come_with_a_warning(tmp_path, caplog):
    source = small_source("ga_retinanet")
    path = write_published(tmp_path / "x.pth", "ga_retinanet", source.state_dict())
    AtomicCheckpointer(small_model("da_retinanet")).load(path)
    (warning,) = (x.getMessage() for x in caplog.records if x.name == LOGGER)
    assert "META_ARCHITECTURE is GuidedAnchorRetinaNet, not DynamicAnchorRetinaNet" in warning


def test_a_predictor_converts_with_one_line(tmp_path, caplog):
    source = small_source("free_anchor")
    path = write_published(tmp_path / "free_anchor.pth", "free_anchor", source.state_dict())
    names = ["MODEL.CLASS_NAMES", list("abcde")]
    with caplog.at_level(logging.INFO):
        predictor, _ = load_predictor(small_cfg("free_anchor", "MODEL.WEIGHTS", path, *names))
    (line,) = (x.getMessage() for x in caplog.records if x.name == LOGGER)
    assert line.startswith(f"Converting {path}: FreeAnchor's RetinaNet of maskrcnn-benchmark. ")
    assert "MODEL.FREE_ANCHOR.LEGACY_BOXES True" in line
    assert not [x for x in caplog.records if x.levelno >= logging.WARNING]
    published = source.rpn.head.cls_tower["6"].weight
    assert torch.equal(predictor.model.head.cls_subnet[6].weight, published)
    image = np.random.default_rng(0).integers(0, 256, (60, 80, 3), dtype=np.uint8)
    assert len(predictor(image)["instances"]) == 100


@pytest.mark.parametrize("method", CONFIGS)
def test_detectron2s_predictor_does_not_predict_with_random_weights(tmp_path, method):
    """The weights alone, as many save them: the whole file of mmdetection is an error anyway."""
    path = str(tmp_path / "x.pth")
    torch.save({"model": small_source(method).state_dict()}, path)
    cfg = small_cfg(method, "MODEL.WEIGHTS", path)
    message = "These are weights of .*predictor.load_predictor.*anchor-heads convert-weights"
    with pytest.raises(RuntimeError, match=message):
        DefaultPredictor(cfg)
    AtomicCheckpointer(build_model(cfg)).load(path)


def test_another_number_of_classes_is_left_as_initialised(tmp_path, caplog):
    source = small_source("ga_retinanet")
    path = write_published(tmp_path / "x.pth", "ga_retinanet", source.state_dict())
    model = build_model(small_cfg("ga_retinanet", "MODEL.RETINANET.NUM_CLASSES", 3))
    initialised = model.head.cls_score.weight.clone()
    AtomicCheckpointer(model).load(path)
    assert torch.equal(model.head.cls_score.weight, initialised)
    assert torch.equal(model.head.bbox_pred.weight, source.bbox_head.retina_reg.weight)
    warnings = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    assert any("head.cls_score.weight" in x and "incompatible shapes" in x for x in warnings)


def test_keys_that_are_not_known_are_warned_of(tmp_path, caplog):
    weights = small_source("ga_retinanet").state_dict() | {"bbox_head.centerness.weight": CONV}
    path = write_published(tmp_path / "x.pth", "ga_retinanet", weights)
    AtomicCheckpointer(small_model()).load(path)
    (warning,) = (x.getMessage() for x in caplog.records if x.levelno == logging.WARNING)
    assert "not used by the model" in warning and "bbox_head.centerness" in warning
    assert "num_batches_tracked" not in warning  # frozen batch norms do not count


def test_mmdetection_files_of_other_models_are_refused(tmp_path):
    path = tmp_path / "fcos.pth"
    weights = {"backbone.conv1.weight": CONV, "bbox_head.conv_centerness.weight": CONV}
    torch.save({"state_dict": weights, "meta": {}}, path)
    message = f"{path} is of no format that is known here.*its keys are backbone.conv1.weight, "
    with pytest.raises(ValueError, match=message):
        AtomicCheckpointer(small_model()).load(str(path))


IMAGE_NET = [("32x4d", 32), ("64x4d", 64)]


@pytest.mark.parametrize("form", ["weights alone", "state_dict"])
@pytest.mark.parametrize("name, groups", IMAGE_NET)
def test_image_net_backbones_of_the_resnext_configs(tmp_path, caplog, name, groups, form):
    source = resnet(groups=groups, width=1, stride_in_1x1=False)
    make_up_statistics(source)
    weights = source.eval().state_dict()
    assert "fc.weight" in weights
    path = tmp_path / f"resnext_{name}.pth"
    torch.save(weights if form == "weights alone" else {"state_dict": weights}, path)
    config = f"guided_anchoring/ga_rpn_X_101_{name}_FPN_1x"
    overrides = ["MODEL.RESNETS.DEPTH", 50, "MODEL.RESNETS.WIDTH_PER_GROUP", 1]
    model = build_model(small_cfg("ga_rpn", *overrides, config=config))
    AtomicCheckpointer(model).load(str(path))

    warnings = [x.getMessage() for x in caplog.records if x.levelno == logging.WARNING]
    assert len(warnings) == 1 and "bottom_up" not in warnings[0]  # FPN and head are as initialised
    x = torch.randn(1, 3, 64, 96)
    with torch.no_grad():
        features = model.eval().backbone.bottom_up(x)
        expected = stages(source._modules, source, x)
    for ours, theirs in zip(features.values(), expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * theirs.abs().max().item())
