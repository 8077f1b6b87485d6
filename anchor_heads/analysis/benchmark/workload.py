"""What the models do while they are measured."""

from contextlib import AbstractContextManager, nullcontext
from functools import cache, partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from detectron2.config import CfgNode
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from torch import Tensor, nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.engine.checkpoint import AtomicCheckpointer

FEATURE_SCALE = 10.0
# Sides of the objects, logarithms of pixels: 20 to 245.
LOG_SIDES = (3.0, 5.5)
# About the side of a blob of kept locations; larger ones where many are kept.
BLOB_SIDE = 5


class Workload(NamedTuple):
    """Inference on a batch of images, or a training step."""

    image_size: tuple[int, int]
    """Height and width in pixels."""
    batch_size: int = 1
    dtype: str = "float32"
    """Of autocast: "float32" for none, "bfloat16" or "float16"."""
    objects: int | None = None
    """In each image that is trained on; None for inference."""
    kept: float | None = None
    """The share of the locations that a model keeps in inference, if it predicts which; None for
    those that it predicts."""

    @property
    def training(self) -> bool:
        return self.objects is not None


def make_image(height: int, width: int) -> Tensor:
    """The same noise every time: (3, height, width) uint8."""
    generator = torch.Generator().manual_seed(0)
    return torch.randint(256, (3, height, width), dtype=torch.uint8, generator=generator)


def make_objects(image_size: tuple[int, int], number: int, num_classes: int) -> Instances:
    """The same objects every time, anywhere in the image and clipped to it, with "gt_boxes" and
    "gt_classes"."""
    generator = torch.Generator().manual_seed(0)
    sides = torch.empty(number, 2).uniform_(*LOG_SIDES, generator=generator).exp()
    centers = torch.rand(number, 2, generator=generator) * torch.tensor(image_size[::-1])
    boxes = Boxes(torch.cat([centers - sides / 2, centers + sides / 2], dim=1))
    boxes.clip(image_size)
    classes = torch.randint(num_classes, (number,), generator=generator)
    return Instances(image_size, gt_boxes=boxes, gt_classes=classes)


def make_batch(model: nn.Module, workload: Workload) -> list[dict]:
    """What a model takes, in Detectron2's format."""
    inputs = {"image": make_image(*workload.image_size)}
    if workload.training:
        is_rcnn = isinstance(model, GeneralizedRCNN)
        num_classes = (model.roi_heads if is_rcnn else get_anchor_strategy(model)).num_classes
        inputs["instances"] = make_objects(workload.image_size, workload.objects, num_classes)
    return [inputs] * workload.batch_size


def blobs(size: tuple[int, int], share: float) -> Tensor:
    """A map of kept locations, in blobs: where smoothed noise is highest.

    Args:
        size (tuple[int, int]): H, W.
        share (float): in (0, 1]; round(share * H * W) locations are kept, at least 1.

    Returns:
        Tensor: (H, W) bool, the same every time.
    """
    noise = torch.rand(1, *size, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        noise = F.avg_pool2d(noise, BLOB_SIDE, 1, BLOB_SIDE // 2, count_include_pad=False)
    kept = torch.zeros(noise.numel(), dtype=torch.bool)
    kept[noise.flatten().topk(max(1, round(share * len(kept)))).indices] = True
    return kept.view(size)


def kept_locations(model: nn.Module, workload: Workload) -> AbstractContextManager[None]:
    """A context in which a model that predicts its locations keeps the workload's share of them."""
    if workload.kept is None:
        return nullcontext()
    mask = cache(partial(blobs, share=workload.kept))
    return get_anchor_strategy(model).kept_locations(mask)


@torch.no_grad()
def build_measured_model(cfg: CfgNode, image_size: tuple[int, int]) -> nn.Module:
    """A model in eval mode; without ``MODEL.WEIGHTS`` it is random, and its input is scaled.

    Raises:
        TypeError: if the model has no anchor strategy.
        FileNotFoundError, ValueError: if there are no such weights, or nothing in them fits.
    """
    torch.manual_seed(0)
    model = build_model(cfg).eval()
    strategy = get_anchor_strategy(model)
    if cfg.MODEL.WEIGHTS:
        AtomicCheckpointer(model).load(cfg.MODEL.WEIGHTS)
    else:
        features = strategy.features(strategy.preprocess(make_image(*image_size)))
        model.pixel_std *= features[0].std() / FEATURE_SCALE
    return model


def forward(model: nn.Module, batch: list[dict], dtype: str):
    """Losses in train mode, else detections or proposals."""
    autocast = torch.autocast(model.device.type, getattr(torch, dtype), enabled=dtype != "float32")
    with autocast, EventStorage(), torch.set_grad_enabled(model.training):
        return model(batch)


def run(model: nn.Module, batch: list[dict], dtype: str = "float32"):
    """Predict, or in train mode do a forward and a backward pass."""
    output = forward(model, batch, dtype)
    if model.training:
        model.zero_grad()
        sum(output.values()).backward()
    return output
