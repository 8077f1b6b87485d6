"""Candidates before NMS, on small models with random weights."""

import pytest
import torch
import torch.distributed as dist
from detectron2.layers import batched_nms
from torch.nn.parallel import DistributedDataParallel

from anchor_heads import model_zoo
from anchor_heads.modeling.distributed import unwrap
from anchor_heads.modeling.one_stage import candidates_before_nms

SETTINGS = ("test_topk_candidates", "test_nms_thresh", "max_detections_per_image")


@pytest.fixture(params=["retinanet", "free_anchor"])
def model(request):
    """Scores spread widely, without ties; boxes near the anchors, so that each meets the image."""
    overrides = ["MODEL.DEVICE", "cpu", "MODEL.RETINANET.TOPK_CANDIDATES_TEST", 50]
    model = model_zoo.get(f"quick_start/{request.param}", overrides).eval()
    torch.nn.init.normal_(model.head.cls_score.weight, std=0.1)
    return model


@pytest.fixture
def inputs():
    return [{"image": torch.rand(3, 64, 96) * 255} for _ in range(2)]


@torch.no_grad()
def candidates(model, inputs, **kwargs):
    with candidates_before_nms(model, **kwargs):
        return [x["instances"] for x in model(inputs)]


@torch.no_grad()
def test_all_candidates_over_the_score_threshold(model, inputs):
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    logits, _ = model.head([features[name] for name in model.head_in_features])
    for i, found in enumerate(candidates(model, inputs)):
        scores = torch.cat([x[i].flatten() for x in logits]).sigmoid()
        expected = scores[scores > model.test_score_thresh].sort(descending=True).values
        assert len(expected) > 300  # more than the model itself would keep per level and image
        torch.testing.assert_close(found.scores, expected)


def test_topk_is_per_level(model, inputs):
    for found in candidates(model, inputs, topk_candidates=7):
        assert len(found) == 7 * len(model.head_in_features)


@torch.no_grad()
def test_nms_on_the_candidates_gives_the_detections(model, inputs):
    model.max_detections_per_image = 20
    detections = [x["instances"] for x in model(inputs)]
    found_per_image = candidates(model, inputs, topk_candidates=model.test_topk_candidates)
    for found, expected in zip(found_per_image, detections, strict=True):
        keep = batched_nms(
            found.pred_boxes.tensor, found.scores, found.pred_classes, model.test_nms_thresh
        )[:20]
        assert len(expected) == 20
        torch.testing.assert_close(found[keep].scores, expected.scores)
        torch.testing.assert_close(found[keep].pred_boxes.tensor, expected.pred_boxes.tensor)


def test_model_is_restored_also_after_an_exception(model):
    before = {name: getattr(model, name) for name in SETTINGS}
    with candidates_before_nms(model):
        assert all(getattr(model, name) != before[name] for name in SETTINGS)
    assert {name: getattr(model, name) for name in SETTINGS} == before
    with pytest.raises(KeyError), candidates_before_nms(model):
        raise KeyError
    assert {name: getattr(model, name) for name in SETTINGS} == before


def test_wrapped_model(model, inputs, tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/store", rank=0, world_size=1)
    try:
        wrapped = DistributedDataParallel(model)
        assert unwrap(wrapped) is model and unwrap(model) is model
        plain = candidates(model, inputs)
        for found, expected in zip(candidates(wrapped, inputs), plain, strict=True):
            assert len(found) == len(expected) > 100
    finally:
        dist.destroy_process_group()


def test_a_two_stage_model_is_refused():
    model = model_zoo.get("baselines/faster_rcnn_R_50_FPN_1x", ["MODEL.DEVICE", "cpu"])
    with pytest.raises(TypeError, match="GeneralizedRCNN has no candidates before NMS"):
        with candidates_before_nms(model):
            pass
