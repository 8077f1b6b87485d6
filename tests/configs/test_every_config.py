"""Every config has known keys; every model of one takes a step of training and one of inference."""

import pytest
import torch
from detectron2.checkpoint.catalog import ModelCatalog
from detectron2.modeling import BACKBONE_REGISTRY, META_ARCH_REGISTRY, build_model
from detectron2.modeling.backbone.resnet import BasicBlock, BottleneckBlock
from detectron2.modeling.proposal_generator import PROPOSAL_GENERATOR_REGISTRY
from detectron2.solver import build_lr_scheduler
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from shipped_configs import EVERY_CONFIG, load

from anchor_heads import model_zoo
from anchor_heads.engine.optimizer import build_optimizer

SIZE = (64, 96)  # height, width


@pytest.mark.parametrize("name", EVERY_CONFIG)
def test_config_has_only_known_keys_and_names_registered_parts(name):
    cfg = load(name)
    assert cfg.MODEL.META_ARCHITECTURE in META_ARCH_REGISTRY
    generator = cfg.MODEL.PROPOSAL_GENERATOR.NAME
    assert generator == "PrecomputedProposals" or generator in PROPOSAL_GENERATOR_REGISTRY
    assert cfg.MODEL.BACKBONE.NAME in BACKBONE_REGISTRY
    if cfg.MODEL.WEIGHTS.startswith("catalog://"):
        assert ModelCatalog.get(cfg.MODEL.WEIGHTS[len("catalog://") :]).endswith(".pkl")


def image_with_three_objects():
    """Noise, with proposals for a model that wants them."""
    boxes = Boxes(torch.tensor([[2.0, 3, 30, 40], [20, 10, 90, 60], [50, 30, 66, 62]]))
    objects = Instances(SIZE, gt_boxes=boxes, gt_classes=torch.arange(3))
    proposals = Instances(SIZE, proposal_boxes=boxes.clone(), objectness_logits=torch.ones(3))
    image = torch.randint(256, (3, *SIZE), dtype=torch.uint8)
    return {"image": image, "instances": objects, "proposals": proposals}


def weaken_residual_branches(model):
    """Keep the output of a deep net small, as ImageNet weights do; at random it grows by block."""
    for module in model.modules():
        if isinstance(module, BottleneckBlock | BasicBlock):
            last = module.conv3 if isinstance(module, BottleneckBlock) else module.conv2
            last.norm.weight.data *= 0.1


def take_step(cfg, model, inputs):
    """One step of the config's optimizer at the rate of the first iteration; its losses."""
    optimizer = build_optimizer(cfg, model)
    build_lr_scheduler(cfg, optimizer)
    with EventStorage():
        losses = model(inputs)
    sum(losses.values()).backward()
    optimizer.step()
    return losses


def part_of(name):
    """The part of a model that a parameter is in: "bottom_up", "pyramid", "head", ..."""
    if name.startswith("backbone."):
        return "bottom_up" if ".bottom_up." in name else "pyramid"
    return name.split(".")[0]


@pytest.mark.slow
@pytest.mark.parametrize("name", model_zoo.list_configs())
def test_model_takes_a_training_step_and_an_inference_step(name):
    cfg = load(name)
    cfg.MODEL.DEVICE = "cpu"
    cfg.MODEL.TIMM.PRETRAINED = False  # nothing is downloaded
    model = build_model(cfg)
    weaken_residual_branches(model)
    parameters = dict(model.named_parameters())
    before = {key: parameter.detach().clone() for key, parameter in parameters.items()}
    inputs = [image_with_three_objects()]

    losses = take_step(cfg, model, inputs)

    assert losses and all(loss.isfinite() for loss in losses.values()), losses
    assert all(parameter.isfinite().all() for parameter in parameters.values())
    trained = {key for key, parameter in parameters.items() if parameter.requires_grad}
    # All of them take part in the step, or training in several processes would stop.
    assert {key for key, parameter in parameters.items() if parameter.grad is not None} == trained
    moved = {key for key in parameters if not torch.equal(parameters[key], before[key])}
    assert moved <= trained
    assert {part_of(key) for key in moved} == {part_of(key) for key in trained}
    with torch.no_grad():
        [result] = model.eval()(inputs)
    [instances] = result.values()
    assert isinstance(instances, Instances) and instances.image_size == SIZE
