import pytest
import torch
from detectron2.modeling import build_model
from tiny_models import tiny_config

from anchor_heads.analysis.benchmark import workload
from anchor_heads.analysis.benchmark.workload import (
    Workload,
    blobs,
    build_measured_model,
    kept_locations,
    make_batch,
    make_objects,
    run,
)
from anchor_heads.anchor_generation.strategy import get_anchor_strategy

SIZE = (64, 96)


def test_input_of_random_weights_is_scaled(tmp_path):
    cfg = tiny_config(tmp_path / "random", "RetinaNet")
    model = build_measured_model(cfg, SIZE)
    assert not model.training
    pixels = model.preprocess_image(make_batch(model, Workload(SIZE))).tensor
    with torch.no_grad():
        deviation = model.backbone(pixels)["p3"].std().item()
    assert deviation == pytest.approx(workload.FEATURE_SCALE, rel=1e-3)

    cfg.MODEL.WEIGHTS = str(tmp_path / "model.pth")
    weights = build_model(cfg).state_dict()
    torch.save({"model": weights}, cfg.MODEL.WEIGHTS)
    model = build_measured_model(cfg, SIZE)
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
    model = build_measured_model(tiny_config(tmp_path / "x", "FreeAnchorRetinaNet"), SIZE).train()
    batch = make_batch(model, Workload(SIZE, batch_size=2, objects=3))
    assert [len(x["instances"]) for x in batch] == [3, 3]
    gradients = []
    for _ in range(2):
        run(model, batch)
        gradients.append(model.head.bbox_pred.weight.grad.clone())
    assert gradients[0].abs().max() > 0
    torch.testing.assert_close(*gradients)
    run(model, batch, "bfloat16")
    assert not model.head.bbox_pred.weight.grad.equal(gradients[0])
    torch.testing.assert_close(model.head.bbox_pred.weight.grad, gradients[0], rtol=0.1, atol=0.1)


def test_models_without_anchors_are_refused(tmp_path):
    cfg = tiny_config(tmp_path / "fast", "GeneralizedRCNN")
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "PrecomputedProposals"
    cfg.MODEL.LOAD_PROPOSALS = True
    with pytest.raises(TypeError, match="MODEL.PROPOSAL_GENERATOR.NAME"):
        build_measured_model(cfg, SIZE)


@pytest.mark.parametrize("share", [0.001, 0.02, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("size", [(100, 152), (13, 19), (7, 1)])
def test_blobs_have_the_share_of_locations(size, share):
    kept = blobs(size, share)
    assert kept.shape == size and kept.dtype == torch.bool
    assert kept.sum() == max(1, round(share * size[0] * size[1]))
    assert kept.equal(blobs(size, share))


def test_blobs_are_compact():
    kept = blobs((100, 152), 0.02)
    # Single locations would have almost nine in their 3x3 neighbourhoods, a 3x3 square has 2.8.
    read = torch.nn.functional.max_pool2d(kept[None].float(), 3, 1, 1).sum()
    assert read < 3 * kept.sum()


@torch.no_grad()
def test_a_model_keeps_the_share_of_its_locations(tmp_path):
    model = build_measured_model(tiny_config(tmp_path / "x", "GuidedAnchorRetinaNet"), SIZE)
    strategy = get_anchor_strategy(model)
    for kept in (0.1, 0.5):
        with kept_locations(model, Workload(SIZE, kept=kept)):
            features = strategy.features(
                strategy.preprocess(make_batch(model, Workload(SIZE))[0]["image"])
            )
            levels = strategy.level_anchors(features, strategy.head(features), SIZE)
        shares = [level.num_kept / level.num_locations for level in levels]
        assert shares[0] == pytest.approx(kept, abs=0.01)
