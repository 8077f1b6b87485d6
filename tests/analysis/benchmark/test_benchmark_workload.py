import pytest
import torch
from detectron2.modeling import build_model
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import workload
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    build_timed_model,
    make_image,
    make_input,
    make_objects,
    run,
)


def test_input_of_random_weights_is_scaled(tmp_path):
    cfg = tiny_config(tmp_path / "random", "RetinaNet")
    image = make_image(64, 96)
    model = build_timed_model(cfg, image)
    assert not model.training
    pixels = model.preprocess_image([{"image": image}]).tensor
    with torch.no_grad():
        deviation = model.backbone(pixels)["p3"].std().item()
    assert deviation == pytest.approx(workload.FEATURE_SCALE, rel=1e-3)

    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    weights = build_model(cfg).state_dict()
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    model = build_timed_model(cfg, image)
    assert model.pixel_std.flatten().tolist() == cfg.MODEL.PIXEL_STD
    assert all(x.equal(weights[name]) for name, x in model.state_dict().items())


def test_objects_lie_in_the_image():
    objects = make_objects((100, 300), 400, num_classes=3)
    boxes = objects.gt_boxes.tensor
    assert boxes.shape == (400, 4) and (boxes[:, :2] < boxes[:, 2:]).all()
    assert (boxes[:, 2] <= 300).all() and (boxes[:, 3] <= 100).all() and (boxes >= 0).all()
    assert boxes[:, 2].max() > 250  # all over the image
    assert objects.gt_classes.unique().tolist() == [0, 1, 2]
    assert boxes.equal(make_objects((100, 300), 400, num_classes=3).gt_boxes.tensor)
    assert len(make_objects((100, 300), 0, num_classes=3)) == 0


def test_a_step_leaves_gradients_of_this_step_alone(tmp_path):
    model = build_timed_model(
        tiny_config(tmp_path / "x", "FreeAnchorRetinaNet"), make_image(64, 96)
    )
    model_input = make_input(model.train(), Workload((64, 96), num_objects=3))
    assert set(model_input["instances"].gt_classes.tolist()) <= {0, 1}
    gradients = []
    for _ in range(2):
        assert run(model, model_input) is None
        gradients.append(model.head.bbox_pred.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)


def test_models_without_anchors_are_refused(tmp_path):
    cfg = tiny_config(tmp_path / "fast", "GeneralizedRCNN")
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(TypeError, match="MODEL.PROPOSAL_GENERATOR.NAME"):
        build_timed_model(cfg, make_image(64, 96))


def test_training_on_masks_is_refused(tmp_path):
    cfg = tiny_config(tmp_path / "mask", "GeneralizedRCNN", "RPN")
    cfg.MODEL.MASK_ON = True
    cfg.MODEL.ROI_MASK_HEAD.NAME = "MaskRCNNConvUpsampleHead"
    model = build_timed_model(cfg, make_image(64, 96))
    assert make_input(model, Workload((64, 96))).keys() == {"image"}
    with pytest.raises(ValueError, match="MODEL.MASK_ON False"):
        make_input(model, Workload((64, 96), num_objects=3))
