"""Parameters, multiply-adds and activations of a model, by part.

fvcore counts them, as in Detectron2's ``tools/analyze_model.py``. A multiply-add counts as one; for
norms and the resizing of maps fvcore has estimates per element. Not counted are elementwise
operations, pooling, the bilinear sampling of RoIAlign and of deformable convolutions, the decoding
of boxes, and NMS. Activations are the outputs of convolutions and matrix products. Parameters
include frozen ones; a FrozenBN has none.

The counts follow from the config and the image size alone, since what depends on scores is fixed:

- A model that keeps some locations only, by a prediction, keeps all of them, the most that it can.
- ROI heads get MODEL.RPN.POST_NMS_TOPK_TEST proposals, of precomputed ones
  DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST; mask and keypoint heads TEST.DETECTIONS_PER_IMAGE boxes,
  or as many as there are proposals where that is -1.

A deformable convolution counts as much as a plain one of its size. The convolution that makes its
offsets counts by itself.
"""

from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.export import TracingAdapter
from detectron2.modeling import FPN, GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from fvcore.nn import ActivationCountAnalysis, FlopCountAnalysis, parameter_count
from fvcore.nn.jit_handles import conv_flop_count, generic_activation_jit, get_shape
from tabulate import tabulate
from torch import nn

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

# The deformable convolutions that fvcore does not know, and which of their inputs is the weight.
# This package's on the CPU is not among them: it ends in a 1x1 convolution, which fvcore knows.
DEFORMABLE_CONVOLUTIONS = {
    "torchvision::deform_conv2d": 1,
    "prim::PythonOp._DeformConv": 2,  # Detectron2's
    "prim::PythonOp._ModulatedDeformConv": 3,
}


class Counts(NamedTuple):
    """What a model or a part of it has, and does for one image."""

    parameters: int
    multiply_adds: int
    activations: int


def analyze_model(cfg: CfgNode, image_size: tuple[int, int]) -> dict[str, Counts]:
    """Build a model and count what it has, and does for one image.

    Args:
        cfg (CfgNode): the model's config, with this package's keys. No weights are loaded.
        image_size (tuple[int, int]): height and width in pixels. The model pads the image as it
            does any other, and the padding counts.

    Returns:
        dict[str, Counts]: for each part that has parameters, by its name in the model: "backbone",
        and "head" or "proposal_generator" and "roi_heads". What an FPN adds to its backbone is
        apart, as "neck". The last entry is "total".

    Raises:
        ValueError: if the image has no pixels.
        NotImplementedError: if the model has a part that is not run to be counted.
    """
    if min(image_size) < 1:
        raise ValueError(
            f"The image size is {tuple(image_size)}: height and width must be at least 1."
        )
    model = build_random_model(cfg).eval()
    # The mean colour makes all features 0, so that no random weights let them overflow.
    image = torch.tensor(cfg.MODEL.PIXEL_MEAN)[:, None, None].expand(-1, *image_size)
    modules = _count_by_module(model, cfg, image)
    parts = {}
    for name, module in model.named_children():
        whole = modules[name]
        if isinstance(module, FPN):
            parts[name] = bottom_up = modules[f"{name}.bottom_up"]
            parts["neck"] = Counts(*(a - b for a, b in zip(whole, bottom_up, strict=True)))
        elif whole.parameters:
            parts[name] = whole
    idle = [name for name, part in parts.items() if not part.multiply_adds]
    if idle:
        raise NotImplementedError(
            f"{type(model).__name__} has parts that cannot be counted: {', '.join(idle)}. Use a "
            "one-stage model, ProposalNetwork or GeneralizedRCNN."
        )
    return parts | {"total": Counts(*map(sum, zip(*parts.values(), strict=True)))}


def build_random_model(cfg: CfgNode) -> nn.Module:
    """The model of a config with random weights, whatever weights the config names."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.TIMM.PRETRAINED, cfg.MODEL.TIMM.CHECKPOINT = False, ""
    return build_model(cfg)


def table(counts: dict[str, Counts]) -> str:
    """The results of :func:`analyze_model` as a Markdown table: parameters and activations in
    millions, multiply-adds in billions."""
    headers = ["part", "parameters, M", "multiply-adds, G", "activations, M"]
    rows = [
        [name, part.parameters / 1e6, part.multiply_adds / 1e9, part.activations / 1e6]
        for name, part in counts.items()
    ]
    return tabulate(rows, headers, tablefmt="pipe", floatfmt=".2f")


def _count_by_module(model, cfg, image) -> dict[str, Counts]:
    forward = partial(_forward, cfg=cfg)
    with _all_locations_kept(model):
        adapter = TracingAdapter(model, [{"image": image}], forward, allow_non_tensor=True)
        flops = FlopCountAnalysis(adapter, adapter.flattened_inputs)
        activations = ActivationCountAnalysis(adapter, adapter.flattened_inputs)
        for name, weight in DEFORMABLE_CONVOLUTIONS.items():
            flops.set_op_handle(name, partial(_convolution_flops, weight=weight))
            activations.set_op_handle(name, generic_activation_jit())
        for analysis in (flops, activations):
            # fvcore would list what the docstring above says is not counted.
            analysis.unsupported_ops_warnings(False).uncalled_modules_warnings(False)
            analysis.tracer_warnings("none").total()
        by_module = parameter_count(adapter), flops.by_module(), activations.by_module()
    return {
        name.removeprefix("model."): Counts(*(counts[name] for counts in by_module))
        for name in by_module[1]
    }


def _all_locations_kept(model) -> AbstractContextManager[None]:
    try:
        strategy = get_anchor_strategy(model)
    except TypeError:  # no anchors of its own
        return nullcontext()
    return strategy.kept_locations(partial(torch.ones, dtype=torch.bool))


def _convolution_flops(inputs, outputs, weight):
    return conv_flop_count(*map(get_shape, (inputs[0], inputs[weight], outputs[0])))


def _forward(model, inputs, cfg):
    """What a model does with an image. ROI heads get as many boxes as there can be, instead of
    those that are found; it changes no count that all of them are the same pixel."""
    if not isinstance(model, GeneralizedRCNN):
        return model(inputs)
    images = model.preprocess_image(inputs)
    features = model.backbone(images.tensor)
    num_proposals = cfg.DATASETS.PRECOMPUTED_PROPOSAL_TOPK_TEST
    if model.proposal_generator is not None:
        num_proposals = cfg.MODEL.RPN.POST_NMS_TOPK_TEST
        model.proposal_generator(images, features)
    size, box = images.image_sizes[0], images.tensor.new_tensor([[0.0, 0.0, 1.0, 1.0]])
    proposals = Instances(size, proposal_boxes=Boxes(box.repeat(num_proposals, 1)))
    model.roi_heads(images, features, [proposals])
    num_detections = cfg.TEST.DETECTIONS_PER_IMAGE
    if num_detections < 0:  # no limit
        num_detections = num_proposals
    detections = Instances(size, pred_boxes=Boxes(box.repeat(num_detections, 1)))
    detections.pred_classes = torch.zeros(len(detections), dtype=torch.int64, device=box.device)
    return model.roi_heads.forward_with_given_boxes(features, [detections])
