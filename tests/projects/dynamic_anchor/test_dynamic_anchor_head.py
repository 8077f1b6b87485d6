import pytest
import torch
from detectron2.utils.events import EventStorage
from dynamic_published import (
    CHANNELS,
    LEVELS,
    LOSSES,
    TOLERANCE,
    Published,
    detector,
    images,
    input_shape,
    published_cfg,
)

from anchor_heads.layers import flatten_hw
from anchor_heads.projects.dynamic_anchor.head import (
    DynamicAnchorRetinaNetHead,
    DynamicAnchorRPNHead,
)


@pytest.fixture(scope="module")
def published():
    return Published("head_tower", "head_branches", "head_forward", "head_loss")


def head_of(published):
    head = DynamicAnchorRetinaNetHead(published_cfg(), input_shape())
    head.load_state_dict(published.parameters("sd"))
    return head


def test_predictions_are_the_published_ones(published):
    with torch.no_grad():
        predictions = head_of(published)(published.levels("feat"))
    names = ("anchor_preds", "cls_scores", "bbox_preds", "quality_preds")
    for i, prediction in enumerate(predictions):
        ours = prediction._replace(shape=prediction.shape.exp())
        for name, x in zip(names, ours, strict=True):
            expected = flatten_hw(published.tensor(f"out/{name}/{i}"))
            torch.testing.assert_close(x, expected, **TOLERANCE)


def test_features_on_the_way_are_the_published_ones(published):
    head = head_of(published)
    for i in range(2, LEVELS):
        with torch.no_grad():
            x = published.tensor(f"feat/{i}")
            tower = head.anchor_convs(x)
            shape = head.conv_anchor(tower)
            fused = head.fuse(head.feature_attention(x, shape), tower)
        torch.testing.assert_close(shape, published.tensor(f"raw_anchor_pred/{i}"), **TOLERANCE)
        torch.testing.assert_close(tower, published.tensor(f"anchor_feat/{i}"), **TOLERANCE)
        torch.testing.assert_close(fused, published.tensor(f"fused_feat/{i}"), **TOLERANCE)


def test_losses_and_gradients_through_the_head_are_the_published_ones(published, monkeypatch):
    model = detector(monkeypatch).train()
    model.head.load_state_dict(published.parameters("sd"))
    features = [x.requires_grad_() for x in published.levels("feat")]
    with EventStorage():
        losses = model.forward_training(
            images(), features, model.head(features), published.instances()
        )
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"loss/{theirs}")
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)
    sum(losses.values()).backward()

    gradients = published.parameters("grad_param")
    for name, expected in gradients.items():
        torch.testing.assert_close(model.head.get_parameter(name).grad, expected, **TOLERANCE)
    assert len(gradients) == 33
    norms = published.parameters("grad_param_norm")
    for name, parameter in model.head.named_parameters():
        torch.testing.assert_close(
            parameter.grad.double().norm(), norms[name], rtol=1e-4, atol=1e-5
        )
    for i in range(1, LEVELS):
        torch.testing.assert_close(
            features[i].grad, published.tensor(f"grad_feat/{i}"), **TOLERANCE
        )


def test_detections_from_the_features_on_are_the_published_ones(published, monkeypatch):
    model = detector(monkeypatch).eval()
    model.head.load_state_dict(published.parameters("sd"))
    features = published.levels("feat")
    with torch.no_grad():
        results = model.forward_inference(images(), features, model.head(features))
    for i, result in enumerate(results):
        expected = published.tensor(f"post/img{i}/det_boxes_scores")
        torch.testing.assert_close(result.scores, expected[:, 4], **TOLERANCE)
        torch.testing.assert_close(result.pred_boxes.tensor, expected[:, :4], **TOLERANCE)
        assert torch.equal(result.pred_classes, published.tensor(f"post/img{i}/det_labels"))


def test_the_box_trains_the_shape_but_the_attention_does_not(published):
    """The offsets come from a detached shape, without scale and exponential."""
    head = head_of(published)
    (prediction, *_) = head(published.levels("feat"))
    assert torch.autograd.grad(
        prediction.logits.sum(), head.conv_anchor.weight, allow_unused=True, retain_graph=True
    ) == (None,)
    with torch.no_grad():
        for scale in head.scales:
            scale.scale.mul_(3)
        scaled = head(published.levels("feat"))[0]
    torch.testing.assert_close(scaled.logits, prediction.logits)
    torch.testing.assert_close(scaled.shape, prediction.shape * 3)


def test_training_starts_where_the_published_one_does():
    head = DynamicAnchorRetinaNetHead(published_cfg(), input_shape(256))
    assert head.conv_cls.bias.sigmoid().tolist() == pytest.approx([0.01] * 5)
    deformable = head.anchor_convs[3].conv
    assert deformable.conv_offset.weight.abs().sum() == 0
    bound = 1 / (9 * 256) ** 0.5
    assert bound * 0.99 < deformable.weight.abs().max() <= bound
    assert head.feature_attention.conv_offset.weight.std().item() == pytest.approx(0.1, rel=0.2)
    for conv in (head.anchor_convs[0].conv, head.conv_anchor, head.fusion, head.conv_reg):
        assert conv.weight.std().item() == pytest.approx(0.01, rel=0.1)
        assert conv.bias.abs().sum() == 0
    assert [scale.scale.item() for scale in head.scales] == [1.0] * LEVELS


@pytest.mark.parametrize("kind", ["detector", "proposal generator"])
def test_training_starts_from_the_keys_of_the_config(kind):
    cfg = published_cfg()
    cfg.MODEL.DYNAMIC_ANCHOR.KAIMING_INIT = True
    cfg.MODEL.DYNAMIC_ANCHOR.RPN.PRIOR_PROB = cfg.MODEL.RETINANET.PRIOR_PROB = 0.1
    if kind == "detector":
        head = DynamicAnchorRetinaNetHead(cfg, input_shape())
        classifier = head.conv_cls
        for conv in (head.fusion_conv_x, head.fusion_conv_y, head.fusion):
            assert conv.weight.std().item() == pytest.approx(CHANNELS**-0.5, rel=0.1)
    else:
        head = DynamicAnchorRPNHead(cfg, input_shape())
        classifier = head.objectness_logits
    torch.testing.assert_close(classifier.bias.sigmoid(), torch.full_like(classifier.bias, 0.1))
    weight = head.feature_attention.conv_adaption.weight
    assert weight.std().item() == pytest.approx((2 / (9 * CHANNELS)) ** 0.5, rel=0.1)


def test_the_towers_length_and_norm_come_from_the_config():
    cfg = published_cfg()
    cfg.MODEL.RETINANET.NUM_CONVS, cfg.MODEL.RETINANET.NORM = 2, ""
    head = DynamicAnchorRetinaNetHead(cfg, input_shape(8))
    names = [name for name in head.state_dict() if name.startswith("anchor_convs")]
    assert names == [
        *("anchor_convs.0.conv.weight", "anchor_convs.0.conv.bias"),
        *("anchor_convs.1.conv.weight", "anchor_convs.1.conv.bias"),
        *("anchor_convs.1.conv.conv_offset.weight", "anchor_convs.1.conv.conv_offset.bias"),
    ]
    with torch.no_grad():
        (prediction, *_) = head([torch.rand(1, 8, 4, 4)] * LEVELS)
    assert prediction.logits.shape == (1, 16, 5) and prediction.quality.shape == (1, 16, 1)
