import math

import pytest
import torch

from anchor_heads.layers import bounded_iou_loss, iou_loss


def test_a_box_that_fits_costs_nothing_but_eps():
    box = torch.tensor([[10.0, 20.0, 30.0, 60.0]])
    assert bounded_iou_loss(box, box, beta=0.2).item() < 1e-6


def test_the_four_terms_by_hand():
    """Twice as wide, and the centre off by a quarter of the object's height."""
    gt = torch.tensor([[0.0, 0.0, 8.0, 16.0]])
    box = torch.tensor([[-4.0, 4.0, 12.0, 20.0]])
    # Width: 1 - 8/16. Centre y: 1 - (16 - 8) / (16 + 8). Above beta smooth L1 is x - beta/2.
    expected = (0.5 - 0.1) + (2 / 3 - 0.1)
    assert bounded_iou_loss(box, gt, beta=0.2).item() == pytest.approx(expected, abs=1e-3)


def test_gradient_pulls_the_size_towards_the_object():
    gt = torch.tensor([[0.0, 0.0, 8.0, 8.0]])
    box = torch.tensor([[-4.0, 2.0, 12.0, 6.0]], requires_grad=True)  # too wide, too low
    bounded_iou_loss(box, gt, beta=0.2).backward()
    x0, y0, x1, y1 = box.grad[0]
    assert x0 < 0 < x1 and y0 > 0 > y1


def test_no_boxes_cost_nothing():
    boxes = torch.zeros(0, 4, requires_grad=True)
    loss = bounded_iou_loss(boxes, torch.zeros(0, 4), beta=0.2)
    loss.backward()
    assert loss == 0


def test_iou_loss_is_the_negative_logarithm():
    gt = torch.tensor([[0.0, 0.0, 8.0, 8.0]]).repeat(3, 1)
    boxes = torch.tensor([[0.0, 0.0, 8.0, 8.0], [0.0, 0.0, 4.0, 8.0], [20.0, 20.0, 24.0, 24.0]])
    expected = torch.tensor([0.0, math.log(2), -math.log(1e-6)])
    torch.testing.assert_close(iou_loss(boxes, gt), expected)
