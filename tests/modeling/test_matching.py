import pytest
import torch
from detectron2.structures import Boxes, Instances, pairwise_iou

from anchor_heads.modeling import matching
from anchor_heads.modeling.matching import (
    MaxIoUMatcher,
    match_max_iou,
    match_predicted_anchors,
)


def random_boxes(n):
    corner = torch.rand(n, 2) * 100
    return torch.cat([corner, corner + torch.rand(n, 2) * 40 + 1], dim=1)


def test_chunks_of_a_gpu_take_little_memory():
    """A RetinaNet with R-50 keeps 700 MB of an image of 800x1216 for its backward pass."""
    first, *_ = matching.chunks(500, 182_400, torch.device("cuda"))
    chunk_bytes = 4 * 182_400 * (first.stop - first.start)
    assert 4 * chunk_bytes < 150e6  # the chunk, the one before it, and temporaries


@pytest.mark.parametrize("entries", [1, 40, 10**6])
def test_chunks_together_are_the_iou_matrix(monkeypatch, entries):
    monkeypatch.setitem(matching.CHUNK_ENTRIES, "cpu", entries)
    objects, anchors = random_boxes(7), random_boxes(20)
    rows = []
    for chunk, iou in matching.pairwise_iou_chunks(objects, anchors):
        assert len(iou) == 1 or iou.numel() <= entries
        assert len(objects[chunk]) == len(iou)
        rows.append(iou)
    expected = pairwise_iou(Boxes(objects), Boxes(anchors))
    torch.testing.assert_close(torch.cat(rows), expected)
    best, indices = matching.anchors_of_highest_iou(objects, anchors)
    torch.testing.assert_close(best, expected.amax(dim=1))
    assert torch.equal(indices, expected.argmax(dim=1))


def test_nothing_to_match_gives_no_chunk():
    assert list(matching.pairwise_iou_chunks(torch.zeros(0, 4), random_boxes(3))) == []
    ((chunk, iou),) = matching.pairwise_iou_chunks(random_boxes(2), torch.zeros(0, 4))
    assert iou.shape == (2, 0)


ANCHORS = torch.tensor(
    [
        [0.0, 0.0, 10.0, 10.0],
        [0.0, 0.0, 10.0, 8.0],
        [0.0, 0.0, 10.0, 5.0],
        [0.0, 0.0, 10.0, 2.0],
        [50.0, 50.0, 60.0, 60.0],
    ]
)
OBJECT = torch.tensor([[0.0, 0.0, 10.0, 10.0]])  # IoU 1, 0.8, 0.5, 0.2 and 0


def match_one(objects, anchors, thresholds, min_iou, valid=None):
    """The match of one image; anchors (R, 4) or (R, A, 4)."""
    anchors = anchors[None, :, None] if anchors.dim() == 2 else anchors[None]
    valid = None if valid is None else valid[None]
    match = match_max_iou([objects], anchors, thresholds, min_iou, valid)
    return match._replace(matched_idxs=match.matched_idxs[0], labels=match.labels[0])


def test_thresholds_split_into_positive_ignored_and_background():
    match = match_one(OBJECT, ANCHORS, (0.4, 0.8), min_iou=0.9)
    assert match.labels.tolist() == [1, 1, -1, 0, 0]
    assert match.matched_idxs[:2].tolist() == [0, 0]
    assert match.best_iou.tolist() == [1.0]
    assert match_one(OBJECT, ANCHORS, (0.5,), min_iou=0.9).labels.tolist() == [1, 1, 1, 0, 0]


def test_an_object_takes_its_best_anchors_from_the_least_iou_on():
    objects = torch.tensor([[0.0, 0.0, 10.0, 4.0], [40.0, 40.0, 52.0, 52.0]])
    best = [0.8, 4 / (144 + 100 - 4)]
    match = match_one(objects, ANCHORS, (0.3, 0.9), min_iou=0.3)
    assert match.labels.tolist() == [-1, -1, 1, -1, 0]
    torch.testing.assert_close(match.best_iou, torch.tensor(best))
    match = match_one(objects, ANCHORS, (0.3, 0.9), min_iou=0.01)
    assert match.labels.tolist() == [-1, -1, 1, -1, 1]
    assert match.matched_idxs[[2, 4]].tolist() == [0, 1]


def test_the_last_object_takes_an_anchor_that_several_want():
    """The first overlaps the anchor more; Detectron2's matcher would leave it to the first."""
    objects = torch.tensor([[0.0, 0.0, 10.0, 10.0], [0.0, 0.0, 10.0, 30.0]])
    match = match_one(objects, ANCHORS, (0.4, 0.5), min_iou=0.3)
    assert match.labels.tolist() == [1, 1, 1, 0, 0]
    assert match.matched_idxs[:3].tolist() == [1, 0, 0]


def test_the_best_of_several_boxes_counts():
    pairs = torch.stack([ANCHORS, ANCHORS.flip(0)], dim=1)
    match = match_one(OBJECT, pairs, (0.4, 0.8), min_iou=0.9)
    assert match.labels.tolist() == [1, 1, -1, 1, 1]


@pytest.mark.parametrize("num_objects", [0, 1, 40])
def test_matching_in_chunks_equals_matching_at_once(num_objects, monkeypatch):
    objects, anchors = random_boxes(num_objects), random_boxes(300)
    at_once = match_one(objects, anchors, (0.3, 0.6), min_iou=0.2)
    monkeypatch.setitem(matching.CHUNK_ENTRIES, "cpu", 700)
    for ours, expected in zip(match_one(objects, anchors, (0.3, 0.6), 0.2), at_once, strict=True):
        assert torch.equal(ours, expected)
    if num_objects == 0:
        assert at_once.labels.sum() == 0 and len(at_once.best_iou) == 0


def test_no_anchors_match_nothing():
    match = match_one(OBJECT, ANCHORS[:0], (0.5,), min_iou=0.0)
    assert match.labels.shape == match.matched_idxs.shape == (0,)
    assert match.best_iou.tolist() == [0.0]


@pytest.mark.parametrize("thresholds", [[], [0.7, 0.3], [0.3, 0.5, 0.7]])
def test_thresholds_that_this_matching_does_not_know_are_refused(thresholds):
    with pytest.raises(ValueError, match="one threshold with the labels"):
        MaxIoUMatcher(thresholds, [0, -1, 1], min_iou=0.0)


def test_anchors_that_are_not_valid_are_ignored():
    valid = torch.tensor([False, True, True, True, True])
    match = match_one(OBJECT, ANCHORS, (0.4, 0.8), 0.9, valid)
    assert match.labels.tolist() == [-1, 1, -1, 0, 0]
    assert match.best_iou.item() == pytest.approx(0.8)


@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("entries", [300, 10**6])
def test_a_batch_is_matched_as_its_images_one_by_one(monkeypatch, shared, entries):
    """Also objects that no anchor overlaps, with a least IoU of 0, and anchors of several boxes."""
    counts = (3, 0, 12, 1)
    gt_boxes = [random_boxes(n) for n in counts]
    gt_boxes[3] += 1000
    anchors = torch.stack([random_boxes(60).view(30, 2, 4) for _ in counts])
    if shared:
        anchors = anchors[:1]
    valid = torch.rand(4, 30) > 0.2
    valid[0] = True
    expected = [
        match_one(boxes, anchors[min(i, len(anchors) - 1)], (0.2, 0.5), 0.0, valid[i])
        for i, boxes in enumerate(gt_boxes)
    ]
    monkeypatch.setitem(matching.CHUNK_ENTRIES, "cpu", entries)
    match = match_max_iou(gt_boxes, anchors, (0.2, 0.5), 0.0, valid)
    for i, one in enumerate(expected):
        assert torch.equal(match.labels[i], one.labels)
        positive = one.labels == 1
        assert torch.equal(match.matched_idxs[i, positive], one.matched_idxs[positive])
    torch.testing.assert_close(match.best_iou, torch.cat([x.best_iou for x in expected]))
    assert (match.labels[3] == 1).tolist() == valid[3].tolist()  # it takes all


def test_each_image_of_a_batch_has_its_own_anchors():
    """The first image has the object, and an anchor without width; the second has none."""
    matcher = MaxIoUMatcher([0.4, 0.8], [0, -1, 1], min_iou=0.9)
    anchors = torch.stack([ANCHORS, ANCHORS.flip(0)])
    anchors[0, 4, 2] = anchors[0, 4, 0]
    valid = torch.ones(2, 5, dtype=torch.bool)
    valid[0, 0] = valid[1, 4] = False
    instances = [Instances((100, 100), gt_boxes=Boxes(x)) for x in (OBJECT, OBJECT[:0])]
    match, boxes = match_predicted_anchors(matcher, instances, anchors, valid)
    assert match.labels.tolist() == [[-1, 1, -1, 0, -1], [0, 0, 0, 0, -1]]
    assert torch.equal(boxes[0, 1], OBJECT[0]) and boxes.shape == (2, 5, 4)
    assert match.matched_idxs.shape == (2, 5)
    assert match.best_iou.item() == pytest.approx(0.8)


def test_labels_that_this_matching_does_not_know_are_refused():
    with pytest.raises(ValueError, match=r"two that ascend with \[0, -1, 1\]"):
        MaxIoUMatcher([0.4, 0.5], [0, 0, 1], min_iou=0.0)
