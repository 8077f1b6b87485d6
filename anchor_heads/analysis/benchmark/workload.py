"""What the models do while they are measured."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.engine.checkpoint import AtomicCheckpointer

FEATURE_SCALE = 10.0
# Sides of the made objects, logarithms of pixels: 20 to 245.
LOG_SIDES = (3.0, 5.5)


class Workload(NamedTuple):
    """Finding something in one image, or learning from it."""

    image_size: tuple[int, int]
    """Height and width in pixels."""
    num_objects: int | None = None
    """To learn from; None to detect."""
    kept: float | None = None
    """The share of the locations where anchors are wanted, when detecting; None for what the model
    says itself."""

    @property
    def training(self) -> bool:
        return self.num_objects is not None


def make_image(height: int, width: int) -> Tensor:
    """The same noise every time: (3, height, width) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def make_objects(image_size: tuple[int, int], num_objects: int, num_classes: int) -> Instances:
    """The same objects every time, anywhere in the image and clipped to it.

    Args:
        image_size (tuple[int, int]): height and width.
        num_objects (int): how many.
        num_classes (int): how many kinds there are.

    Returns:
        Instances: with "gt_boxes" and "gt_classes".
    """
    generator = torch.Generator().manual_seed(0)
    sides = torch.empty(num_objects, 2).uniform_(*LOG_SIDES, generator=generator).exp()
    height, width = image_size
    centres = torch.rand(num_objects, 2, generator=generator) * torch.tensor([width, height])
    boxes = Boxes(torch.cat([centres - sides / 2, centres + sides / 2], dim=1))
    boxes.clip(image_size)
    classes = torch.randint(num_classes, (num_objects,), generator=generator)
    return Instances(image_size, gt_boxes=boxes, gt_classes=classes)


@torch.no_grad()
def build_timed_model(cfg: CfgNode, image: Tensor) -> nn.Module:
    """A model in eval mode; without ``MODEL.WEIGHTS`` it is random, and its input is scaled.

    Raises:
        TypeError: if the model has no anchors.
        FileNotFoundError, ValueError: if there are no such weights, or nothing in them fits.
    """
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    strategy = get_anchor_strategy(model)
    if cfg.MODEL.WEIGHTS:
        AtomicCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    else:
        features = strategy.features(strategy.preprocess(image))
        model.pixel_std *= features[0].std() / FEATURE_SCALE
    return model


def make_input(model: nn.Module, workload: Workload) -> dict:
    """What a model takes for one image.

    Raises:
        ValueError: if the model learns from more than boxes and classes.
    """
    image = make_image(*workload.image_size)
    if not workload.training:
        return {"image": image}
    detector = getattr(model, "roi_heads", model)
    if getattr(detector, "mask_on", False) or getattr(detector, "keypoint_on", False):
        raise ValueError(
            "The made objects to learn from have no masks and no keypoints. Add MODEL.MASK_ON "
            "False MODEL.KEYPOINT_ON False."
        )
    num_classes = getattr(detector, "num_classes", 1)
    objects = make_objects(workload.image_size, workload.num_objects, num_classes)
    return {"image": image, "instances": objects}


def run(model: nn.Module, model_input: dict) -> Instances | None:
    """What the model finds in the image; in train mode None, after a forward and backward pass."""
    if model.training:
        model.zero_grad()
        sum(learn(model, model_input).values()).backward()
        return None
    return detect(model, model_input)


def learn(model: nn.Module, model_input: dict) -> dict[str, Tensor]:
    """The losses."""
    with EventStorage():
        return model([model_input])


@torch.no_grad()
def detect(model: nn.Module, model_input: dict) -> Instances:
    """Detections or proposals."""
    (found,) = model([model_input])[0].values()  # called "instances" or "proposals"
    return found
