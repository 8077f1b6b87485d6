import pytest
import torch
from detectron2.modeling.box_regression import Box2BoxTransform

from anchor_heads.modeling.box_regression import BoundedBox2BoxTransform, box_regression_loss


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


@pytest.mark.parametrize(
    "loss_type, expected",
    # A box of half the height of its object, and one that is the object.
    [("smooth_l1", 0.6931**2 / 2), ("iou", 0.6931), ("giou", 0.5), ("diou", 0.5), ("ciou", 0.5025)],
)
def test_box_losses_are_summed_over_the_positives(loss_type, expected):
    boxes = torch.tensor([[0.0, 0.0, 10.0, 10.0], [5.0, 5.0, 25.0, 15.0]])
    anchors = torch.tensor([[0.0, 2.5, 10.0, 7.5], [5.0, 5.0, 25.0, 15.0]])
    transform = BoundedBox2BoxTransform((1.0, 1.0, 1.0, 1.0))
    deltas = torch.zeros(2, 4)
    loss = box_regression_loss(transform, anchors, deltas, boxes, loss_type, 1.0)
    assert loss.item() == pytest.approx(expected, abs=0.02)
