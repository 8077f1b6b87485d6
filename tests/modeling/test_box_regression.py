import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from anchor_heads.modeling.box_regression import BoundedBox2BoxTransform


def test_boxes_shrink_and_grow_by_a_factor_of_62_5_at_most():
    transform = BoundedBox2BoxTransform((10.0, 10.0, 5.0, 5.0))
    box = torch.tensor([[0.0, 0.0, 1000.0, 1000.0]])
    (x0, y0, x1, y1) = transform.apply_deltas(torch.tensor([[0.0, 0.0, -500.0, 500.0]]), box)[0]
    assert (x1 - x0).item() == pytest.approx(16, rel=1e-3)
    assert (y1 - y0).item() == pytest.approx(62500, rel=1e-3)


def test_other_deltas_are_detectron2s():
    weights = (14.0, 14.0, 9.0, 9.0)
    deltas, boxes = torch.randn(50, 4) * 5, torch.tensor([[10.0, 20.0, 40.0, 90.0]]).repeat(50, 1)
    torch.testing.assert_close(
        BoundedBox2BoxTransform(weights).apply_deltas(deltas, boxes),
        Box2BoxTransform(weights).apply_deltas(deltas, boxes),
    )
    none = BoundedBox2BoxTransform(weights).apply_deltas(deltas[:0], boxes[:0])
    assert none.shape == (0, 4)
