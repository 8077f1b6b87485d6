"""Memory of a training step of proposal generators with predicted anchors, on an image of 800x1216.

python tests/modeling/test_memory_of_targets.py GENERATOR OBJECTS   prints it in MB.
"""

import sys
from pathlib import Path

import pytest
import torch
from detectron2.layers import ShapeSpec
from detectron2.modeling.proposal_generator import build_proposal_generator
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from peak_memory import peak_megabytes
from tiny_run import finish, start

from anchor_heads import get_cfg

SIZE = (800, 1216)
STRIDES = {"p2": 4, "p3": 8, "p4": 16, "p5": 32, "p6": 64}


def measure(name, num_objects):
    """Peak in MB above what is held before, with few channels: most of it is for the targets."""
    torch.set_num_threads(1)
    cfg = get_cfg()
    cfg.MODEL.PROPOSAL_GENERATOR.NAME, cfg.MODEL.RPN.IN_FEATURES = name, list(STRIDES)
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [
        [8 * stride * 2 ** (i / 3) for i in range(3)] for stride in STRIDES.values()
    ]
    shapes = {key: ShapeSpec(channels=4, stride=stride) for key, stride in STRIDES.items()}
    generator = build_proposal_generator(cfg, shapes).train()
    features = {
        key: torch.zeros(1, 4, *(-(-side // stride) for side in SIZE))
        for key, stride in STRIDES.items()
    }
    corner = torch.rand(num_objects, 2) * torch.tensor([1100.0, 700.0])
    boxes = torch.cat([corner, corner + 20 + torch.rand(num_objects, 2) * 80], dim=1)
    images = ImageList(torch.zeros(1, 3, *SIZE), [SIZE])

    def step():
        with torch.no_grad(), EventStorage():
            generator(images, features, [Instances(SIZE, gt_boxes=Boxes(boxes))])

    return peak_megabytes(step)


@pytest.mark.parametrize("name", ["GuidedAnchorRPN", "DynamicAnchorRPN"])
def test_memory_of_targets_does_not_grow_with_the_objects(name):
    """A matrix of 500 objects by 80 997 locations would be 162 MB, and there are nine samples."""
    used = {}
    for num_objects in (500, 2000):
        code, said = finish(start(Path(__file__), name, num_objects))
        assert code == 0, said
        used[num_objects] = float(said.split()[-1])
    assert 10 < used[500] < 120
    assert used[2000] < 1.25 * used[500]


if __name__ == "__main__":
    print(measure(sys.argv[1], int(sys.argv[2])))
