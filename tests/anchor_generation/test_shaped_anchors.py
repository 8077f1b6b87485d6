import math

import pytest
import torch
from detectron2.layers import ShapeSpec

from anchor_heads import get_cfg
from anchor_heads.anchor_generation import build_square_generator, stretch


@pytest.mark.parametrize("sizes", [[[40, 32], [64, 80]], [[32], [64]]])
def test_squares_have_the_smallest_size_of_their_level(sizes):
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    generator = build_square_generator(cfg, [ShapeSpec(stride=8), ShapeSpec(stride=16)])
    fine, coarse = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    assert fine.tensor[0].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]
    assert fine.tensor[5].tolist() == [20 - 16, 12 - 16, 20 + 16, 12 + 16]  # by rows
    assert coarse.tensor[1].tolist() == [24 - 32, 8 - 32, 24 + 32, 8 + 32]


@pytest.mark.parametrize("sizes", [[[64, 32]], [32, 64], [[64], [32]]])
def test_squares_that_do_not_grow_are_refused(sizes):
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    with pytest.raises(ValueError, match="must grow from level to level"):
        build_square_generator(cfg, [ShapeSpec(stride=8), ShapeSpec(stride=16)])
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64, 32]]
    assert build_square_generator(cfg, [ShapeSpec(stride=8)]).sides == [32.0]


def test_stretching_keeps_the_centre():
    squares = torch.tensor([[[0.0, 10.0, 8.0, 18.0]]])
    anchors = stretch(squares, torch.tensor([[[math.log(2), math.log(0.5)]]]))
    torch.testing.assert_close(anchors, torch.tensor([[[-4.0, 12.0, 12.0, 16.0]]]))


def test_stretching_is_bounded():
    squares = torch.tensor([[-0.5, -0.5, 0.5, 0.5]])
    anchors = stretch(squares, torch.tensor([[1000.0, -1000.0]]))
    torch.testing.assert_close(anchors, torch.tensor([[-5e5, -5e-7, 5e5, 5e-7]]))
