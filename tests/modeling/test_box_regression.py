import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.modeling.box_regression import Box2BoxTransform
from small_models import shrink, zoo_cfg

from anchor_heads import model_zoo
from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.modeling.box_regression import BoundedBox2BoxTransform, box_regression_loss


@pytest.mark.parametrize(
    "cfg",
    [
        shrink(model_zoo.get_config("guided_anchoring/ga_retinanet_R_50_FPN_1x")),
        zoo_cfg("RPN", "GuidedAnchorRPN"),
    ],
    ids=["detector", "proposal generator"],
)
def test_boxes_shrink_and_grow_by_a_factor_of_62_5_at_most(cfg):
    transform = get_anchor_strategy(build_model(cfg)).owner.box2box_transform
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


# Of CIoU, the difference of the aspect ratios 2 and 1, squared, as a share of its greatest value.
ASPECT = (math.atan(2) - math.atan(1)) ** 2 / (math.pi / 2) ** 2


@pytest.mark.parametrize(
    "loss_type, expected",
    [
        ("smooth_l1", 0.5**2 / 2 + math.log(2) ** 2 / 2),
        ("iou", math.log(5)),
        ("giou", 4 / 5 + 4 / 24),
        ("diou", 4 / 5 + 4 / 52),
        ("ciou", 4 / 5 + 4 / 52 + ASPECT**2 / (4 / 5 + ASPECT)),
    ],
)
def test_box_losses_are_summed_over_the_positives(loss_type, expected):
    """A box of 4x2 whose object is 4x4 and begins 2 pixels left of it, and one that is the object.

    Intersection 4 and union 20, in a box of 6x4; the centres are 2 apart, its corners 52**0.5.
    """
    boxes = torch.tensor([[0.0, 0.0, 4.0, 4.0], [5.0, 5.0, 25.0, 15.0]])
    anchors = torch.tensor([[2.0, 1.0, 6.0, 3.0], [5.0, 5.0, 25.0, 15.0]])
    transform = BoundedBox2BoxTransform((1.0, 1.0, 1.0, 1.0))
    deltas = torch.zeros(2, 4)
    loss = box_regression_loss(transform, anchors, deltas, boxes, loss_type, 1.0)
    assert loss.item() == pytest.approx(expected, abs=1e-4)
