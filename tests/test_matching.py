import pytest
import torch
from detectron2.structures import Boxes, pairwise_iou

from anchor_heads import matching


def random_boxes(n):
    corner = torch.rand(n, 2) * 100
    return torch.cat([corner, corner + torch.rand(n, 2) * 40 + 1], dim=1)


@pytest.mark.parametrize("entries", [1, 40, 10**6])
def test_chunks_together_are_the_iou_matrix(monkeypatch, entries):
    monkeypatch.setitem(matching.CHUNK_ENTRIES, "cpu", entries)
    objects, anchors = random_boxes(7), random_boxes(20)
    rows = []
    for chunk, iou in matching.pairwise_iou_chunks(objects, anchors):
        assert len(iou) == 1 or iou.numel() <= entries
        assert len(objects[chunk]) == len(iou)
        rows.append(iou)
    torch.testing.assert_close(torch.cat(rows), pairwise_iou(Boxes(objects), Boxes(anchors)))


def test_nothing_to_match_gives_no_chunk():
    assert list(matching.pairwise_iou_chunks(torch.zeros(0, 4), random_boxes(3))) == []
    ((chunk, iou),) = matching.pairwise_iou_chunks(random_boxes(2), torch.zeros(0, 4))
    assert iou.shape == (2, 0)
