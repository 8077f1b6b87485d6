"""With the graphs captured as for torch.compile, but run by eager kernels: compiled C++ takes
minutes to build."""

import pytest
import torch
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from exported_models import MODELS, assert_same_detections, config, detect, detector, images

from anchor_heads.export import compile_model


def training_step(model):
    """Losses and gradients of two images."""
    batch = []
    for image, boxes in zip(
        images().values(), ([[10, 10, 40, 60]], [[2, 3, 20, 30]]), strict=False
    ):
        instances = Instances(image.shape[1:])
        instances.gt_boxes = Boxes(torch.tensor(boxes, dtype=torch.float32))
        instances.gt_classes = torch.tensor([1])
        batch.append({"image": image, "instances": instances})
    torch.manual_seed(0)
    model.train()
    with EventStorage():
        losses = model(batch)
    sum(losses.values()).backward()
    gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {name: loss.detach() for name, loss in losses.items()}, gradients


@pytest.fixture(autouse=True)
def _fresh():
    torch._dynamo.reset()


def assert_same_step(ours, expected):
    for a, b in zip(ours, expected, strict=True):
        assert a.keys() == b.keys()
        for name in a:
            torch.testing.assert_close(a[name], b[name], rtol=1e-3, atol=1e-5)


# Capturing the graphs of a model takes some ten seconds.
QUICK = "RetinaNet", "GuidedAnchorRetinaNet"


@pytest.mark.parametrize(
    "name", [x if x in QUICK else pytest.param(x, marks=pytest.mark.exhaustive) for x in MODELS]
)
def test_compiled_backbone_and_head_have_the_numbers_of_eager(name, tmp_path):
    cfg = config(name, tmp_path)
    eager, compiled = detector(cfg), detector(cfg)
    compile_model(compiled, backend="aot_eager")
    assert compiled.state_dict().keys() == eager.state_dict().keys()
    for image in images().values():
        assert_same_detections(detect(compiled, image), detect(eager, image))
    assert_same_step(training_step(compiled), training_step(eager))


@pytest.mark.exhaustive
@pytest.mark.parametrize("name", ["GuidedAnchorRetinaNet", "DynamicAnchorRPN"])
def test_compiled_as_a_whole(name, tmp_path):
    cfg = config(name, tmp_path)
    eager, compiled = detector(cfg), torch.compile(detector(cfg), backend="aot_eager")
    image = images()[161, 72]
    assert_same_detections(detect(compiled, image), detect(eager, image))
    losses, _ = training_step(compiled)
    assert_same_step([losses], [training_step(eager)[0]])
