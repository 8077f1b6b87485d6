from unittest.mock import Mock

import pytest
import torch
from detectron2.utils.events import EventStorage
from guided_published import (
    CHANNELS,
    LEVELS,
    TOLERANCE,
    Published,
    input_shape,
    published_cfg,
    sample_generator,
)
from small_models import NoBackbone

from anchor_heads.modeling.one_stage import candidates_before_nms
from anchor_heads.projects.guided_anchoring.head import GuidedAnchorRetinaNetHead
from anchor_heads.projects.guided_anchoring.retinanet import GuidedAnchorRetinaNet
from anchor_heads.projects.guided_anchoring.strategy import LEAST_LEFT_OUT, GuidedAnchoring

LOSSES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_anchor_location": "loss_loc",
    "loss_anchor_shape": "loss_shape",
}


@pytest.fixture(scope="module")
def published():
    return Published("ga_retinanet")


def detector_of(published, monkeypatch, inverted=True, shape_batch_size=None):
    cfg = published_cfg()
    cfg.MODEL.GUIDED_ANCHOR.INVERTED_LOCATION_LABEL = inverted
    if shape_batch_size:
        cfg.MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE = shape_batch_size
    backbone = NoBackbone(CHANNELS)
    monkeypatch.setattr("anchor_heads.modeling.one_stage.build_backbone", lambda cfg: backbone)
    detector = GuidedAnchorRetinaNet(cfg)
    detector.head.load_state_dict(published.parameters("state"))
    return detector


def valid_anchors(published):
    """Per image. None is ignored, but for those outside their image."""
    return published.levels("anchors/inside_flags").sum().item() / 2


@pytest.mark.parametrize("setup", ["all", "all_locfix", "nogt", "s256"])
def test_losses_and_gradients_are_the_published_ones(published, monkeypatch, setup):
    """In s256 all positives are sampled for the shape loss, so that no loss depends on chance."""
    detector = detector_of(
        published, monkeypatch, setup != "all_locfix", 256 if setup == "s256" else None
    ).train()
    features = published.features()
    instances = published.instances(second_without_objects=setup == "nogt")
    with EventStorage() as storage:
        losses = detector.forward_training(
            published.images(), features, detector.head(features), instances
        )
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"{setup}/{theirs}").sum()
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    key = f"{setup}/shape_num_pos"
    sampled = published.arrays[key] / 2 if setup in ("all", "s256") else None
    assert sampled is None or latest["guided_anchor/num_pos_shapes"] == sampled
    assert 0 < latest["predicted_anchor/best_iou"] < 1
    assert latest["num_pos_anchors"] + latest["num_neg_anchors"] == valid_anchors(published)

    sum(losses.values()).backward()
    gradients = published.parameters(f"{setup}/grad_param")
    for name, expected in gradients.items():
        gradient = detector.head.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, **TOLERANCE)
    assert len(gradients) == (20 if setup in ("all_locfix", "nogt") else 2)
    if setup == "all_locfix":
        for i in range(LEVELS):
            expected = published.tensor(f"{setup}/grad_feat{i}")
            torch.testing.assert_close(features[i].grad, expected, **TOLERANCE)


@pytest.mark.parametrize("suffix,topk,limit", [("", 1000, 100), ("_topk", 25, 15)])
def test_detections_of_a_batch_are_the_published_ones_of_each_image(
    published, monkeypatch, suffix, topk, limit
):
    detector = detector_of(published, monkeypatch).eval()
    detector.test_topk_candidates, detector.max_detections_per_image = topk, limit
    with torch.no_grad():
        predictions = detector.head(published.features())
        results = detector.forward_inference(published.images(), None, predictions)
    for i, result in enumerate(results):
        expected = published.tensor(f"eval{i}/dets{suffix}")
        order = expected[:, 4].argsort(descending=True, stable=True)
        torch.testing.assert_close(result.scores, expected[order, 4], **TOLERANCE)
        torch.testing.assert_close(result.pred_boxes.tensor, expected[order, :4], **TOLERANCE)
        labels = published.tensor(f"eval{i}/labels{suffix}")
        assert torch.equal(result.pred_classes, labels[order])


@pytest.mark.parametrize(
    "sparse,least_left_out,num_sparse",
    [(True, 0, LEVELS), (False, 0, 0), (None, 0, 3), (None, 160, 1), (None, 2**13, 0)],
)
def test_predictions_at_the_kept_locations_are_those_everywhere(
    published, monkeypatch, sparse, least_left_out, num_sparse
):
    """Only kept locations of a level are classified and regressed where that is faster."""
    monkeypatch.setitem(LEAST_LEFT_OUT, "cpu", least_left_out)
    detector = detector_of(published, monkeypatch).eval()
    head, anchoring = detector.head, detector.guided_anchoring
    with torch.no_grad():
        predictions = head(published.features())
        everywhere = [head.predict(prediction) for prediction in predictions]
        for name in ("predict", "predict_at"):
            monkeypatch.setattr(head, name, Mock(wraps=getattr(head, name)))
        images = anchoring.predict_at_kept_locations(head, predictions, sparse)
    assert head.predict_at.call_count == num_sparse == LEVELS - head.predict.call_count
    for i, levels in enumerate(images):
        for level, (_, logits, deltas) in enumerate(levels):
            kept = published.tensor(f"eval{i}/loc_mask{level}")
            assert kept.any() and (level > 2 or not kept.all())
            for ours, expected in zip((logits, deltas), everywhere[level], strict=True):
                torch.testing.assert_close(ours, expected[i, kept], rtol=0, atol=1e-5)


def test_an_image_without_kept_locations_has_no_detections(published, monkeypatch):
    detector = detector_of(published, monkeypatch).eval()
    detector.guided_anchoring.location_thresh = 1.0
    with torch.no_grad():
        predictions = detector.head(published.features())
        results = detector.forward_inference(published.images(), None, predictions)
        with candidates_before_nms(detector):
            candidates = detector.forward_inference(published.images(), None, predictions)
    assert [len(x) for x in results + candidates] == [0, 0, 0, 0]
    assert results[0].pred_boxes.tensor.shape == (0, 4)


@pytest.mark.parametrize(
    "prior,kaiming,std", [(0.01, False, 0.01), (0.1, True, (2 / (9 * CHANNELS)) ** 0.5)]
)
def test_training_starts_from_the_keys_of_the_config(prior, kaiming, std):
    node = (cfg := published_cfg()).MODEL.GUIDED_ANCHOR
    node.LOCATION_PRIOR_PROB, node.KAIMING_INIT = prior, kaiming
    head = GuidedAnchorRetinaNetHead(cfg, input_shape([8] * LEVELS))
    assert head.conv_loc.bias.sigmoid().item() == pytest.approx(prior)
    for adaption in (head.feature_adaption_cls, head.feature_adaption_reg):
        assert adaption.conv_offset.weight.std().item() == pytest.approx(0.1, rel=0.15)
        assert adaption.conv_adaption.weight.std().item() == pytest.approx(std, rel=0.1)
        assert adaption.conv_offset.weight.shape == (72, 2, 1, 1)


def test_levels_with_unequal_numbers_of_samples_are_refused():
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 40], [64], [128], [256], [512]]
    with pytest.raises(ValueError, match=r"\[6, 3, 3, 3, 3\] shape samples per location"):
        GuidedAnchoring(cfg, cfg.MODEL.GUIDED_ANCHOR.RPN, sample_generator([4, 8, 16, 32, 64], cfg))


def test_levels_whose_squares_do_not_grow_are_refused():
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128]]
    with pytest.raises(ValueError, match="grow from level to level"):
        GuidedAnchoring(cfg, cfg.MODEL.GUIDED_ANCHOR.RPN, sample_generator([4, 8, 16, 32, 64], cfg))
