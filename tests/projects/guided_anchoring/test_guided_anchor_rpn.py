import pytest
import torch
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from guided_published import CHANNELS, LEVELS, TOLERANCE, Published, input_shape, published_cfg

from anchor_heads.projects.guided_anchoring.head import GuidedAnchorRPNHead
from anchor_heads.projects.guided_anchoring.rpn import GuidedAnchorRPN

NAMES = ["p2", "p3", "p4", "p5", "p6"]
LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_loc": "loss_rpn_bbox",
    "loss_anchor_location": "loss_anchor_loc",
    "loss_anchor_shape": "loss_anchor_shape",
}


@pytest.fixture(scope="module")
def published():
    return Published("ga_rpn")


def generator_of(published, **keys):
    cfg = published_cfg()
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    shapes = dict(zip(NAMES, input_shape(published.strides), strict=True))
    generator = GuidedAnchorRPN(cfg, shapes)
    generator.rpn_head.load_state_dict(published.parameters("state"))
    return generator


def run(generator, published, instances=None):
    features = published.features()
    by_name = dict(zip(NAMES, features, strict=True))
    with EventStorage() as storage:
        proposals, losses = generator(published.images(), by_name, instances)
    return features, proposals, losses, storage


@pytest.mark.parametrize("setup", ["all", "all_locfix", "nogt"])
def test_losses_and_gradients_are_the_published_ones(published, setup):
    inverted = setup != "all_locfix"
    generator = generator_of(published, GUIDED_ANCHOR__INVERTED_LOCATION_LABEL=inverted)
    instances = published.instances(second_without_objects=setup == "nogt")
    features, _, losses, _ = run(generator.train(), published, instances)
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"{setup}/{theirs}").sum()
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)

    sum(losses.values()).backward()
    compared = 0
    for name, expected in published.parameters(f"{setup}/grad_param").items():
        gradient = generator.rpn_head.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, **TOLERANCE)
        compared += 1
    assert compared == (2 if setup == "all" else 12)
    if setup == "all_locfix":
        for i in range(1, LEVELS):
            expected = published.tensor(f"{setup}/grad_feat{i}")
            torch.testing.assert_close(features[i].grad, expected, **TOLERANCE)


def test_losses_of_the_published_sample_of_256(published):
    """All positives are sampled, so the shape loss does not depend on chance; the negatives that
    were sampled for the classes are given."""
    generator = generator_of(published, GUIDED_ANCHOR__SHAPE_BATCH_SIZE_PER_IMAGE=256)
    sampled = published.levels("s256/cls_label_weights") > 0
    background = published.levels("s256/cls_labels") == 1
    samples = iter(torch.where(sampled, (~background).long(), -1))
    generator.sample_labels = lambda labels: next(samples)
    features, _, losses, storage = run(generator.train(), published, published.instances())
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"s256/{theirs}").sum()
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["guided_anchor/num_pos_shapes"] * 2 == published.arrays["s256/shape_num_pos"]
    assert latest["rpn/num_pos_anchors"] + latest["rpn/num_neg_anchors"] == 256


def assert_same_proposals(proposals, expected):
    torch.testing.assert_close(
        proposals.objectness_logits.sigmoid(), expected[:, 4], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(proposals.proposal_boxes.tensor, expected[:, :4], **TOLERANCE)


def test_proposals_in_training_are_the_published_ones(published):
    """From all locations: the filter works at test time only."""
    _, proposals, _, _ = run(generator_of(published).train(), published, published.instances())
    for i in range(2):
        assert_same_proposals(proposals[i], published.tensor(f"trainprop/dets{i}"))


@pytest.mark.parametrize(
    "name,pre_nms,post_nms", [("dets", 2000, 1000)] + [("dets_faster_test", 1000, 300)]
)
def test_proposals_of_a_batch_are_the_published_ones_of_each_image(
    published, name, pre_nms, post_nms
):
    generator = generator_of(
        published, RPN__PRE_NMS_TOPK_TEST=pre_nms, RPN__POST_NMS_TOPK_TEST=post_nms
    ).eval()
    with torch.no_grad():
        _, proposals, losses, _ = run(generator, published)
    assert losses == {}
    for i in range(2):
        assert_same_proposals(proposals[i], published.tensor(f"eval{i}/{name}"))


def test_predictions_at_the_kept_locations_are_those_everywhere(published):
    generator = generator_of(published).eval()
    head, anchoring = generator.rpn_head, generator.guided_anchoring
    with torch.no_grad():
        predictions = head(published.features())
        images = anchoring.predict_at_kept_locations(head, predictions, sparse=True)
        everywhere = [head.predict(prediction) for prediction in predictions]
        anchors = anchoring.anchors(predictions)
    for i, levels in enumerate(images):
        for level, (anchors_i, logits, deltas) in enumerate(levels):
            kept = published.tensor(f"eval{i}/loc_mask{level}")
            torch.testing.assert_close(anchors_i, anchors[level][i, kept], **TOLERANCE)
            for ours, dense in zip((logits, deltas), everywhere[level], strict=True):
                torch.testing.assert_close(ours, dense[i, kept], rtol=0, atol=1e-5)


def test_an_image_without_kept_locations_has_no_proposals(published):
    generator = generator_of(published).eval()
    features = published.features()
    with torch.no_grad():
        predictions = generator.rpn_head(features)
        first = [prediction.location[:1] for prediction in predictions]
        highest = max(x.sigmoid().max().item() for x in first)
    generator.guided_anchoring.location_thresh = highest + 1e-3
    with torch.no_grad():
        _, proposals, _, _ = run(generator, published)
    assert len(proposals[0]) == 0
    generator.guided_anchoring.location_thresh = 1.0
    with torch.no_grad():
        _, proposals, _, _ = run(generator, published)
    assert [len(x) for x in proposals] == [0, 0]
    assert proposals[0].proposal_boxes.tensor.shape == (0, 4)


def scaled_losses(published, **keys):
    """Losses beside those of the default settings, as factors."""
    upright = {"GUIDED_ANCHOR__INVERTED_LOCATION_LABEL": False}
    before, after = (
        run(generator_of(published, **upright, **k).train(), published, published.instances())[2]
        for k in ({}, keys)
    )
    return {name: (after[name] / before[name]).item() for name in before}


@pytest.mark.parametrize(
    "key,names",
    [
        ("GUIDED_ANCHOR__LOCATION_LOSS_WEIGHT", {"loss_anchor_location"}),
        ("GUIDED_ANCHOR__SHAPE_LOSS_WEIGHT", {"loss_anchor_shape"}),
        ("RPN__BBOX_REG_LOSS_WEIGHT", {"loss_rpn_loc"}),
        ("RPN__LOSS_WEIGHT", {"loss_rpn_cls", "loss_rpn_loc"}),
    ],
)
def test_weights_of_the_losses(published, key, names):
    factors = scaled_losses(published, **{key: 3.0})
    assert factors == pytest.approx({name: 3.0 if name in names else 1.0 for name in factors})


@pytest.mark.parametrize(
    "key,value,loss",
    [
        ("CENTER_RATIO", 0.4, "location"),
        ("IGNORE_RATIO", 0.9, "location"),
        ("LOCATION_FOCAL_ALPHA", 0.5, "location"),
        ("LOCATION_FOCAL_GAMMA", 1.0, "location"),
        ("SHAPE_LOSS_BETA", 0.5, "shape"),
    ],
)
def test_keys_have_an_effect_on_one_loss_alone(published, key, value, loss):
    factors = scaled_losses(published, **{f"GUIDED_ANCHOR__{key}": value})
    assert abs(factors.pop(f"loss_anchor_{loss}") - 1) > 1e-5
    assert factors == pytest.approx(dict.fromkeys(factors, 1.0))


@pytest.mark.parametrize(
    "num_objects,fraction,positives", [(1, 0.5, 5), (300, 0.5, 128), (300, 0.25, 64)]
)
def test_shapes_are_sampled_with_a_bounded_share_of_positives(
    published, num_objects, fraction, positives
):
    """Each object is a square of P2. At the next locations, 4 pixels away, the IoU is 0.78, too."""
    generator = generator_of(
        published,
        GUIDED_ANCHOR__SHAPE_BATCH_SIZE_PER_IMAGE=256,
        GUIDED_ANCHOR__SHAPE_POSITIVE_FRACTION=fraction,
    ).train()
    predictions = generator.rpn_head(published.features())
    squares = generator.guided_anchoring.squares(predictions)[0]
    instances = [
        Instances(x.image_size, gt_boxes=Boxes(squares[500 : 500 + num_objects]))
        for x in published.instances()
    ]
    *_, storage = run(generator, published, instances)
    latest = storage.latest()
    assert latest["guided_anchor/num_pos_shapes"][0] == positives
    assert latest["guided_anchor/num_neg_shapes"][0] == 256 - positives


def test_the_threshold_and_the_share_of_locations_that_pass_it(published):
    locations = torch.cat(
        [
            prediction.location.sigmoid().flatten()
            for prediction in generator_of(published).rpn_head(published.features())
        ]
    )
    for threshold in (0.01, 0.1):
        generator = generator_of(published, GUIDED_ANCHOR__LOCATION_THRESH=threshold)
        *_, storage = run(generator.train(), published, published.instances())
        share, _ = storage.latest()["guided_anchor/share_of_locations"]
        assert share == pytest.approx((locations >= threshold).float().mean().item())
        predictions = generator.rpn_head(published.features())
        images = generator.guided_anchoring.predict_at_kept_locations(
            generator.rpn_head, predictions
        )
        kept = sum(len(anchors) for levels in images for anchors, *_ in levels)
        assert kept == (locations >= threshold).sum() > 0


def test_targets_know_the_offset_of_the_anchors(published):
    """A small object around a location, for an offset of half a stride."""
    cfg = published_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    shapes = dict(zip(NAMES, input_shape(published.strides), strict=True))
    anchoring = GuidedAnchorRPN(cfg, shapes).guided_anchoring
    predictions = generator_of(published).rpn_head(published.features())
    box = torch.tensor([[42.0 - 8, 22.0 - 8, 42.0 + 8, 22.0 + 8]])  # row 5, column 10 of P2
    target, _ = anchoring.location_targets([box], predictions)
    assert target[0].nonzero()[:, 0].tolist() == [5 * 40 + 10]


def test_detectron2s_own_default_config_is_not_touched():
    assert "GUIDED_ANCHOR" not in get_detectron2_cfg().MODEL


@pytest.mark.parametrize("loss_type", ["giou", "diou", "ciou"])
def test_other_box_losses(published, loss_type):
    generator = generator_of(published, RPN__BBOX_REG_LOSS_TYPE=loss_type)
    for empty in (False, True):
        _, _, losses, _ = run(generator.train(), published, published.instances(empty))
        assert losses["loss_rpn_loc"].isfinite() and losses["loss_rpn_loc"] > 0


def test_training_starts_from_the_keys_of_the_config(published):
    node = (cfg := published_cfg()).MODEL.GUIDED_ANCHOR
    node.LOCATION_PRIOR_PROB, node.RPN.PRIOR_PROB, node.KAIMING_INIT = 0.1, 0.02, True
    head = GuidedAnchorRPNHead(cfg, input_shape(published.strides))
    assert head.conv_loc.bias.sigmoid().item() == pytest.approx(0.1)
    assert head.objectness_logits.bias.sigmoid().item() == pytest.approx(0.02)
    std = (2 / (9 * CHANNELS)) ** 0.5
    assert head.feature_adaption.conv_adaption.weight.std().item() == pytest.approx(std, rel=0.1)


def test_iou_loss_of_shapes_is_divided_by_the_positives(published):
    """It is the mean of -log(IoU) over them, whatever the number of negatives."""
    instances = published.instances()
    losses = {}
    for size in (256, 512):
        keys = {
            "GUIDED_ANCHOR__SHAPE_LOSS_TYPE": "iou",
            "GUIDED_ANCHOR__SHAPE_BATCH_SIZE_PER_IMAGE": size,
            "GUIDED_ANCHOR__SHAPE_POSITIVE_FRACTION": 1.0,
        }
        generator = generator_of(published, **keys)
        losses[size] = run(generator.train(), published, instances)[2]["loss_anchor_shape"]
    torch.testing.assert_close(losses[256], losses[512])
    assert losses[256] > 0


def test_an_unknown_shape_loss_is_refused(published):
    with pytest.raises(ValueError, match='shape_loss_type is "l2"; .* "bounded_iou" or "iou"'):
        generator_of(published, GUIDED_ANCHOR__SHAPE_LOSS_TYPE="l2")
