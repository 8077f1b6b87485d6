"""What tools are told of a model's anchors, on tiny models with random weights."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances, pairwise_iou
from detectron2.utils.events import EventStorage
from tiny_run import write_config
from torch import nn

from anchor_heads import get_cfg
from anchor_heads.anchor_generation import get_anchor_strategy

SIZE = (40, 56)  # padded to 64 x 64: maps of 8 x 8, 4 x 4 and 2 x 2
METHODS = ("", "FreeAnchor", "GuidedAnchor", "DynamicAnchor")


def tiny_model(folder, meta_architecture="RetinaNet", proposal_generator="RPN", overrides=()):
    names = ["MODEL.PROPOSAL_GENERATOR.NAME", proposal_generator]
    cfg = get_cfg()
    cfg.merge_from_file(write_config(folder, meta_architecture, [*names, *overrides]))
    return build_model(cfg).eval()


def with_varied_head(model):
    """The head predicts something else at each location, and hardly moves boxes."""
    for name, parameter in get_anchor_strategy(model).head.named_parameters():
        moves = any(x in name for x in ("delta", "bbox", "shape"))
        nn.init.normal_(parameter, std=0.002 if moves else 0.05)
    model.pixel_std.fill_(100)
    return model


def of_method(folder, method, one_stage, overrides=()):
    architecture = f"{method}RetinaNet" if one_stage else "ProposalNetwork"
    return tiny_model(folder, architecture, f"{method}RPN", overrides)


@pytest.fixture
def image():
    return torch.rand(3, *SIZE) * 255


@pytest.fixture
def objects():
    """The second is found by low-quality matches only."""
    boxes = torch.tensor([[2.0, 3, 20, 21], [30, 5, 34, 38], [1, 1, 55, 39]])
    return Instances(SIZE, gt_boxes=Boxes(boxes), gt_classes=torch.tensor([1, 0, 1]))


@torch.no_grad()
def seen(model, image):
    """The strategy, features and predictions of an image."""
    strategy = get_anchor_strategy(model)
    features = strategy.features(strategy.preprocess(image))
    return strategy, features, strategy.head(features)


def level_anchors(model, image):
    strategy, features, predictions = seen(model, image)
    return strategy.level_anchors(features, predictions, tuple(image.shape[1:])), predictions


def assignments(model, image, objects):
    strategy, features, predictions = seen(model, image)
    return strategy.assignments(features, predictions, objects.image_size, objects)


# Which anchors, with which score


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_best_score_is_that_of_the_best_detection(tmp_path, image, method):
    overrides = ["MODEL.RETINANET.SCORE_THRESH_TEST", 0.0]
    model = with_varied_head(of_method(tmp_path, method, True, overrides))
    levels, _ = level_anchors(model, image)
    (output,) = model([{"image": image}])
    best = max(float(x.scores.max()) for x in levels)
    assert best == pytest.approx(float(output["instances"].scores[0]), rel=1e-5)
    assert len(torch.cat([x.scores for x in levels]).unique()) > 50


@torch.no_grad()
@pytest.mark.parametrize("method", METHODS)
def test_the_best_score_is_that_of_the_best_proposal(tmp_path, image, method):
    model = with_varied_head(of_method(tmp_path, method, False))
    levels, _ = level_anchors(model, image)
    (output,) = model([{"image": image}])
    best = max(float(x.scores.max()) for x in levels)
    expected = output["proposals"].objectness_logits[0].sigmoid()
    assert best == pytest.approx(float(expected), rel=1e-5)


@pytest.mark.parametrize("name", ["RetinaNet", "FreeAnchorRetinaNet"])
def test_dense_anchors_are_the_generators(tmp_path, image, name):
    model = with_varied_head(tiny_model(tmp_path, name))
    levels, (logits, _) = level_anchors(model, image)
    assert [x.level for x in levels] == ["p3", "p4", "p5"]
    assert [x.num_locations for x in levels] == [64, 16, 4]
    assert [x.num_kept for x in levels] == [64, 16, 4]
    anchors = model.anchor_generator(logits)
    for level, expected, x in zip(levels, anchors, logits, strict=True):
        assert torch.equal(level.boxes, expected.tensor)
        assert level.location_map is None
        # The last of the 3 anchors at row 1, column 0 has the last 2 of the 6 channels.
        row = 3 * x.shape[3] + 2
        assert float(level.scores[row]) == pytest.approx(float(x[0, 4:, 1, 0].max().sigmoid()))


@pytest.mark.parametrize("one_stage", [True, False])
def test_guided_anchors_are_at_the_locations_that_are_kept(tmp_path, image, one_stage):
    overrides = ["MODEL.ANCHOR_GENERATOR.OFFSET", 0.5]
    model = with_varied_head(of_method(tmp_path, "GuidedAnchor", one_stage, overrides))
    anchoring = get_anchor_strategy(model).owner.guided_anchoring
    _, predictions = level_anchors(model, image)
    maps = [x.location.sigmoid().flatten() for x in predictions]
    anchoring.location_thresh = threshold = float(torch.cat(maps).median())
    levels, _ = level_anchors(model, image)
    kept = [x >= threshold for x in maps]
    assert 0 < sum(int(x.sum()) for x in kept) < 84
    everywhere = anchoring.anchors(predictions)
    for level, mask, anchors, probability in zip(levels, kept, everywhere, maps, strict=True):
        assert level.num_kept == mask.sum() and level.num_locations == len(mask)
        torch.testing.assert_close(level.boxes, anchors[0][mask])
        torch.testing.assert_close(level.location_scores, probability[mask])
    # Only locations on the image: their centres are at 4, 12, ... or 8, 24, ... or 16, 48.
    shapes = [x.location_map.probability.shape for x in levels]
    assert shapes == [(5, 7), (2, 3), (1, 2)]
    p3 = levels[0].location_map
    assert (p3.level, p3.threshold, p3.stride, p3.offset) == ("p3", threshold, 8, 0.5)
    torch.testing.assert_close(p3.probability, maps[0].view(8, 8)[:5, :7])


@pytest.mark.parametrize("one_stage", [True, False])
def test_there_may_be_no_guided_anchor(tmp_path, image, one_stage):
    overrides = ["MODEL.GUIDED_ANCHOR.LOCATION_THRESH", 1.0]
    levels, _ = level_anchors(of_method(tmp_path, "GuidedAnchor", one_stage, overrides), image)
    assert [(len(x.boxes), len(x.scores), x.num_kept) for x in levels] == [(0, 0, 0)] * 3
    assert [x.num_locations for x in levels] == [64, 16, 4]


@pytest.mark.parametrize("one_stage", [True, False])
def test_dynamic_anchors_are_at_all_locations(tmp_path, image, one_stage):
    model = with_varied_head(of_method(tmp_path, "DynamicAnchor", one_stage))
    levels, _ = level_anchors(model, image)
    assert [len(x.boxes) for x in levels] == [64, 16, 4] == [x.num_kept for x in levels]
    centers = Boxes(levels[0].boxes).get_centers()
    step = centers[1] - centers[0]
    torch.testing.assert_close(step, torch.tensor([8.0, 0.0]), atol=1e-4, rtol=0)


def test_locations_on_the_image_at_corners_and_centres_of_cells(tmp_path):
    strategy = get_anchor_strategy(tiny_model(tmp_path))
    assert [strategy._valid_size(s, 0.0, (33, 64)) for s in (8, 16)] == [(5, 8), (3, 4)]
    assert [strategy._valid_size(s, 0.5, (33, 64)) for s in (8, 16)] == [(4, 8), (2, 4)]
    assert strategy._valid_size(8, 0.5, (3, 3)) == (1, 1)


# The object that each is assigned to


@torch.no_grad()
def test_of_retinanet_the_anchors_that_it_labels_as_objects(tmp_path, image, objects):
    model = tiny_model(tmp_path)
    _, features, _ = seen(model, image)
    anchors = model.anchor_generator(features)
    labels, boxes = (x[0] for x in model.label_anchors(anchors, [objects]))
    matched = (labels >= 0) & (labels < 2)
    assert matched.sum() > 3

    (assigned,) = assignments(model, image, objects)
    all_anchors = Boxes.cat(anchors)
    torch.testing.assert_close(assigned.boxes, all_anchors[matched].tensor)
    torch.testing.assert_close(objects.gt_boxes.tensor[assigned.matched_idxs], boxes[matched])
    best_iou = pairwise_iou(all_anchors[matched], objects.gt_boxes).amax(dim=1)
    torch.testing.assert_close(assigned.scores, best_iou)
    assert 0 < best_iou.min() < 0.4 < best_iou.max() < 1
    assert assigned.score_name == "IoU"
    assert assigned.num_anchors == 3 * (8 * 8 + 4 * 4 + 2 * 2)


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
    _, features, _ = seen(model, image)
    anchors = rpn.anchor_generator(features)
    labels = rpn.label_and_sample_anchors(anchors, [objects])[0][0]
    matched = Boxes.cat(anchors)[labels == 1]
    assert len(matched) >= 2
    (assigned,) = assignments(model, image, objects)
    torch.testing.assert_close(assigned.boxes, matched.tensor)


@torch.no_grad()
@pytest.mark.parametrize("one_stage", [True, False])
def test_of_free_anchor_the_bags_with_their_likelihood(tmp_path, image, objects, one_stage):
    overrides = ["MODEL.FREE_ANCHOR.BAG_SIZE", 7]
    model = of_method(tmp_path, "FreeAnchor", one_stage, overrides)
    strategy = get_anchor_strategy(model)
    source, head = strategy.owner, strategy.head
    for layer in head.children():  # deltas and logits far from 0
        for parameter in layer.parameters():
            nn.init.normal_(parameter, std=0.3)
    (assigned,) = assignments(model, image, objects)
    assert assigned.boxes.shape == (3 * 7, 4) and assigned.scores.shape == (3 * 7,)
    assert assigned.matched_idxs.tolist() == [0] * 7 + [1] * 7 + [2] * 7

    # The best of each bag, worked out with the paper's formulas, one object at a time.
    _, features, (logits, deltas) = seen(model, image)
    anchors = Boxes.cat(source.anchor_generator(features)).tensor
    logits, deltas = (
        torch.cat([x.view(3, -1, *x.shape[2:]).permute(2, 3, 0, 1).flatten(0, 2) for x in level])
        for level in (logits, deltas)
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
        found = assigned.scores[7 * i : 7 * i + 7]
        torch.testing.assert_close(found.sort().values, likelihood.sort().values)
        best = assigned.boxes[7 * i : 7 * i + 7][found.argmax()]
        torch.testing.assert_close(best, anchors[bag[likelihood.argmax()]])


@pytest.mark.parametrize("one_stage", [True, False])
@pytest.mark.parametrize("method", ["GuidedAnchor", "DynamicAnchor"])
def test_predicted_anchors_learn_shapes_and_then_what_they_overlap(
    tmp_path, image, objects, method, one_stage
):
    overrides = ["MODEL.ANCHOR_GENERATOR.OFFSET", 0.5]
    model = of_method(tmp_path, method, one_stage, overrides)
    head = get_anchor_strategy(model).head
    shape_layer = head.conv_shape if method == "GuidedAnchor" else head.conv_anchor
    nn.init.zeros_(shape_layer.weight)  # anchors are the squares of 16, 32 and 64 pixels
    shape, class_and_box = assignments(model, image, objects)
    assert shape.num_anchors == class_and_box.num_anchors == 8**2 + 4**2 + 2**2

    expected = pairwise_iou(Boxes(class_and_box.boxes), objects.gt_boxes)
    rows = torch.arange(len(expected))
    torch.testing.assert_close(class_and_box.scores, expected[rows, class_and_box.matched_idxs])
    # Of those around (12, 12) and around (28, 20), the best of the first and of the third object.
    for box, object_ in (([4.0, 4, 20, 20], 0), ([8.0, 8, 40, 40], 2)):
        (row,) = (class_and_box.boxes == torch.tensor(box)).all(dim=1).nonzero()[:, 0]
        assert class_and_box.matched_idxs[row] == object_

    assert len(shape.boxes) > 0 and (shape.scores > 0).all()
    if method == "DynamicAnchor":  # the smallest boxes around locations that hold their objects
        boxes = objects.gt_boxes.tensor[shape.matched_idxs]
        assert (shape.boxes[:, :2] <= boxes[:, :2] + 1e-4).all()
        assert (shape.boxes[:, 2:] >= boxes[:, 2:] - 1e-4).all()


@pytest.mark.parametrize("method", METHODS)
def test_no_object_no_assigned_anchor(tmp_path, image, method):
    nothing = Instances(
        SIZE, gt_boxes=Boxes(torch.zeros(0, 4)), gt_classes=torch.zeros(0, dtype=torch.int64)
    )
    for assigned in assignments(of_method(tmp_path, method, True), image, nothing):
        assert assigned.boxes.shape == (0, 4) and assigned.scores.shape == (0,)


def test_classes_that_the_model_does_not_know_are_refused(tmp_path, image, objects):
    objects.gt_classes[2] = 2
    with pytest.raises(ValueError, match="class 2, but the model knows the classes 0 to 1"):
        assignments(tiny_model(tmp_path), image, objects)


# The losses of a batch


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("one_stage", [True, False])
def test_losses_are_those_of_a_training_step(tmp_path, image, objects, method, one_stage):
    model = of_method(tmp_path, method, one_stage)
    strategy, features, predictions = seen(model, image)
    images = strategy.preprocess(image)
    model.train()
    with EventStorage():
        torch.manual_seed(1)
        expected = model([{"image": image, "instances": objects}])
        vars(model).pop("loss_normalizer", None)  # RetinaNet's moving average
        torch.manual_seed(1)
        losses = strategy.losses(images, features, predictions, [objects])
    assert set(losses) == set(expected)
    for name, loss in losses.items():
        torch.testing.assert_close(loss, expected[name])


# Which objects no anchor can reach


BOXES = torch.tensor([[2.0, 3, 20, 21], [30, 5, 34, 38], [1, 1, 55, 39], [10, 10, 12, 12]])


def coverage(model, generator=None):
    return get_anchor_strategy(model).coverage(BOXES, torch.tensor([SIZE] * 4), generator)


@pytest.mark.parametrize("one_stage", [True, False])
def test_coverage_of_preset_shapes_is_the_best_iou_with_any_anchor(tmp_path, image, one_stage):
    model = of_method(tmp_path, "", one_stage)
    found = coverage(model)
    _, features, _ = seen(model, image)
    anchors = get_anchor_strategy(model).owner.anchor_generator(features)
    per_level = torch.stack([pairwise_iou(Boxes(BOXES), x).amax(dim=1) for x in anchors], dim=1)
    torch.testing.assert_close(found.iou, per_level.amax(dim=1))
    low, high = (0.4, 0.5) if one_stage else (0.3, 0.7)
    assert found.threshold == low
    assert (
        found.reached.tolist() == (found.iou >= low).tolist() == [True, not one_stage, True, False]
    )
    best = per_level == per_level.amax(dim=1, keepdim=True)
    assert torch.equal(found.levels, (per_level >= high) | best)
    assert (found.centered_iou >= found.iou).all()


def test_other_preset_shapes_can_be_tried(tmp_path):
    model = tiny_model(tmp_path)
    generator = DefaultAnchorGenerator(
        sizes=[[2.0], [8.0], [32.0]], aspect_ratios=[[1.0, 8.0]], strides=[8, 16, 32]
    )
    assert coverage(model, generator).centered_iou[3] == pytest.approx(1.0)
    assert coverage(model).centered_iou[3] == pytest.approx(4 / 256)


@pytest.mark.parametrize("one_stage", [True, False])
def test_coverage_of_free_anchor_is_that_of_good_candidates(tmp_path, one_stage):
    found = coverage(of_method(tmp_path, "FreeAnchor", one_stage))
    assert found.threshold == 0.4
    assert found.reached.tolist() == [True, False, True, False]


def test_coverage_of_guided_anchors_is_by_shape_samples_on_the_level_of_the_size(tmp_path):
    found = coverage(of_method(tmp_path, "GuidedAnchor", True))
    assert found.threshold == 0.4
    assert found.reached.tolist() == [True, False, True, False]
    # Squares of 16, 32 and 64; sizes of 18, 11.5, 45.3 and 2: borders at 22.6 and 45.25.
    assert found.levels.int().argmax(dim=1).tolist() == [0, 0, 2, 0]
    assert (found.levels.sum(dim=1) == 1).all()
    other = DefaultAnchorGenerator(
        sizes=[[8], [16], [64]], aspect_ratios=[[1]], strides=[8, 16, 32]
    )
    found = coverage(of_method(tmp_path, "GuidedAnchor", True), other)
    assert found.levels.int().argmax(dim=1).tolist() == [1, 1, 2, 0]


@pytest.mark.parametrize("one_stage", [True, False])
def test_coverage_of_dynamic_anchors_is_by_the_locations_with_a_shape_target(
    tmp_path, image, one_stage
):
    model = of_method(tmp_path, "DynamicAnchor", one_stage)
    found = coverage(model)
    anchoring = get_anchor_strategy(model).owner.dynamic_anchoring
    _, features, _ = seen(model, image)
    for i, box in enumerate(BOXES):  # each by itself
        assigned = anchoring.shape_assignment(
            features, [Instances(SIZE, gt_boxes=Boxes(box[None]))]
        )
        levels = [x.any() for x in assigned.mask[0].split([64, 16, 4])]
        assert found.levels[i].tolist() == levels
        expected = assigned.targets.quality.max() if any(levels) else 0
        assert found.iou[i] == pytest.approx(float(expected))
    assert found.reached.tolist() == found.levels.any(dim=1).tolist()
    assert found.reached.tolist() == [True, True, True, False]  # between locations


@pytest.mark.parametrize("method", METHODS)
def test_coverage_of_no_object(tmp_path, method):
    strategy = get_anchor_strategy(of_method(tmp_path, method, True))
    found = strategy.coverage(torch.zeros(0, 4), torch.zeros(0, 2))
    assert found.reached.shape == (0,) and found.levels.shape == (0, 3)


# What the benchmark asks


@torch.no_grad()
def test_only_given_locations_are_kept(tmp_path, image):
    model = with_varied_head(of_method(tmp_path, "GuidedAnchor", True))
    before = level_anchors(model, image)[0]
    strategy = get_anchor_strategy(model)
    with strategy.kept_locations(lambda size: torch.eye(*size, dtype=torch.bool)):
        levels, predictions = level_anchors(model, image)
    assert [x.num_kept for x in levels] == [8, 4, 2]
    after = level_anchors(model, image)[0]
    assert all(torch.equal(a.boxes, b.boxes) for a, b in zip(before, after, strict=True))
    ways = [strategy.predict_at_kept_locations(predictions, sparse=x) for x in (True, False)]
    for sparse, dense in zip(*ways, strict=True):
        for a, b in zip(sparse, dense, strict=True):
            torch.testing.assert_close(a, b)


@pytest.mark.parametrize("method", ["", "FreeAnchor", "DynamicAnchor"])
def test_dense_methods_keep_all_locations(tmp_path, image, method):
    model = of_method(tmp_path, method, True)
    strategy = get_anchor_strategy(model)
    with strategy.kept_locations(lambda size: torch.zeros(size, dtype=torch.bool)):
        levels, predictions = level_anchors(model, image)
    assert [x.num_kept for x in levels] == [64, 16, 4]
    with pytest.raises(NotImplementedError, match="keeps all locations"):
        strategy.predict_at_kept_locations(predictions, sparse=True)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("one_stage", [True, False])
def test_parts_are_methods_that_exist(tmp_path, method, one_stage):
    parts = get_anchor_strategy(of_method(tmp_path, method, one_stage)).parts()
    assert all(callable(getattr(part.owner, part.method)) for part in parts)
    assert "post-processing" in [part.name for part in parts]
    assert any(part.name.startswith("head") for part in parts)


# Which models have a strategy


def test_a_wrapped_model_has_the_strategy_of_the_model_itself(tmp_path):
    model = tiny_model(tmp_path, "GeneralizedRCNN", "GuidedAnchorRPN")
    strategy = get_anchor_strategy(model)
    assert strategy.model is model and strategy.owner is model.proposal_generator
    assert strategy.head is model.proposal_generator.rpn_head and not strategy.one_stage
    assert strategy.in_features == ["p3", "p4", "p5"] and strategy.num_classes == 1
    assert type(get_anchor_strategy(strategy.owner)) is type(strategy)


@pytest.mark.parametrize(
    "name,message",
    [
        ("PrecomputedProposals", "GeneralizedRCNN gets precomputed proposals and has no anchors"),
        ("RRPN", "RRPN has rotated anchors"),
    ],
)
def test_models_without_upright_anchors_are_refused(tmp_path, name, message):
    overrides = ["MODEL.ANCHOR_GENERATOR.ANGLES", [[0]]]
    if name == "RRPN":
        overrides += ["MODEL.ANCHOR_GENERATOR.NAME", "RotatedAnchorGenerator"]
        overrides += ["MODEL.RPN.BBOX_REG_WEIGHTS", (1, 1, 1, 1, 1)]
    model = tiny_model(tmp_path, "GeneralizedRCNN", name, overrides)
    with pytest.raises(TypeError, match=message):
        get_anchor_strategy(model)


def test_other_modules_are_refused():
    with pytest.raises(TypeError, match="Linear has no anchor strategy"):
        get_anchor_strategy(nn.Linear(1, 1))
