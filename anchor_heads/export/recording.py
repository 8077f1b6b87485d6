"""A model whose operations can be recorded: an image in, boxes, scores and classes out.

Detectron2's own code is recorded as it stands, but for the few lines whose course depends on the
numbers they compute with. :func:`recordable` has operators for these, and is the only place that
replaces anything in Detectron2 or torchvision, while a model is being recorded.
"""

import math
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from unittest import mock

import torch
import torch.nn.functional as F
import torchvision
from detectron2.export.torchscript_patch import patch_builtin_len
from detectron2.layers import Conv2d, FrozenBatchNorm2d
from detectron2.modeling import poolers
from detectron2.structures import Boxes, ImageList
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_weights
from torch.overrides import TorchFunctionMode

from anchor_heads._private import keep_proposals_by_mask


class Recordable(nn.Module):
    """A detector of one image, with tensors as input and output."""

    def __init__(self, model: nn.Module, resize: tuple[int, int] | None = None, bf16: bool = False):
        """
        Args:
            model (nn.Module): a dense detector or GeneralizedRCNN.
            resize (tuple[int, int] or None): resize the image so that its short side has the first
                number of pixels, and its long side at most the second one; None to take it as it
                is.
            bf16 (bool): compute in bfloat16 what autocast does.
        """
        super().__init__()
        self.model = model
        self.resize = resize
        self.bf16 = bf16
        self.eval()

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """
        Args:
            image (Tensor): (C, height, width), uint8 or float32, in the model's channel order.

        Returns:
            Tensor: (n, 4) float32 boxes in pixels of the image, the best first.
            Tensor: (n,) float32 scores.
            Tensor: (n,) int64 classes.
        """
        height, width = image.shape[-2:]
        if self.resize:
            image = resize_shortest_edge(image, *self.resize)
        autocast = nullcontext()
        if self.bf16:
            autocast = torch.autocast("cpu", torch.bfloat16, cache_enabled=False)
        with autocast, _AllFinite():
            output = self.model([{"image": image, "height": height, "width": width}])[0]
        instances = output["instances"]
        return instances.pred_boxes.tensor, instances.scores.float(), instances.pred_classes


@contextmanager
def recordable(
    model: nn.Module, nms: Callable | None = None, plain: bool = False
) -> Iterator[None]:
    """Inside, the operations of a model can be recorded for images of any height and width.

    Args:
        model (nn.Module): a dense detector or GeneralizedRCNN.
        nms (callable or None): takes the place of :func:`nms_by_class`.
        plain (bool): record a deformable convolution as :func:`plain_deform_conv2d`.
    """
    replaced = [
        # Asks for the number of boxes.
        (Boxes, "__init__", _set_boxes),
        # Computes sizes in tensors.
        (type(model), "preprocess_image", _preprocess_image),
        # Makes a tensor of the number of boxes.
        (poolers, "convert_boxes_to_pooler_format", _boxes_of_first_image),
        # Chooses an implementation by the number of boxes. All NMS of Detectron2 looks it up here.
        (torchvision.ops.boxes, "batched_nms", nms or nms_by_class),
    ]
    if plain:
        replaced.append((torchvision.ops, "deform_conv2d", plain_deform_conv2d))
    if timm_conv := sys.modules.get("timm.layers.conv2d_same"):
        # Computes the padding from the size.
        replaced.append((timm_conv, "pad_same", pad_same))
    with ExitStack() as stack:
        # len() turns a size that is recorded into a number.
        stack.enter_context(patch_builtin_len(["detectron2.structures.instances"]))
        stack.enter_context(keep_proposals_by_mask())
        for owner, name, replacement in replaced:
            stack.enter_context(mock.patch.object(owner, name, replacement))
        yield


def fold_batch_norms(model: nn.Module) -> None:
    """Make batch norms with fixed statistics part of the convolutions before them, in place.

    Args:
        model (nn.Module): in evaluation mode; it cannot be trained afterwards.
    """
    for conv in model.modules():
        if isinstance(conv, Conv2d) and isinstance(conv.norm, (FrozenBatchNorm2d, nn.BatchNorm2d)):
            norm = conv.norm
            statistics = norm.running_mean, norm.running_var, norm.eps, norm.weight, norm.bias
            conv.weight, conv.bias = fuse_conv_bn_weights(conv.weight, conv.bias, *statistics)
            conv.norm = None


def pad_same(
    x: Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    dilation: Sequence[int] = (1, 1),
    value: float = 0,
) -> Tensor:
    """TensorFlow's padding of features, as timm's function of this name, for sizes that the stride
    divides. All features of an FPN's backbone have such sizes, for images are padded.

    Args:
        x (Tensor): (n, C, height, width).
        kernel_size, stride, dilation (sequence[int]): of the convolution, along y and x.
        value (float): of the padding.
    """
    totals = [
        max(d * (k - 1) + 1 - s, 0) for k, s, d in zip(kernel_size, stride, dilation, strict=True)
    ]
    (top, bottom), (left, right) = ((total // 2, total - total // 2) for total in totals)
    return F.pad(x, (left, right, top, bottom), value=value)


def nms_by_class(boxes: Tensor, scores: Tensor, classes: Tensor, iou_threshold: float) -> Tensor:
    """NMS among the boxes of the same class.

    The classes are moved so far apart that no boxes of two of them overlap, in float64, which
    rounds no box.

    Args:
        boxes (Tensor): (n, 4).
        scores (Tensor): (n,).
        classes (Tensor): (n,) int64.
        iou_threshold (float): of two boxes that overlap more, the better one is kept.

    Returns:
        Tensor: int64 indices of the boxes that are kept, the best first.
    """
    boxes = boxes.double()
    largest = F.pad(boxes.flatten(), (0, 1)).abs().amax()  # padded: there may be no boxes
    offsets = classes.double() * (2 * largest + 1)
    # torchvision tells torch.export that NMS keeps at least two boxes. So there are two more,
    # which overlap nothing and come last.
    apart = boxes.new_tensor([[-3, -3, -2, -2], [-6, -6, -5, -5]]) * (largest + 1)
    boxes = torch.cat([boxes + offsets[:, None], apart])
    scores = F.pad(scores.double(), (0, len(apart)), value=-math.inf)
    return torchvision.ops.nms(boxes, scores, iou_threshold)[: -len(apart)]


def plain_deform_conv2d(
    input: Tensor,
    offset: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    padding: tuple[int, int] = (0, 0),
    mask: Tensor | None = None,
) -> Tensor:
    """Torchvision's deformable convolution of one image, with stride 1 and a result of the size of
    the input, by the bilinear sampling of images that any runtime has."""
    kernel, channels = weight.shape[2:], input.shape[1]
    taps = kernel[0] * kernel[1]
    groups = offset.shape[1] // (2 * taps)
    height, width = input.shape[2:]
    offset = offset.view(groups, taps, 2, height, width)
    rows, columns = (
        torch.arange(size, device=input.device, dtype=input.dtype) for size in (height, width)
    )
    tap = torch.arange(taps, device=input.device)
    y = offset[:, :, 0] + rows[:, None] + (tap // kernel[1] - padding[0])[:, None, None]
    x = offset[:, :, 1] + columns + (tap % kernel[1] - padding[1])[:, None, None]
    # grid_sample has the borders of the map at -1 and 1; cells are points in the middle of squares.
    grid = torch.stack([(2 * x + 1) / width - 1, (2 * y + 1) / height - 1], dim=-1)
    samples = F.grid_sample(
        input.view(groups, channels // groups, height, width),
        grid.view(groups, taps * height, width, 2),
        align_corners=False,
    ).view(groups, channels // groups, taps, height, width)
    if mask is not None:
        samples = samples * mask.view(groups, 1, taps, height, width)
    matrix = weight.reshape(len(weight), channels * taps, 1, 1)
    return F.conv2d(samples.reshape(1, channels * taps, height, width), matrix, bias)


def resize_shortest_edge(image: Tensor, short_side: int, max_side: int) -> Tensor:
    """Resize as Detectron2's ``ResizeShortestEdge`` does, up to the rounding of pixels.

    Args:
        image (Tensor): (C, height, width), of pixels from 0 to 255.
        short_side, max_side (int): of the result; the short side is shorter where the long one
            would be over ``max_side``.

    Returns:
        Tensor: (C, height, width) float32, of whole numbers.
    """
    height, width = image.shape[-2:]
    short, long = _least(height, width), -_least(-height, -width)
    # The side times short_side / short or max_side / long, whichever is less, rounded.
    size = [
        _least(
            (2 * side * short_side + short) // (2 * short),
            (2 * side * max_side + long) // (2 * long),
        )
        for side in (height, width)
    ]
    resized = F.interpolate(image[None].float(), size, mode="bilinear", antialias=True)[0]
    return (resized + 0.5).floor().clamp(0, 255)


def _least(a, b):
    """Of two sizes, which are tensors in a trace."""
    return torch.minimum(a, b) if isinstance(a, Tensor) else min(a, b)


class _AllFinite(TorchFunctionMode):
    """Detectron2 asks ``mask.all()`` whether all predictions are finite, and drops those that are
    not. A recorded model cannot ask: the answer is yes."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if func is Tensor.all and len(args) == 1 and not kwargs:
            return True
        return func(*args, **kwargs or {})


def _set_boxes(self, tensor):
    self.tensor = tensor.to(torch.float32)


def _preprocess_image(self, batched_inputs):
    image = (batched_inputs[0]["image"] - self.pixel_mean) / self.pixel_std
    height, width = image.shape[-2:]
    divisor = max(self.backbone.size_divisibility, 1)
    padded = F.pad(image, (0, -width % divisor, 0, -height % divisor))
    return ImageList(padded[None], [(height, width)])


def _boxes_of_first_image(box_lists):
    return F.pad(box_lists[0].tensor, (1, 0))
