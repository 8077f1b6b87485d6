import pytest
import torch
from guided_published import Published, published_cfg, sample_generator

from anchor_heads.anchor_generation import decode_shapes
from anchor_heads.modeling.matching import match_max_iou
from anchor_heads.projects.guided_anchoring.head import AnchorPrediction
from anchor_heads.projects.guided_anchoring.strategy import GuidedAnchoring
from anchor_heads.projects.guided_anchoring.targets import (
    location_targets,
    object_levels,
)

SIDES = (32, 64, 128, 256, 512)
CENTER, IGNORE = 0.2, 0.5
BIG_SIZE = (480, 608)  # 480x600, padded
METHODS = ["ga_rpn", "ga_retinanet"]


def map_sizes(image_size, strides):
    return [tuple(-(-side // stride) for side in image_size) for stride in strides]


def targets_of(published, gt_boxes, image_size):
    sizes = map_sizes(image_size, published.strides)
    target, weight = location_targets(
        [gt_boxes], sizes, published.strides, SIDES, 0.0, CENTER, IGNORE
    )
    return target[0], weight[0]


def anchoring_of(name, published):
    node = published_cfg().MODEL.GUIDED_ANCHOR
    user = node.RPN if name == "ga_rpn" else node.RETINANET
    return GuidedAnchoring(published_cfg(), user, sample_generator(published.strides))


def predictions_of(published, image_size):
    sizes = map_sizes(image_size, published.strides)
    return [
        AnchorPrediction(torch.zeros(1, 1, *size), torch.zeros(1, 2, *size), ()) for size in sizes
    ]


@pytest.mark.parametrize("name", METHODS)
def test_location_targets_of_the_batch_are_the_published_ones(name):
    published = Published(name)
    for i, gt in enumerate(published.instances()):
        target, weight = targets_of(published, gt.gt_boxes.tensor, (128, 160))
        torch.testing.assert_close(target, published.levels("loc/target")[i].float())
        expected = published.levels("loc/weight")[i].float()
        torch.testing.assert_close(weight, expected, rtol=0, atol=1e-4)  # stored in half precision


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind,count,size", [("case", 24, (128, 160)), ("big", 12, BIG_SIZE)])
def test_location_targets_are_the_published_ones(name, kind, count, size):
    published = Published(name)
    for i in range(count):
        target, weight = targets_of(published, published.tensor(f"{kind}{i}/gt"), size)
        assert torch.equal(target.to(torch.int8), published.tensor(f"{kind}{i}/loc_target"))
        expected = published.tensor(f"{kind}{i}/loc_weight_x10")
        assert torch.equal((weight * 10).round().to(torch.int8), expected)


def published_assignment(match):
    """Their encoding: 0 = background, -1 = ignored, else number of the object from 1 on."""
    assigned = torch.where(match.labels == 1, match.matched_idxs + 1, match.labels.long())
    return assigned.to(torch.int16)


@pytest.mark.parametrize("name", METHODS)
@pytest.mark.parametrize("kind,count,size", [("case", 24, (128, 160)), ("big", 12, BIG_SIZE)])
def test_shape_targets_are_the_published_ones(name, kind, count, size):
    published = Published(name)
    anchoring = anchoring_of(name, published)
    samples = anchoring.samples(predictions_of(published, size))
    for i in range(count):
        match = anchoring.shape_matcher([published.tensor(f"{kind}{i}/gt")], samples[None])
        expected = published.tensor(f"{kind}{i}/approx_gt_inds")
        assert torch.equal(published_assignment(match)[0], expected), f"{kind}{i}"


@pytest.mark.parametrize(
    "name,thresholds,min_iou", [("ga_rpn", (0.3, 0.7), 0.3)] + [("ga_retinanet", (0.5,), 0.0)]
)
def test_guided_anchors_are_matched_as_published(name, thresholds, min_iou):
    published = Published(name)
    for i in range(24):
        guided = published.levels("anchors/guided")[:1, :, None]
        match = match_max_iou([published.tensor(f"case{i}/gt")], guided, thresholds, min_iou)
        expected = published.tensor(f"case{i}/guided_gt_inds")
        assert torch.equal(published_assignment(match)[0], expected), f"case{i}"


@pytest.mark.parametrize("name", METHODS)
def test_locations_in_images_are_the_published_ones(name):
    published = Published(name)
    image_sizes = [x.image_size for x in published.instances()]
    maps = [torch.zeros(2, 1, *size) for size in map_sizes((128, 160), published.strides)]
    valid = anchoring_of(name, published).square_generator.valid_mask(maps, image_sizes)
    assert torch.equal(valid, published.levels("anchors/inside_flags"))
    assert not valid.all()  # the images differ in size


@pytest.mark.parametrize("name", METHODS)
def test_squares_and_guided_anchors_are_the_published_ones(name):
    published = Published(name)
    anchoring = anchoring_of(name, published)
    squares = anchoring.squares(predictions_of(published, (128, 160)))
    for i, level in enumerate(squares):
        torch.testing.assert_close(level, published.tensor(f"anchors/square{i}"))
    # Level 1, raw predictions far beyond what exp() could bear.
    raw = published.tensor("clip/shape_pred").flatten(1).t()
    height, width = published.tensor("clip/shape_pred").shape[1:]
    size = (height * published.strides[1], width * published.strides[1])
    square = anchoring.squares(predictions_of(published, size))[1]
    anchors = decode_shapes(square, anchoring.shape_std * raw)
    torch.testing.assert_close(
        anchors, published.tensor("clip/guided_level1"), rtol=1e-4, atol=1e-3
    )


def test_level_of_an_object_is_that_of_the_nearest_side():
    sides = torch.tensor([8.0, 45.2, 45.3, 90.4, 90.6, 300.0, 5000.0])
    boxes = torch.stack([sides * 0, sides * 0, sides, sides], dim=1)
    assert object_levels(boxes, SIDES).tolist() == [0, 0, 1, 1, 2, 3, 4]
    assert object_levels(boxes, [24.0, 48.0]).tolist() == [0, 1, 1, 1, 1, 1, 1]  # border 33.9


def test_level_of_a_long_object_by_its_short_side():
    line = torch.tensor([[0.0, 0.0, 400.0, 10.0], [0.0, 0.0, 10.0, 400.0]])
    assert object_levels(line, SIDES).tolist() == [1, 1]  # the square root of its area is 63
    assert object_levels(line, SIDES, by_short_side=True).tolist() == [0, 0]


def test_an_offset_of_half_a_stride_moves_the_regions():
    """A box around the location in row 3 and column 5."""
    box = torch.tensor([[5.5 * 8 - 16, 3.5 * 8 - 16, 5.5 * 8 + 16, 3.5 * 8 + 16]])
    sizes, strides = [(8, 10)], [8]
    target, weight = location_targets([box], sizes, strides, [32.0], 0.5, CENTER, IGNORE)
    assert target.view(8, 10).nonzero().tolist() == [[3, 5]]
    ignored = (weight.view(8, 10) == 0).nonzero()
    assert ignored.amin(0).tolist() == [2, 4] and ignored.amax(0).tolist() == [4, 6]


def test_an_image_without_objects_is_all_background():
    target, weight = location_targets(
        [torch.zeros(0, 4)], [(4, 5), (2, 3)], [8, 16], [32.0, 64.0], 0.0, CENTER, IGNORE
    )
    assert target.sum() == 0
    torch.testing.assert_close(weight, torch.full((1, 26), 0.1))
