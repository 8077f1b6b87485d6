"""Memory of the targets of DA-RPN, which has the most locations, on an image of 800x1216.

python tests/projects/dynamic_anchor/test_dynamic_anchor_memory.py OBJECTS   prints their MB.
"""

import sys
from pathlib import Path

import torch
from detectron2.layers import ShapeSpec
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from peak_memory import peak_megabytes
from tiny_run import finish, start

from anchor_heads import get_cfg
from anchor_heads.projects.dynamic_anchor.head import Prediction
from anchor_heads.projects.dynamic_anchor.rpn import DynamicAnchorRPN

STRIDES = (4, 8, 16, 32, 64)


def measure(num_objects):
    """Peak in MB above what is held before, with all anchors but without a network."""
    torch.set_num_threads(1)
    cfg = get_cfg()
    cfg.MODEL.RPN.IN_FEATURES = [f"p{i}" for i in range(2, 7)]
    cfg.MODEL.ANCHOR_GENERATOR.SIZES = [[16 * stride] for stride in STRIDES]
    shapes = {f"p{i + 2}": ShapeSpec(channels=8, stride=x) for i, x in enumerate(STRIDES)}
    generator = DynamicAnchorRPN(cfg, shapes)
    anchoring = generator.dynamic_anchoring
    maps = [torch.zeros(1, 1, -(-800 // stride), -(-1216 // stride)) for stride in STRIDES]
    predictions = [Prediction(torch.zeros(1, x.numel(), 2), None, None) for x in maps]
    corner = torch.rand(num_objects, 2) * torch.tensor([1100.0, 700.0])
    boxes = torch.cat([corner, corner + 20 + torch.rand(num_objects, 2) * 80], dim=1)
    objects = [Instances((800, 1216), gt_boxes=Boxes(boxes))]

    def targets():
        assignment = anchoring.shape_assignment(maps, objects)
        with EventStorage():
            anchoring.loss(predictions, assignment)
            anchors = torch.cat(anchoring.anchors(maps, predictions), dim=1)
            valid = anchoring.square_generator.valid_mask(maps, [(800, 1216)])
            generator.label_and_sample_predicted_anchors(anchors, objects, valid)

    return peak_megabytes(targets)


def test_memory_of_targets_does_not_grow_with_the_objects():
    """A matrix of 500 objects by 80 997 locations would be 162 MB."""
    used = {}
    for num_objects in (500, 2000):
        code, said = finish(start(Path(__file__), num_objects))
        assert code == 0, said
        used[num_objects] = float(said.split()[-1])
    assert 10 < used[500] < 100
    assert used[2000] < 1.25 * used[500]


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
