import math

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from dynamic_published import (
    IMAGE_SIZES,
    NUM_CLASSES,
    STRIDES,
    TOLERANCE,
    Published,
    detector,
    features,
    published_cfg,
)

from anchor_heads.projects.dynamic_anchor.strategy import DynamicAnchoring
from anchor_heads.projects.dynamic_anchor.targets import objects_by_center, shape_targets


@pytest.fixture(scope="module")
def published():
    return Published("head_loss")


def anchoring_of(sizes=None, strides=None):
    cfg = published_cfg()
    if sizes is None:
        return DynamicAnchoring(cfg, STRIDES)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    return DynamicAnchoring(cfg, strides)


def test_shape_targets_are_the_published_ones(published):
    mask, _, _, _, half_sides, targets = anchoring_of().shape_assignment(
        features(), published.instances()
    )
    quality = published.by_image("crafted/quality_targets")
    assert torch.equal(mask, quality > 0)
    assert mask.sum() == published.tensor("crafted/num_pos")
    torch.testing.assert_close(targets.quality, quality[mask], **TOLERANCE)
    expected = published.by_image("crafted/anchor_targets_stride")[mask]
    torch.testing.assert_close(targets.half_sizes / half_sides, expected, **TOLERANCE)
    expected = published.by_image("crafted/anchor_weights")[mask]
    torch.testing.assert_close(targets.centerness, expected, **TOLERANCE)


def test_anchors_and_boxes_are_the_published_ones(published, monkeypatch):
    predictions, _ = published.predictions("crafted/in")
    model = detector(monkeypatch)
    anchors = model.dynamic_anchoring.anchors(features(), predictions)
    flat = torch.cat([x.flatten(0, 1) for x in anchors])  # levels, then images
    expected = published.tensor("crafted/flatten_anchor_preds_decode")
    torch.testing.assert_close(flat, expected, **TOLERANCE)
    deltas = torch.cat([x.deltas.flatten(0, 1) for x in predictions])
    boxes = model.box2box_transform.apply_deltas(deltas, flat)
    expected = published.tensor("crafted/decoded_bbox_preds")
    torch.testing.assert_close(boxes, expected, **TOLERANCE)


def test_labels_and_boxes_of_anchors_are_the_published_ones(published, monkeypatch):
    predictions, _ = published.predictions("crafted/in")
    model = detector(monkeypatch)
    anchors = torch.cat(model.dynamic_anchoring.anchors(features(), predictions), dim=1)
    valid = model.dynamic_anchoring.square_generator.valid_mask(features(), IMAGE_SIZES)
    assert valid.all()  # padded by itself, the second image is as large as the first
    with EventStorage() as storage:
        labels, boxes = model.label_predicted_anchors(anchors, published.instances(), valid)
    expected = torch.cat(published.levels("crafted/labels_list"), dim=1)
    assert torch.equal(labels, expected)
    positive = labels < NUM_CLASSES
    assert positive.sum() == published.tensor("crafted/num_total_samples")
    expected = torch.cat(published.levels("crafted/bbox_targets_list"), dim=1)
    torch.testing.assert_close(boxes[positive], expected[positive])
    assert 0 < storage.latest()["predicted_anchor/best_iou"][0] < 1


def objects_at(boxes, radius=16.0, distances=(-math.inf, 64.0)):
    """On a level of 8 x 10 locations, in the centres of cells of 8 pixels."""
    boxes = [torch.tensor(boxes)]
    objects = objects_by_center(boxes, [(8, 10)], [8], 0.5, radius / 8, [distances])
    return objects.view(8, 10)


def test_a_long_object_belongs_to_the_level_of_its_short_side():
    """80 x 12 pixels on locations 8 pixels apart, for distances up to 16."""
    line, distances = torch.tensor([[0.0, 26.0, 80.0, 38.0]]), (-math.inf, 16.0)
    for by_short_side, rows in ((False, []), (True, [3, 4])):
        found = objects_by_center([line], [(8, 10)], [8], 0.5, 2.0, [distances], by_short_side)
        learning = (found.view(8, 10) == 0).nonzero()
        assert sorted(set(learning[:, 0].tolist())) == rows


def test_locations_around_the_centre_of_an_object_have_a_shape_target():
    """Centre (40, 32); locations less than two strides away in both directions."""
    found = (objects_at([[8.0, 8.0, 72.0, 56.0]]) == 0).nonzero()
    assert found.amin(0).tolist() == [2, 3] and found.amax(0).tolist() == [5, 6]
    assert len(found) == 16


def test_the_region_ends_with_the_object():
    found = (objects_at([[36.0, 0.0, 44.0, 64.0]]) == 0).nonzero()
    assert len(found) == 0  # 36 and 44 are columns of locations, but not inside
    found = (objects_at([[35.0, 0.0, 44.0, 64.0]]) == 0).nonzero()
    assert found.tolist() == [[2, 4], [3, 4], [4, 4], [5, 4]]


def test_the_smallest_of_several_objects_counts_and_the_first_of_equal_ones():
    large, small = [4.0, 4.0, 68.0, 60.0], [20.0, 20.0, 52.0, 44.0]
    objects = objects_at([large, small, small])
    assert objects[3, 4] == 1
    assert (objects == 2).sum() == 0


def test_the_range_of_distances_has_both_its_ends():
    """From the location (36, 36): left, top, right, bottom = 24, 20, 30, 10."""
    box = [[12.0, 16.0, 66.0, 46.0]]
    for size_range, expected in {(30.0, 50.0): 0, (0.0, 30.0): 0, (30.1, 50.0): -1}.items():
        assert objects_at(box, 100.0, size_range)[4, 4] == expected


def test_shape_quality_and_centerness_by_hand():
    """Left, top, right, bottom = 10, 20, 30, 20."""
    targets = shape_targets(torch.tensor([[50.0, 60.0]]), torch.tensor([[40.0, 40.0, 80.0, 80.0]]))
    assert targets.half_sizes.tolist() == [[30.0, 20.0]]
    assert targets.quality.item() == pytest.approx(40 * 40 / (60 * 40))
    assert targets.centerness.item() == pytest.approx(math.sqrt(1 / 3))


def test_levels_are_for_distances_up_to_half_their_squares_sides():
    """Three levels; borders at 8 and 20, where an object is assigned to two levels."""
    anchoring = anchoring_of([[16, 20], [40], [80]], [2, 4, 8])
    maps = [torch.zeros(1, 1, 64 // stride, 64 // stride) for stride in (2, 4, 8)]
    # Sides of squares around (32, 32). Locations are off the centre by 1, by 2 or by 4 pixels, or
    # by 3, by 6 or by 12: distances from half the side + 1 on.
    levels = {
        10.0: {0},  # 5 + 1 and 5 + 3 on the first level; 5 + 4 would be too far on the second
        14.0: {0, 1},  # 7 + 1 on the first level, 7 + 2 on the second
        16.0: {1},  # 8 + 1 on the first level is too far
        32.0: {1, 2},  # 16 + 2 on the second level, 16 + 4 on the third
        60.0: {2},
    }
    for side, expected in levels.items():
        box = torch.tensor([[32 - side / 2, 32 - side / 2, 32 + side / 2, 32 + side / 2]])
        gt = Instances((64, 64), gt_boxes=Boxes(box))
        mask = anchoring.shape_assignment(maps, [gt]).mask[0]
        found = mask.split([x.numel() for x in maps])
        assert {i for i, level in enumerate(found) if level.any()} == expected, side


def by_hand(boxes, points, radius, distances):
    """The same, a pair of location and object at a time."""
    result = []
    for x, y in points.tolist():
        best = (math.inf, -1)
        for i, (x0, y0, x1, y1) in enumerate(boxes.tolist()):
            sides = (x - x0, y - y0, x1 - x, y1 - y)
            near = max(abs(2 * x - x0 - x1), abs(2 * y - y0 - y1)) < 2 * radius
            if min(sides) > 0 and near and distances[0] <= max(sides) <= distances[1]:
                best = min(best, ((x1 - x0) * (y1 - y0), i))
        result.append(best[1])
    return torch.tensor(result)


@pytest.mark.parametrize("num_objects", [0, 1, 60])
@pytest.mark.parametrize("offset", [0.0, 0.5])
def test_the_rule_pair_by_pair(num_objects, offset):
    """Objects lie partly outside the map too; all numbers are exact in float32."""
    corner = torch.randint(-40, 240, (num_objects, 2)) / 4
    boxes = torch.cat([corner, corner + torch.randint(8, 180, (num_objects, 2)) / 4], dim=1)
    grid = torch.meshgrid(torch.arange(8.0), torch.arange(7.0), indexing="ij")
    points = (torch.stack([grid[1], grid[0]], dim=-1).view(-1, 2) + offset) * 8
    rules = [(16.0, (-math.inf, 20.0)), (11.0, (10.0, math.inf)), (math.inf, (0.0, 50.0))]
    for radius, distances in rules:
        found = objects_by_center([boxes], [(8, 7)], [8], offset, radius / 8, [distances])[0]
        assert torch.equal(found, by_hand(boxes, points, radius, distances))
        assert num_objects < 2 or (found >= 0).sum() > 5


def test_a_radius_of_any_size_needs_no_more_than_the_map():
    boxes = torch.tensor([[8.0, 8.0, 72.0, 56.0]]).tolist()
    everywhere = objects_at(boxes, radius=1e9)
    assert torch.equal(everywhere, objects_at(boxes, radius=math.inf))
    found = (everywhere == 0).nonzero()
    assert found.amin(0).tolist() == [1, 1] and found.amax(0).tolist() == [6, 8]


@pytest.mark.parametrize("radius", [1.0, 2.0, 3.0])
def test_the_radius_is_that_of_the_config(radius):
    """Locations are 4, 12 and 20 pixels from the centre of the object, to the left and right."""
    cfg = published_cfg()
    cfg.MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS = radius
    gt = Instances(IMAGE_SIZES[0], gt_boxes=Boxes(torch.tensor([[28.0, 28.0, 84.0, 84.0]])))
    mask = DynamicAnchoring(cfg, STRIDES).shape_assignment(features(), [gt, gt[:0]]).mask
    assert mask[:, : 16 * 20].sum(dim=1).tolist() == [(2 * radius) ** 2, 0]


@pytest.mark.parametrize("radius", [0.0, -1.0, math.nan])
def test_a_radius_in_which_nothing_lies_is_refused(radius):
    cfg = published_cfg()
    cfg.MODEL.DYNAMIC_ANCHOR.CENTER_RADIUS = radius
    with pytest.raises(ValueError, match="center_radius is .* must be above 0"):
        DynamicAnchoring(cfg, STRIDES)
