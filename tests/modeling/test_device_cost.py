"""How many operators and host synchronisations training and prediction have (forward pass).

On a GPU every operator is a kernel to launch, and every synchronisation waits for all before it. So
does making a tensor of Python's numbers, which is copied to the GPU.
"""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch.utils._python_dispatch import TorchDispatchMode

from anchor_heads import model_zoo

SYNCHRONIZING = {"_local_scalar_dense", "nonzero", "_unique2", "repeat_interleave"}


class Counter(TorchDispatchMode):
    """Counts operators, those of them that wait for the device, and tensors made on the host."""

    def __init__(self):
        super().__init__()
        self.operators = self.synchronizations = self.host_tensors = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        name = function.overloadpacket.__name__
        by_mask = name in ("index", "index_put_") and any(
            x is not None and x.dtype == torch.bool for x in args[1]
        )
        self.operators += 1
        self.synchronizations += name in SYNCHRONIZING or by_mask
        self.host_tensors += name == "lift_fresh"
        return function(*args, **(kwargs or {}))


def images_with_six_objects(number, size=160):
    batch = []
    for _ in range(number):
        corner = torch.rand(6, 2) * 100
        boxes = Boxes(torch.cat([corner, corner + 12 + torch.rand(6, 2) * 45], dim=1))
        objects = Instances((size, size), gt_boxes=boxes, gt_classes=torch.arange(6) % 3)
        batch.append({"image": torch.rand(3, size, size) * 255, "instances": objects})
    return batch


def cost(model, number):
    batch = images_with_six_objects(number)
    with EventStorage(), Counter() as counter:
        model(batch)
    return counter.operators, counter.synchronizations, counter.host_tensors


@pytest.mark.parametrize(
    "config,operators,synchronizations,host_tensors",
    [
        ("ga_retinanet", 1700, 25, 20),
        ("da_retinanet", 1700, 25, 16),
        ("ga_faster_rcnn", 2700, 97, 50),
        ("da_faster_rcnn", 2700, 95, 50),
    ],
)
def test_predicted_anchors_cost_few_operators_and_synchronizations(
    config, operators, synchronizations, host_tensors
):
    model = model_zoo.get(f"quick_start/{config}", ["MODEL.DEVICE", "cpu"]).train()
    four = cost(model, 4)
    assert four[0] <= operators and four[1] <= synchronizations and four[2] <= host_tensors
    # From 2 to 16 images RetinaNet has 1,577 operators more, Faster R-CNN 4,158.
    growth = cost(model, 16)[0] - cost(model, 2)[0]
    assert growth < (1577 if config.endswith("retinanet") else 4158)


@pytest.mark.parametrize(
    "config,other",
    [
        ("ga_retinanet", "retinanet"),
        ("da_retinanet", "retinanet"),
        ("ga_faster_rcnn", "faster_rcnn"),
        ("da_faster_rcnn", "faster_rcnn"),
    ],
)
def test_predictions_wait_for_the_device_about_as_often_as_with_preset_anchors(config, other):
    waits = []
    for name in (config, other):
        model = model_zoo.get(f"quick_start/{name}", ["MODEL.DEVICE", "cpu"]).eval()
        with torch.no_grad():
            waits.append(sum(cost(model, 4)[1:]))
    assert waits[0] <= 1.25 * waits[1]
