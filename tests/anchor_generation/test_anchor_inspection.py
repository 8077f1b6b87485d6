"""Inspected anchors, on tiny models with random weights."""

import dataclasses

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances, pairwise_iou
from tiny_run import write_config

from anchor_heads import get_cfg
from anchor_heads.anchor_generation.inspection import (
    anchor_source,
    crop_location_maps,
    inspect_anchors,
)

SIZE = (40, 56)  # padded to 64 x 64


def tiny_model(folder, meta_architecture="RetinaNet", proposal_generator="RPN", overrides=()):
    names = ["MODEL.PROPOSAL_GENERATOR.NAME", proposal_generator]
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, meta_architecture, [*names, *overrides]))
    return build_model(cfg).eval()


@pytest.fixture
def image():
    return torch.rand(3, *SIZE) * 255


@pytest.fixture
def objects():
    """The second is found by low-quality matches only."""
    boxes = torch.tensor([[2.0, 3, 20, 21], [30, 5, 34, 38], [1, 1, 55, 39]])
    return Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([1, 0, 1]))


def head_input(model, image):
    """Feature maps of the image, as the head takes them."""
    source = anchor_source(model)
    names = source.in_features if hasattr(source, "in_features") else source.head_in_features
    batch = (image[None] - model.pixel_mean) / model.pixel_std
    batch = torch.nn.functional.pad(batch, (0, 64 - SIZE[1], 0, 64 - SIZE[0]))
    maps = model.backbone(batch)
    return [maps[name] for name in names]


@torch.no_grad()
def test_of_retinanet_the_anchors_that_it_labels_as_objects(tmp_path, image, objects):
    model = tiny_model(tmp_path)
    anchors = model.anchor_generator(head_input(model, image))
    labels = model.label_anchors(anchors, [objects])[0][0]
    matched = Boxes.cat(anchors)[(labels >= 0) & (labels < 2)]
    assert len(matched) > 3

    inspected = inspect_anchors(model, image, objects)
    torch.testing.assert_close(inspected.boxes, matched.tensor)
    best_iou = pairwise_iou(matched, objects.gt_boxes).amax(dim=1)
    torch.testing.assert_close(inspected.strength, best_iou)
    assert 0 < best_iou.min() < 0.4 < best_iou.max() < 1
    assert inspected.image_size == SIZE
    assert inspected.location_maps == []
    assert inspected.strength_name == "IoU"
    total = 3 * (8 * 8 + 4 * 4 + 2 * 2)
    assert inspected.caption.startswith(f"{len(matched)} of {total} anchors")


@torch.no_grad()
@pytest.mark.parametrize("meta_architecture", ["ProposalNetwork", "GeneralizedRCNN"])
@pytest.mark.parametrize("boundary_thresh", [-1, 0])
def test_of_rpn_all_anchors_that_it_may_sample(
    tmp_path, image, objects, meta_architecture, boundary_thresh
):
    overrides = ["MODEL.RPN.BOUNDARY_THRESH", boundary_thresh]
    model = tiny_model(tmp_path, meta_architecture, overrides=overrides)
    rpn = model.proposal_generator
    rpn.batch_size_per_image, rpn.positive_fraction = 10**6, 1.0
    anchors = rpn.anchor_generator(head_input(model, image))
    labels = rpn.label_and_sample_anchors(anchors, [objects])[0][0]
    matched = Boxes.cat(anchors)[labels == 1]
    assert len(matched) >= 2
    torch.testing.assert_close(inspect_anchors(model, image, objects).boxes, matched.tensor)


@torch.no_grad()
@pytest.mark.parametrize(
    "names", [("FreeAnchorRetinaNet", "RPN"), ("ProposalNetwork", "FreeAnchorRPN")]
)
def test_of_free_anchor_the_bags_with_their_likelihood(tmp_path, image, objects, names):
    model = tiny_model(tmp_path, *names, overrides=["MODEL.FREE_ANCHOR.BAG_SIZE", 7])
    source = anchor_source(model)
    head = source.head if source is model else source.rpn_head
    for layer in head.children():  # deltas and logits far from 0
        for parameter in layer.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
    inspected = inspect_anchors(model, image, objects)
    assert inspected.boxes.shape == (3 * 7, 4) and inspected.strength.shape == (3 * 7,)

    # The best of each bag, worked out with the paper's formulas, one object at a time.
    features = head_input(model, image)
    anchors = Boxes.cat(source.anchor_generator(features)).tensor
    logits, deltas = (
        torch.cat([x.view(3, -1, *x.shape[2:]).permute(2, 3, 0, 1).flatten(0, 2) for x in level])
        for level in head(features)
    )
    iou = pairwise_iou(objects.gt_boxes, Boxes(anchors))
    for i in range(3):
        bag = iou[i].topk(7).indices
        box = objects.gt_boxes.tensor[i]
        sides, center = anchors[bag, 2:] - anchors[bag, :2], anchors[bag].view(-1, 2, 2).mean(1)
        weights = torch.tensor(source.box2box_transform.weights)
        target = torch.cat(
            [(box.view(2, 2).mean(0) - center) / sides, ((box[2:] - box[:2]) / sides).log()], dim=1
        )
        distance = (deltas[bag] - target * weights).abs()
        beta = source.free_anchor_loss.smooth_l1_beta
        box_loss = distance - beta / 2
        if beta > 0:
            box_loss = torch.where(distance < beta, distance**2 / (2 * beta), box_loss)
        column = objects.gt_classes[i] if source is model else 0
        likelihood = logits[bag, column].sigmoid() * (-0.75 * box_loss.sum(dim=1)).exp()
        found = inspected.strength[7 * i : 7 * i + 7]
        torch.testing.assert_close(found.sort().values, likelihood.sort().values)
        best = inspected.boxes[7 * i : 7 * i + 7][found.argmax()]
        torch.testing.assert_close(best, anchors[bag[likelihood.argmax()]])


@pytest.mark.parametrize(
    "names", [("GuidedAnchorRetinaNet", "RPN"), ("ProposalNetwork", "GuidedAnchorRPN")]
)
def test_of_guided_anchoring_the_best_anchors_that_pass(tmp_path, image, objects, names):
    model = tiny_model(tmp_path, *names, overrides=["MODEL.ANCHOR_GENERATOR.OFFSET", 0.5])
    source = anchor_source(model)
    head = source.head if source is model else source.rpn_head
    torch.nn.init.normal_(head.conv_loc.weight, std=10)
    torch.nn.init.zeros_(head.conv_loc.bias)
    torch.nn.init.zeros_(head.conv_shape.weight)  # anchors are the squares
    inspected = inspect_anchors(model, image, objects)

    p3, p4, p5 = inspected.location_maps
    assert [x.level for x in (p3, p4, p5)] == ["p3", "p4", "p5"]
    assert [x.stride for x in (p3, p4, p5)] == [8, 16, 32]
    # Only locations on the image: their centres are at 4, 12, ... or 8, 24, ... or 16, 48.
    assert p3.probability.shape == (5, 7) and p4.probability.shape == (2, 3)
    assert p5.probability.shape == (1, 2)
    assert p3.threshold == 0.01 and p3.offset == 0.5

    assert (inspected.strength.diff() <= 0).all() and (inspected.strength >= 0.01).all()
    sides = inspected.boxes[:, 2:] - inspected.boxes[:, :2]
    centers = (inspected.boxes[:, :2] + inspected.boxes[:, 2:]) / 2
    for level, side in ((p3, 16), (p4, 32), (p5, 64)):
        height, width = level.probability.shape
        for y in range(height):
            for x in range(width):
                here = torch.tensor([x + 0.5, y + 0.5]) * level.stride
                found = (sides[:, 0] == side) & (centers == here).all(dim=1)
                expected = level.probability[y, x]
                assert found.sum() == (expected >= 0.01)
                assert (inspected.strength[found] == expected).all()
    assert f"{len(inspected.boxes)} guided anchors" in inspected.caption


def test_of_guided_anchoring_at_most_100_and_maybe_none(tmp_path, objects):
    model = tiny_model(tmp_path, "GuidedAnchorRetinaNet")
    torch.nn.init.zeros_(model.head.conv_loc.bias)
    image = torch.rand(3, 128, 128) * 255
    many = inspect_anchors(model, image, objects)
    assert many.boxes.shape == (100, 4)
    assert many.caption.startswith(f"Best 100 of {16**2 + 8**2 + 4**2} guided")

    torch.nn.init.constant_(model.head.conv_loc.bias, -9.0)
    none = inspect_anchors(model, image, objects)
    assert none.boxes.shape == (0, 4) and none.strength.shape == (0,)
    assert len(none.location_maps) == 3


@pytest.mark.parametrize(
    "names", [("DynamicAnchorRetinaNet", "RPN"), ("ProposalNetwork", "DynamicAnchorRPN")]
)
def test_of_dynamic_anchor_the_best_of_each_object(tmp_path, image, objects, names):
    model = tiny_model(tmp_path, *names, overrides=["MODEL.ANCHOR_GENERATOR.OFFSET", 0.5])
    source = anchor_source(model)
    head = source.head if source is model else source.rpn_head
    torch.nn.init.zeros_(head.conv_anchor.weight)  # anchors are the squares
    inspected = inspect_anchors(model, image, objects)
    # Squares of 16, 16 and 32 pixels; of those with the same IoU the first.
    expected = torch.tensor([[4.0, 4, 20, 20], [20, 12, 36, 28], [8, 8, 40, 40]])
    torch.testing.assert_close(inspected.boxes, expected)
    best_iou = pairwise_iou(Boxes(expected), objects.gt_boxes).diagonal()
    torch.testing.assert_close(inspected.strength, best_iou)
    assert inspected.strength_name == "IoU" and inspected.location_maps == []
    assert inspected.caption.startswith(f"3 of {8**2 + 4**2 + 2**2} dynamic anchors")


@pytest.mark.parametrize(
    "meta_architecture", ["RetinaNet", "FreeAnchorRetinaNet", "DynamicAnchorRetinaNet"]
)
def test_no_object_no_anchor(tmp_path, image, meta_architecture):
    nothing = Instances(
        SIZE, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64)
    )
    inspected = inspect_anchors(tiny_model(tmp_path, meta_architecture), image, nothing)
    assert inspected.boxes.shape == (0, 4) and inspected.strength.shape == (0,)


def test_location_maps_keep_the_locations_on_the_image():
    @dataclasses.dataclass
    class Generator:
        strides = (8, 16)
        offset: float

    maps = [torch.rand(8, 8), torch.rand(4, 4)]
    at_corners = crop_location_maps(["a", "b"], maps, Generator(0.0), 0.1, (33, 64))
    assert [x.probability.shape for x in at_corners] == [(5, 8), (3, 4)]
    at_centers = crop_location_maps(["a", "b"], maps, Generator(0.5), 0.1, (33, 64))
    assert [x.probability.shape for x in at_centers] == [(4, 8), (2, 4)]
    assert (at_centers[0].probability == maps[0][:4]).all()
    tiny = crop_location_maps(["a", "b"], maps, Generator(0.5), 0.1, (3, 3))
    assert [x.probability.shape for x in tiny] == [(1, 1), (1, 1)]


@pytest.mark.parametrize(
    "name,message",
    [
        ("PrecomputedProposals", "GeneralizedRCNN gets precomputed proposals and has no anchors"),
        ("RRPN", "RRPN has no anchors to show"),
    ],
)
def test_models_without_upright_anchors_are_refused(tmp_path, image, objects, name, message):
    overrides = ["MODEL.ANCHOR_GENERATOR.ANGLES", [[0]]]
    if name == "RRPN":
        overrides += ["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"]
        overrides += ["MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1)]
    model = tiny_model(tmp_path, "GeneralizedRCNN", name, overrides)
    with pytest.raises(TypeError, match=message):
        inspect_anchors(model, image, objects)


def test_classes_that_the_model_does_not_know_are_refused(tmp_path, image, objects):
    objects.gt_classes[2] = 2
    with pytest.raises(ValueError, match="class 2, but the model knows the classes 0 to 1"):
        inspect_anchors(tiny_model(tmp_path), image, objects)
