"""Every quick-start model on another device than the CPU, with the CPU's numbers."""

import copy

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage

from anchor_heads import model_zoo
from anchor_heads.modeling.one_stage import candidates_before_nms
from anchor_heads.modeling.test_time_augmentation import build_tta

ONE_STAGE = ["retinanet", "free_anchor", "ga_retinanet", "da_retinanet"]
TWO_STAGE = ["faster_rcnn", "free_anchor_faster_rcnn", "ga_faster_rcnn", "da_faster_rcnn"]
SIZES = [(64, 96), (64, 64)]  # height, width


def build(name):
    """A quick-start model on the CPU, which finds something before it is trained."""
    cfg = model_zoo.get_config(f"quick_start/{name}")
    cfg.MODEL.DEVICE = "cpu"
    # All anchors are sampled: which ones a device samples at random is its own affair.
    cfg.MODEL.RPN.BATCH_SIZE_PER_IMAGE = cfg.MODEL.ROI_HEADS.BATCH_SIZE_PER_IMAGE = 100_000
    cfg.MODEL.GUIDED_ANCHOR.SHAPE_BATCH_SIZE_PER_IMAGE = 100_000
    cfg.MODEL.RETINANET.PRIOR_PROB = 0.2
    torch.manual_seed(0)
    return cfg, build_model(cfg)


def images():
    generator = torch.Generator().manual_seed(1)
    batch = []
    for height, width in SIZES:
        corner = torch.rand(3, 2, generator=generator) * 30
        objects = Instances(
            (height, width),
            gt_boxes=Boxes(torch.cat([corner, corner + torch.tensor([30.0, 20.0])], dim=1)),
            gt_classes=torch.tensor([0, 1, 2]),
        )
        pixels = torch.randint(0, 255, (3, height, width), generator=generator)
        size = {"height": height, "width": width}
        batch.append({"image": pixels.to(torch.uint8), "instances": objects, **size})
    return batch


def on_both(name, device):
    cfg, model = build(name)
    return cfg, model, copy.deepcopy(model).to(device)


def step(model):
    """The losses of a training step, and the gradients."""
    model.train()
    torch.manual_seed(0)
    with EventStorage():
        losses = model(images())
        sum(losses.values()).backward()
    gradients = [p.grad.cpu() for p in model.parameters() if p.requires_grad]
    return {name: loss.item() for name, loss in losses.items()}, gradients


def detections(model):
    model.eval()
    with torch.no_grad():
        return [x["instances"].to("cpu") for x in model(images())]


def assert_same_detections(found, expected):
    assert [len(x) for x in found] == [len(x) for x in expected]
    assert sum(map(len, expected)) > 0
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one.scores, other.scores, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(
            one.pred_boxes.tensor, other.pred_boxes.tensor, rtol=1e-4, atol=1e-2
        )


@pytest.mark.parametrize("name", ONE_STAGE + TWO_STAGE)
def test_a_training_step_has_the_losses_and_gradients_of_the_cpu(device, name):
    _, model, moved = on_both(name, device)
    losses, gradients = step(model)
    moved_losses, moved_gradients = step(moved)
    assert moved_losses == pytest.approx(losses, rel=1e-4)
    for gradient, moved_gradient in zip(gradients, moved_gradients, strict=True):
        # Not entry by entry: rounding lets a few values pass a ReLU on one device only.
        assert (moved_gradient - gradient).norm() <= 1e-2 * gradient.norm() + 1e-7


@pytest.mark.parametrize("name", ONE_STAGE + TWO_STAGE)
def test_predictions_are_those_of_the_cpu(device, name):
    _, model, moved = on_both(name, device)
    assert_same_detections(detections(moved), detections(model))


@pytest.mark.parametrize("name", ["ga_retinanet", "da_faster_rcnn"])
def test_test_time_augmentation_on_a_device(device, name):
    cfg, model, moved = on_both(name, device)
    cfg.TEST.AUG.MIN_SIZES, cfg.TEST.AUG.MAX_SIZE = (64, 80), 160
    assert_same_detections(detections(build_tta(cfg, moved)), detections(build_tta(cfg, model)))


@pytest.mark.parametrize("name", ["free_anchor", "ga_retinanet", "da_retinanet"])
def test_candidates_before_nms_on_a_device(device, name):
    _, model, moved = on_both(name, device)
    with candidates_before_nms(model), candidates_before_nms(moved):
        expected, found = detections(model), detections(moved)
    assert [len(x) for x in found] == [len(x) for x in expected]
    assert len(expected[0]) > 50
