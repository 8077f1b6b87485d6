import math

import pytest
import torch

from anchor_heads import get_cfg
from anchor_heads.anchor_generation import SquareGenerator, build_square_generator, decode_shapes


@pytest.mark.parametrize("sizes", [[[40, 32], [64, 80]], [[32], [64]]])
def test_squares_have_the_smallest_size_of_their_level(sizes):
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    generator = build_square_generator(cfg, [8, 16])
    fine, coarse = generator([torch.zeros(1, 1, 2, 3), torch.zeros(1, 1, 1, 2)])
    assert fine.tensor[0].tolist() == [4 - 16, 4 - 16, 4 + 16, 4 + 16]
    assert fine.tensor[5].tolist() == [20 - 16, 12 - 16, 20 + 16, 12 + 16]  # by rows
    assert coarse.tensor[1].tolist() == [24 - 32, 8 - 32, 24 + 32, 8 + 32]


def test_with_an_aspect_ratio_squares_keep_their_area():
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[32]]
    cfg.MODEL.ANCHOR_GENERATOR.OFFSET = 0.5
    (boxes,) = build_square_generator(cfg, [8], 0.25)([torch.zeros(1, 1, 1, 1)])
    assert boxes.tensor.tolist() == [[4 - 32, 4 - 8, 4 + 32, 4 + 8]]


@pytest.mark.parametrize("sizes", [[[64, 32]], [32, 64], [[64], [32]]])
def test_squares_that_do_not_grow_are_refused(sizes):
    cfg = get_cfg()
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = sizes
    with pytest.raises(ValueError, match="grow from level to level"):
        build_square_generator(cfg, [8, 16])
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[64, 32]]
    assert build_square_generator(cfg, [8]).sides == [32.0]


def test_locations_of_each_image_padded_by_itself():
    """Images of 40x60 and 64x33 pixels, each padded to 64x64, in a batch of 64x96."""
    generator = SquareGenerator(sides=[32.0, 128.0], strides=[8, 32], offset=0.5)
    features = [torch.zeros(2, 1, 8, 12), torch.zeros(2, 1, 2, 3)]
    valid = generator.valid_mask(features, [(40, 60), (64, 33)])
    assert valid.shape == (2, 8 * 12 + 2 * 3)
    fine, coarse = valid[0, :96].view(8, 12), valid[0, 96:].view(2, 3)
    assert fine[:, :8].all() and not fine[:, 8:].any()
    assert coarse.tolist() == [[True, True, False]] * 2
    assert torch.equal(valid[0], valid[1])


def test_decoded_shapes_keep_the_centre():
    squares = torch.tensor([[[0.0, 10.0, 8.0, 18.0]]])
    anchors = decode_shapes(squares, torch.tensor([[[math.log(2), math.log(0.5)]]]))
    torch.testing.assert_close(anchors, torch.tensor([[[-4.0, 12.0, 12.0, 16.0]]]))


def test_decoded_shapes_are_bounded():
    squares = torch.tensor([[-0.5, -0.5, 0.5, 0.5]])
    anchors = decode_shapes(squares, torch.tensor([[1000.0, -1000.0]]))
    torch.testing.assert_close(anchors, torch.tensor([[-5e5, -5e-7, 5e5, 5e-7]]))
