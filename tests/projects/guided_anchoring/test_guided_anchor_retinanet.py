import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling import build_model
from detectron2.modeling.backbone import Backbone
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from guided_published import (
    CHANNELS,
    LEVELS,
    NUM_CLASSES,
    TOLERANCE,
    Published,
    input_shape,
    published_cfg,
    sample_generator,
)

from anchor_heads import model_zoo
from anchor_heads.one_stage import candidates_before_nms
from anchor_heads.projects.guided_anchoring.anchoring import GuidedAnchoring
from anchor_heads.projects.guided_anchoring.head import GuidedAnchorRetinaNetHead
from anchor_heads.projects.guided_anchoring.retinanet import GuidedAnchorRetinaNet

LOSSES = {
    "loss_cls": "loss_cls",
    "loss_box_reg": "loss_bbox",
    "loss_anchor_location": "loss_loc",
    "loss_anchor_shape": "loss_shape",
}


@pytest.fixture(scope="module")
def published():
    return Published("ga_retinanet")


class NoBackbone(Backbone):
    """Stands where features are given."""

    def forward(self, x):
        raise NotImplementedError

    def output_shape(self):
        return {f"p{i + 3}": ShapeSpec(channels=CHANNELS, stride=8 * 2**i) for i in range(LEVELS)}


def detector_of(published, monkeypatch, inverted=True, shape_batch_size=None):
    cfg = published_cfg()
    cfg.MODEL.GUIDED_ANCHOR.INVERTED_LOCATION_LABEL = inverted
    if shape_batch_size:
        cfg.MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE = shape_batch_size
    monkeypatch.setattr(
        "detectron2.modeling.meta_arch.retinanet.build_backbone", lambda cfg: NoBackbone()
    )
    detector = GuidedAnchorRetinaNet(cfg)
    detector.head.load_state_dict(published.parameters("state"))
    return detector


def valid_anchors(published):
    """Per image. None is ignored, but for those outside their image."""
    return published.levels("anchors/inside_flags").sum().item() / 2


@pytest.mark.parametrize("setup", ["all", "all_locfix", "nogt", "s256"])
def test_losses_and_gradients_are_the_published_ones(published, monkeypatch, setup):
    """In s256 all positives are drawn for the shape, so that no loss depends on chance."""
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
    drawn = published.arrays[key] / 2 if setup in ("all", "s256") else None
    assert drawn is None or latest["guided_anchor/num_pos_shapes"] == drawn
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
        guides = detector.head(published.features())
        results = detector.forward_inference(published.images(), None, guides)
    for i, result in enumerate(results):
        expected = published.tensor(f"eval{i}/dets{suffix}")
        order = expected[:, 4].argsort(descending=True, stable=True)
        torch.testing.assert_close(result.scores, expected[order, 4], **TOLERANCE)
        torch.testing.assert_close(result.pred_boxes.tensor, expected[order, :4], **TOLERANCE)
        labels = published.tensor(f"eval{i}/labels{suffix}")
        assert torch.equal(result.pred_classes, labels[order])


def test_predictions_at_the_wanted_locations_are_those_everywhere(published, monkeypatch):
    detector = detector_of(published, monkeypatch).eval()
    with torch.no_grad():
        guides = detector.head(published.features())
        images = detector.guided_anchoring.predict_where_wanted(detector.head, guides)
        everywhere = [detector.head.predict(guide) for guide in guides]
    for i, levels in enumerate(images):
        for level, (_, logits, deltas) in enumerate(levels):
            wanted = published.tensor(f"eval{i}/loc_mask{level}")
            assert wanted.any() and (level > 2 or not wanted.all())
            for ours, dense in zip((logits, deltas), everywhere[level], strict=True):
                torch.testing.assert_close(ours, dense[i, wanted], rtol=0, atol=1e-5)


def test_an_image_without_wanted_locations_has_no_detections(published, monkeypatch):
    detector = detector_of(published, monkeypatch).eval()
    detector.guided_anchoring.location_thresh = 1.0
    with torch.no_grad():
        guides = detector.head(published.features())
        results = detector.forward_inference(published.images(), None, guides)
        with candidates_before_nms(detector):
            candidates = detector.forward_inference(published.images(), None, guides)
    assert [len(x) for x in results + candidates] == [0, 0, 0, 0]
    assert results[0].pred_boxes.tensor.shape == (0, 4)


def tiny_cfg():
    cfg = model_zoo.get_config("guided_anchoring/ga_retinanet_R_50_FPN_1x")
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.PIXEL_STD = [2000.0] * 3  # keeps the output of a deep net without norm small
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.RETINANET.NUM_CLASSES = NUM_CLASSES
    return cfg


def image_with(num_objects, height=96, width=128):
    corner = torch.rand(num_objects, 2) * 50
    instances = Instances((height, width), gt_boxes=Boxes(torch.cat([corner, corner + 40], dim=1)))
    instances.gt_classes = torch.arange(num_objects) % NUM_CLASSES
    return {"image": torch.randint(0, 255, (3, height, width)).float(), "instances": instances}


@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)])
def test_trains_with_and_without_objects(objects):
    model = build_model(tiny_cfg()).train()
    with EventStorage():
        losses = model([image_with(n) for n in objects])
        sum(losses.values()).backward()
    assert set(losses) == set(LOSSES)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    if objects == (0, 0):
        assert losses["loss_box_reg"] == losses["loss_anchor_shape"] == 0


def test_an_object_that_no_anchor_touches_makes_a_step():
    """It then takes every anchor that it does not touch, as published, anchors of no size too."""
    model = build_model(tiny_cfg()).train()
    torch.nn.init.constant_(model.head.conv_shape.bias, -20.0)  # anchors of a pixel's millionth
    with EventStorage():
        losses = model([image_with(1)])
        sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())


def test_step_under_bfloat16_autocast():
    model = build_model(tiny_cfg()).train()
    batch = [image_with(3), image_with(0)]
    with EventStorage():
        exact = sum(model(batch).values())
        with torch.autocast("cpu", dtype=torch.bfloat16):
            rounded = sum(model(batch).values())
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_prediction_under_bfloat16_autocast():
    model = build_model(tiny_cfg()).eval()
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        (output,) = model([image_with(1)])
    assert output["instances"].pred_boxes.tensor.dtype == torch.float32


def test_an_anchor_of_no_size_learns_nothing_and_boxes_shrink_by_a_bounded_factor():
    model = build_model(tiny_cfg())
    anchors = torch.tensor([[[5.0, 5.0, 5.0, 9.0], [0.0, 0.0, 10.0, 10.0]]])
    gt = Instances((128, 160), gt_boxes=Boxes(torch.tensor([[100.0, 100.0, 120.0, 120.0]])))
    gt.gt_classes = torch.tensor([2])
    with EventStorage():
        labels, _ = model.label_anchors(anchors, [gt], torch.ones(1, 2).bool())
    assert labels.tolist() == [[-1, 2]]  # the object takes all that it does not touch
    deltas = torch.tensor([[0.0, 0.0, -1e4, 0.0]])
    x0, _, x1, _ = model.box2box_transform.apply_deltas(deltas, anchors[0, 1:] * 100)[0]
    assert (x1 - x0).item() == pytest.approx(16, rel=1e-3)


def test_location_starts_at_the_prior_and_offsets_start_published():
    torch.manual_seed(0)
    head = GuidedAnchorRetinaNetHead(published_cfg(), input_shape([8] * LEVELS))
    assert head.conv_loc.bias.sigmoid().item() == pytest.approx(0.01)
    for adaption in (head.feature_adaption_cls, head.feature_adaption_reg):
        assert adaption.conv_offset.weight.std().item() == pytest.approx(0.1, rel=0.15)
        assert adaption.conv_adaption.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert adaption.conv_offset.weight.shape == (72, 2, 1, 1)


def test_levels_with_unequal_numbers_of_samples_are_refused():
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 40], [64], [128], [256], [512]]
    with pytest.raises(ValueError, match=r"\[6, 3, 3, 3, 3\] shape samples per location"):
        GuidedAnchoring(cfg, cfg.MODEL.GUIDED_ANCHOR.RPN, sample_generator([4, 8, 16, 32, 64], cfg))


def test_levels_whose_squares_do_not_grow_are_refused():
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32, 64, 128]]
    with pytest.raises(ValueError, match="must grow from level to level"):
        GuidedAnchoring(cfg, cfg.MODEL.GUIDED_ANCHOR.RPN, sample_generator([4, 8, 16, 32, 64], cfg))


@pytest.mark.parametrize("share", [0.0, 1.1])
def test_judging_some_or_all_locations_gives_the_same(published, monkeypatch, share):
    """Below the share only the wanted ones are judged, from it on all, then picked."""
    detector = detector_of(published, monkeypatch).eval()
    with torch.no_grad():
        guides = detector.head(published.features())
        expected = detector.guided_anchoring.predict_where_wanted(detector.head, guides)
        anchoring = "anchor_heads.projects.guided_anchoring.anchoring"
        monkeypatch.setattr(f"{anchoring}.SPARSE_SHARE", share)
        images = detector.guided_anchoring.predict_where_wanted(detector.head, guides)
    for ours, theirs in zip(images, expected, strict=True):
        for a, b in zip(ours, theirs, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-5)
