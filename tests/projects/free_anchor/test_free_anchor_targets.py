import pytest
import torch
from published import NUM_CLASSES, Published
from test_free_anchor_losses import inputs, published_anchors

from anchor_heads.projects.free_anchor.targets import anchor_bags, localization_probability


def to_size_major(index):
    """Index over a map's anchors, ratio-major, of the same anchor, size-major."""
    location, anchor = index // 9, index % 9
    return location * 9 + anchor % 3 * 3 + anchor // 3


@pytest.fixture(scope="module")
def published():
    return Published("head_loss")


@pytest.mark.parametrize("image", [0, 1])
def test_bags_are_the_published_ones(published, image):
    logits, _, boxes, _ = inputs(published, "crafted")
    bags = anchor_bags(boxes[image], published_anchors([x.shape[2:] for x in logits]), 50)
    expected = to_size_major(published.tensor(f"crafted/img{image}/matched"))
    assert torch.equal(bags.sort(dim=1).values, expected.sort(dim=1).values)


def test_localization_probability_by_hand():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 10], [100, 100, 110, 110]])
    boxes = torch.tensor([[0.0, 0, 10, 8], [0, 0, 10, 7], [0, 0, 10, 6], [100, 100, 104, 104]])
    index, probability = localization_probability(
        objects, torch.tensor([2, 0, 1]), boxes, num_classes=3, iou_thresh=0.6
    )
    # IoU 0.8 is the best and counts 1; 0.7 counts half; 0.6 is not above the threshold, and the
    # third object is reached by no box.
    assert index.tolist() == [0, 2, 3, 5]
    torch.testing.assert_close(probability, torch.tensor([1.0, 1.0, 0.5, 0.5]))


def test_the_better_object_of_a_class_counts():
    objects = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 8]])
    boxes = torch.tensor([[0.0, 0, 10, 10], [0, 0, 10, 9]])
    index, probability = localization_probability(
        objects, torch.tensor([0, 0]), boxes, num_classes=1, iou_thresh=0.6
    )
    assert index.tolist() == [0, 1]
    # Box 1 covers object 0 to 0.9 (of at best 1) and object 1 to 0.889, its best.
    torch.testing.assert_close(probability, torch.tensor([1.0, 1.0]))


def test_no_objects_have_no_bags():
    none, anchors = torch.zeros(0, 4), torch.tensor([[0.0, 0, 8, 8]])
    assert anchor_bags(none, anchors, 50).shape == (0, 1)
    index, probability = localization_probability(
        none, torch.zeros(0, dtype=torch.int64), anchors, NUM_CLASSES, 0.6
    )
    assert index.shape == probability.shape == (0,)
