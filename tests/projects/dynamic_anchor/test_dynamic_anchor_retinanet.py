import math

import pytest
import torch
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import ImageList
from detectron2.utils.events import EventStorage
from dynamic_published import (
    IMAGE_SIZES,
    LOSSES,
    TOLERANCE,
    Published,
    detector,
    features,
    images,
)

from anchor_heads.modeling.one_stage import candidates_before_nms
from anchor_heads.projects.dynamic_anchor.head import Prediction
from anchor_heads.projects.dynamic_anchor.strategy import ShapeAssignment
from anchor_heads.projects.dynamic_anchor.targets import ShapeTargets


@pytest.fixture(scope="module")
def published():
    return Published("head_loss")


def losses_of(model, published, case):
    predictions, leaves = published.predictions("crafted/in")
    with EventStorage():
        losses = model.forward_training(
            images(), features(), predictions, published.instances(case)
        )
    return losses, leaves


@pytest.mark.parametrize("case", ["crafted", "all_empty", "no_quality_pos"])
def test_losses_are_the_published_ones(published, monkeypatch, case):
    losses, _ = losses_of(detector(monkeypatch).train(), published, case)
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"{case}/loss/{theirs}")
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)


def test_gradients_of_a_batch_without_objects_are_the_published_ones(published, monkeypatch):
    losses, leaves = losses_of(detector(monkeypatch).train(), published, "all_empty")
    sum(losses.values()).backward()
    for name, maps in leaves.items():
        for x, expected in zip(maps, published.levels(f"all_empty/grad/{name}"), strict=True):
            torch.testing.assert_close(x.grad, expected, **TOLERANCE)


@pytest.mark.parametrize(
    "key,name",
    [
        ("DYNAMIC_ANCHOR__SHAPE_LOSS_WEIGHT", "loss_anchor_shape"),
        ("DYNAMIC_ANCHOR__RETINANET__QUALITY_LOSS_WEIGHT", "loss_anchor_quality"),
    ],
)
def test_weight_of_a_loss(published, monkeypatch, key, name):
    before, _ = losses_of(detector(monkeypatch).train(), published, "crafted")
    after, _ = losses_of(detector(monkeypatch, **{key: 3.0}).train(), published, "crafted")
    factors = {name: (after[name] / before[name]).item() for name in before}
    assert factors == pytest.approx({x: 3.0 if x == name else 1.0 for x in before})


def test_number_of_shapes_is_per_image(published, monkeypatch):
    model = detector(monkeypatch).train()
    predictions, _ = published.predictions("crafted/in")
    with EventStorage() as storage:
        model.forward_training(images(), features(), predictions, published.instances())
    learning = sum((x > 0).sum().item() for x in published.levels("crafted/quality_targets"))
    number, _ = storage.latest()["dynamic_anchor/num_shapes"]
    assert number == learning / 2 > 4


def test_the_shape_loss_of_one_location_does_not_depend_on_its_centerness(monkeypatch):
    anchoring = detector(monkeypatch).dynamic_anchoring
    mask = torch.tensor([[False, True, False]])
    shape = torch.tensor([[[0.0, 0.0], [0.5, -0.5], [0.0, 0.0]]])
    losses = []
    for centerness in (0.1, 1.0):
        targets = ShapeTargets(
            torch.tensor([[32.0, 64.0]]), torch.tensor([0.5]), torch.tensor([centerness])
        )
        assignment = ShapeAssignment(
            mask, mask.flatten().nonzero()[:, 0], None, None, torch.tensor([[64.0, 64.0]]), targets
        )
        with EventStorage():
            losses.append(anchoring.loss([Prediction(shape, None, None)], assignment).item())
    # exp(0.5) and exp(-0.5) squares against a half and a whole one.
    width, height = math.exp(0.5), math.exp(-0.5)
    iou = 0.5 * height / (width * height + 0.5 - 0.5 * height)
    assert losses == pytest.approx([-math.log(iou)] * 2)


def test_gradients_are_the_published_ones(published, monkeypatch):
    losses, leaves = losses_of(detector(monkeypatch).train(), published, "crafted")
    for ours, theirs in LOSSES.items():
        shapes = leaves["anchor_preds"]
        gradients = torch.autograd.grad(losses[ours], shapes, retain_graph=True, allow_unused=True)
        for gradient, expected in zip(
            gradients, published.levels(f"crafted/grad_of_{theirs}/anchor_preds"), strict=True
        ):
            gradient = torch.zeros_like(expected) if gradient is None else gradient
            torch.testing.assert_close(gradient, expected, **TOLERANCE)
    sum(losses.values()).backward()
    for name, maps in leaves.items():
        for x, expected in zip(maps, published.levels(f"crafted/grad/{name}"), strict=True):
            torch.testing.assert_close(x.grad, expected, **TOLERANCE)


@pytest.mark.parametrize("case,topk", [("post", 1000), ("post_nms_pre_100", 100)])
def test_detections_of_a_batch_are_the_published_ones(published, monkeypatch, case, topk):
    model = detector(monkeypatch, RETINANET__TOPK_CANDIDATES_TEST=topk).eval()
    predictions, _ = published.predictions("crafted/in")
    with torch.no_grad():
        results = model.forward_inference(images(), features(), predictions)
    for i, result in enumerate(results):
        expected = published.tensor(f"crafted/{case}/img{i}/det_boxes_scores")
        torch.testing.assert_close(result.scores, expected[:, 4], **TOLERANCE)
        torch.testing.assert_close(result.pred_boxes.tensor, expected[:, :4], **TOLERANCE)
        labels = published.tensor(f"crafted/{case}/img{i}/det_labels")
        assert torch.equal(result.pred_classes, labels)


def test_resized_detections_are_the_published_ones(published, monkeypatch):
    """The second image was twice as large for the network as it is."""
    model = detector(monkeypatch).eval()
    predictions, _ = published.predictions("crafted/in")
    with torch.no_grad():
        result = model.forward_inference(images(), features(), predictions)[1]
    resized = detector_postprocess(result, 60, 75)
    expected = published.tensor("crafted/post_rescale/img1/det_boxes_scores")
    nonempty = (expected[:, 2:4] > expected[:, :2]).all(dim=1)  # Detectron2 drops the others
    torch.testing.assert_close(resized.scores, expected[nonempty, 4], **TOLERANCE)
    torch.testing.assert_close(resized.pred_boxes.tensor, expected[nonempty, :4], **TOLERANCE)


def test_a_threshold_for_the_class_alone_or_for_the_score(published, monkeypatch):
    """Class probability and quality of each location, on one level; threshold 0.05."""
    pairs = torch.tensor([[0.9, 0.9], [0.06, 0.5], [0.04, 0.99]])
    found = []
    for thresh_on_product in (False, True):
        model = detector(
            monkeypatch,
            RETINANET__NUM_CLASSES=1,
            DYNAMIC_ANCHOR__RETINANET__THRESH_ON_PRODUCT=thresh_on_product,
        )
        anchors = torch.arange(3)[:, None] * 50 + torch.tensor([0.0, 0.0, 20.0, 20.0])
        with torch.no_grad():
            levels = [(anchors, pairs[:, :1], pairs[:, 1:], torch.zeros(3, 4))]
            result = model.detect(levels, (200, 200))
        found.append(result.scores.tolist())
    assert found[0] == pytest.approx([0.81, 0.03])  # a score below the threshold, as published
    assert found[1] == pytest.approx([0.81])


def test_the_best_locations_are_chosen_by_score_before_the_threshold(published, monkeypatch):
    """The second location passes the threshold, but the first, which does not, scores higher."""
    model = detector(monkeypatch, RETINANET__NUM_CLASSES=1, RETINANET__TOPK_CANDIDATES_TEST=1)
    classes, quality = torch.tensor([[0.04], [0.06]]), torch.tensor([[1.0], [0.5]])
    anchors = torch.tensor([[0.0, 0.0, 20.0, 20.0], [50.0, 50.0, 70.0, 70.0]])
    levels = [(anchors, classes, quality, torch.zeros(2, 4))]
    assert len(model.detect(levels, (200, 200))) == 0


def test_boxes_learn_without_a_shape_only_if_asked_for(published, monkeypatch):
    model = detector(monkeypatch, DYNAMIC_ANCHOR__RETINANET__ALWAYS_BOX_LOSS=True).train()
    losses, leaves = losses_of(model, published, "no_quality_pos")
    assert losses["loss_box_reg"] > 0.1
    assert losses["loss_anchor_shape"] == losses["loss_anchor_quality"] == 0
    sum(losses.values()).backward()
    assert sum(x.grad.abs().sum() for x in leaves["bbox_preds"]) > 0


@pytest.mark.parametrize("shape", [-1000.0, 1000.0])
def test_shapes_beyond_all_bounds_have_a_finite_loss(published, monkeypatch, shape):
    """In the published code an exponential that overflows makes it NaN."""
    model = detector(monkeypatch).train()
    predictions, _ = published.predictions("crafted/in")
    shapes = [torch.full_like(x.shape, shape).requires_grad_() for x in predictions]
    predictions = [x._replace(shape=y) for x, y in zip(predictions, shapes, strict=True)]
    with EventStorage():
        losses = model.forward_training(images(), features(), predictions, published.instances())
    sum(losses.values()).backward()
    assert all(loss.isfinite() for loss in losses.values())
    assert all(x.grad.isfinite().all() for x in shapes)
    assert losses["loss_anchor_shape"].item() == pytest.approx(-math.log(1e-6), rel=1e-5)


def test_an_image_without_objects_adds_negatives_and_its_share_of_the_count(published, monkeypatch):
    """The losses of a batch are the sums of those of its images over the sum of their counts."""
    model = detector(monkeypatch).train()
    predictions, _ = published.predictions("crafted/in")
    instances = published.instances()
    instances = [instances[0], instances[1][:0]]

    def losses(chosen):
        part = [type(p)(*(x[chosen] for x in p)) for p in predictions]
        sizes = [IMAGE_SIZES[i] for i in chosen]
        with EventStorage() as storage:
            found = model.forward_training(
                ImageList(torch.zeros(len(chosen), 3, 128, 160), sizes),
                features(),
                part,
                [instances[i] for i in chosen],
            )
        return found, storage.latest()["num_pos_anchors"][0]

    (both, _), (first, positives), (second, none) = losses([0, 1]), losses([0]), losses([1])
    assert positives > 2 and none == 0
    counts = positives + 1, 1 + 1
    expected = (first["loss_cls"] * counts[0] + second["loss_cls"] * counts[1]) / sum(counts)
    torch.testing.assert_close(both["loss_cls"], expected)
    expected = first["loss_box_reg"] * counts[0] / sum(counts)
    torch.testing.assert_close(both["loss_box_reg"], expected)
    for name in ("loss_anchor_shape", "loss_anchor_quality"):
        torch.testing.assert_close(both[name], first[name])


def test_candidates_before_nms_are_more_than_the_detections(published, monkeypatch):
    model = detector(monkeypatch).eval()
    predictions, _ = published.predictions("crafted/in")
    with torch.no_grad(), candidates_before_nms(model):
        results = model.forward_inference(images(), features(), predictions)
    assert all(len(result) > 400 for result in results)
