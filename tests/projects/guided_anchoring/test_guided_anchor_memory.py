"""Memory of the targets of GA-RPN on an image of 800x1216.

python tests/projects/guided_anchoring/test_guided_anchor_memory.py OBJECTS   prints their MB.
"""

import sys
from pathlib import Path

import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from guided_published import input_shape, published_cfg
from peak_memory import peak_megabytes
from tiny_run import finish, start

from anchor_heads.projects.guided_anchoring.head import AnchorPrediction
from anchor_heads.projects.guided_anchoring.rpn import GuidedAnchorRPN

STRIDES = (4, 8, 16, 32, 64)


def measure(num_objects):
    """Peak in MB above what is held before, with all anchors but without a network."""
    torch.set_num_threads(1)
    shapes = dict(zip(("p2", "p3", "p4", "p5", "p6"), input_shape(STRIDES), strict=True))
    generator = GuidedAnchorRPN(published_cfg(), shapes)
    anchoring = generator.guided_anchoring
    sizes = [(-(-800 // stride), -(-1216 // stride)) for stride in STRIDES]
    predictions = [
        AnchorPrediction(torch.zeros(1, 1, *size), torch.zeros(1, 2, *size), ()) for size in sizes
    ]
    corner = torch.rand(num_objects, 2) * torch.tensor([1100.0, 700.0])
    boxes = torch.cat([corner, corner + 20 + torch.rand(num_objects, 2) * 80], dim=1)
    objects = [Instances((800, 1216), gt_boxes=Boxes(boxes))]

    def targets():
        maps = [prediction.location for prediction in predictions]
        valid = anchoring.square_generator.valid_mask(maps, [(800, 1216)])
        with EventStorage():
            anchors = anchoring.anchors(predictions)
            anchoring.losses(predictions, anchors, objects, valid)
            anchors = torch.cat(anchors, dim=1)
            generator.label_and_sample_predicted_anchors(anchors, objects, valid)

    return peak_megabytes(targets)


def test_memory_of_targets_does_not_grow_with_the_objects():
    """A matrix of 500 objects by 80 997 locations would be 162 MB, and there are nine samples."""
    used = {}
    for num_objects in (500, 2000):
        code, said = finish(start(Path(__file__), num_objects))
        assert code == 0, said
        used[num_objects] = float(said.split()[-1])
    assert 20 < used[500] < 120
    assert used[2000] < 1.25 * used[500]


if __name__ == "__main__":
    print(measure(int(sys.argv[1])))
