import pytest
import torch
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.structures import Boxes, Instances
from published import STRIDES, Published

from anchor_heads import get_cfg
from anchor_heads.projects.free_anchor import legacy


@pytest.fixture(scope="module")
def published():
    return Published("head_loss")


@pytest.mark.parametrize("level", range(5))
def test_cell_anchors_are_the_published_ones(published, level):
    stride = STRIDES[level]
    sizes = [4 * stride * 2 ** (k / 3) for k in range(3)]
    ours = legacy.cell_anchors(sizes, [0.5, 1.0, 2.0], stride)
    theirs = published.boxes(f"cell_anchors/{level}") - stride / 2
    torch.testing.assert_close(ours, theirs.view(3, 3, 4).transpose(0, 1).reshape(9, 4))


@pytest.mark.parametrize(
    "sizes, ratios",
    [
        ([16, 32], [0.5, 2.0]),
        ([[16, 32]], [[0.5, 2.0]]),
        ([[16, 32], [16, 32]], [[0.5, 2.0], [0.5, 2.0]]),
    ],
)
def test_one_list_of_sizes_or_ratios_is_for_all_levels(sizes, ratios):
    node = get_cfg().MODEL.ANCHOR_GENERATOR
    node.SIZES, node.ASPECT_RATIOS = sizes, ratios
    generator = DefaultAnchorGenerator(sizes=sizes, aspect_ratios=ratios, strides=[8, 16])
    legacy.round_cell_anchors(generator, node)
    for stride, anchors in zip([8, 16], generator.cell_anchors, strict=True):
        assert torch.equal(anchors, legacy.cell_anchors([16, 32], [0.5, 2.0], stride))


def test_a_clipped_box_keeps_a_pixel():
    boxes = Boxes(torch.tensor([[-5.0, -5, 0, 0], [30, 30, 40, 40], [2, 3, 4, 50]]))
    legacy.clip(boxes, (10, 20))
    assert boxes.tensor.tolist() == [[0, 0, 1, 1], [19, 9, 20, 10], [2, 3, 4, 10]]


def test_resizing_moves_the_last_pixel_not_the_end():
    instances = Instances((20, 60), pred_boxes=Boxes(torch.tensor([[4.0, 8, 16, 20]])))
    legacy.shift_resized(instances, (10, 20))  # twice as high, three times as wide
    # In the input the box was (4/3, 4)-(16/3, 10); its last pixel 13/3, 9 becomes 13, 18.
    torch.testing.assert_close(instances.pred_boxes.tensor, torch.tensor([[4.0, 8, 14, 19]]))
