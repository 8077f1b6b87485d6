"""FPNs on timm's image models.

Their features have the names of the ResNet stages of the same stride, "res2" (4) to "res5" (32), so
that a timm model takes the place of a ResNet in every config.
"""

import os

import torch
from detectron2.config import CfgNode
from detectron2.layers import ShapeSpec
from detectron2.modeling import BACKBONE_REGISTRY, FPN, Backbone
from torch import nn

from anchor_heads.errors import first_line
from anchor_heads.modeling.backbone import build_fpn_p6, build_fpn_p6p7

__all__ = [
    "TimmBackbone",
    "add_timm_config",
    "build_timm_fpn_p6_backbone",
    "build_timm_fpn_p6p7_backbone",
    "is_pretrained_by_timm",
    "is_timm",
]

# Pixel means and deviations may differ from timm's record by so much, of 255: the same weights are
# published with the mean 127 and with 127.5.
PIXEL_TOLERANCE = 1.0
STAGE_OF_STRIDE = {4: "res2", 8: "res3", 16: "res4", 32: "res5"}


def add_timm_config(cfg: CfgNode) -> None:
    """Add ``MODEL.TIMM``, for the backbones ``build_timm_fpn_p6_backbone`` and
    ``build_timm_fpn_p6p7_backbone``. ``MODEL.BACKBONE.FREEZE_AT`` and ``MODEL.FPN`` are for them as
    for ResNets; ``MODEL.FPN.IN_FEATURES`` calls the feature of stride 4 "res2", that of 8 "res3",
    and so on."""
    node = cfg.MODEL.TIMM = CfgNode()
    # Name of a model of timm that has features_only.
    node.NAME = "tf_efficientnet_lite0"
    # Whether to start from timm's pre-trained weights, which timm downloads. With MODEL.WEIGHTS the
    # backbone's weights come from there.
    node.PRETRAINED = True
    # A file of such weights, in timm's names, to use instead of the download. "" = download.
    node.CHECKPOINT = ""
    # Indices into timm's list of features, of those to use. Empty = the strides 4, 8, 16 and 32.
    node.OUT_INDICES = []
    # Stochastic depth.
    node.DROP_PATH_RATE = 0.0
    # Whether batch norms keep the statistics that they start with, in training too.
    node.NORM_EVAL = True


class TimmBackbone(Backbone):
    """The stages of a timm model, as (N, C, H, W) features "res2" to "res5"."""

    def __init__(self, net: nn.Module, *, freeze_at: int, norm_eval: bool):
        """
        Args:
            net (nn.Module): of ``timm.create_model(..., features_only=True)``.
            freeze_at (int): 0 freezes nothing, 1 the stem, 2 also the stage of stride 4, and so on,
                as ``MODEL.BACKBONE.FREEZE_AT`` for ResNets.
            norm_eval (bool): whether all batch norms stay in evaluation mode.

        Raises:
            ValueError: if the features have not one of the strides 4, 8, 16 and 32 each.
        """
        super().__init__()
        # Only timm's FeatureListNet may return channels last.
        from timm.models import FeatureListNet

        self.net = net
        self.norm_eval = norm_eval
        self.channels_last = isinstance(net, FeatureListNet) and net.output_fmt == "NHWC"
        info = net.feature_info
        strides = info.reduction()
        self.stages = [STAGE_OF_STRIDE.get(stride) for stride in strides]
        used = [stage for stage in self.stages if stage]
        if not used or len(set(used)) < len(used):
            raise ValueError(
                f"The features of MODEL.TIMM.NAME have the strides {strides}; an FPN needs each of "
                f"{list(STAGE_OF_STRIDE)} once at most. Choose with MODEL.TIMM.OUT_INDICES."
            )
        self._out_features = used
        self._out_feature_strides = dict(zip(self.stages, strides, strict=True))
        self._out_feature_channels = dict(zip(self.stages, info.channels(), strict=True))
        self._freeze(freeze_at)
        self.train()

    @property
    def size_divisibility(self) -> int:
        """The stride of the last stage."""
        return max(self._out_feature_strides[stage] for stage in self._out_features)

    def forward(self, x: torch.Tensor) -> dict[str, torch.Tensor]:
        """
        Args:
            x (Tensor): (N, 3, H, W), both sides multiples of :attr:`size_divisibility`.
        """
        # Depthwise convolutions take a third less time on a CPU where the channels are last.
        features = self.net(x.contiguous(memory_format=torch.channels_last))
        if self.channels_last:
            features = [feature.permute(0, 3, 1, 2) for feature in features]
        return {
            stage: feature.contiguous()
            for stage, feature in zip(self.stages, features, strict=True)
            if stage
        }

    def train(self, mode: bool = True):
        """Same as any module's, but batch norms whose statistics are fixed stay in evaluation."""
        super().train(mode)
        for module in self.modules():
            if isinstance(module, nn.modules.batchnorm._BatchNorm):
                fixed = self.norm_eval or not module.weight.requires_grad
                module.train(mode and not fixed)
        return self

    def _freeze(self, freeze_at):
        if freeze_at < 1:
            return
        # timm registers parameters in the order in which the input passes them.
        names = [name.replace(".", "_") for name, _ in self.net.named_parameters()]
        # Of all features, also those that are not used; timm does not build the last of these.
        module_of_stride = {
            feature["reduction"]: feature["module"]
            for feature in self.net.feature_info.info
            if any(_is_in(name, feature["module"]) for name in names)
        }
        if frozen := [stride for stride in module_of_stride if 4 <= stride <= 2**freeze_at]:
            last = module_of_stride[max(frozen)]
            count = 1 + max(i for i, name in enumerate(names) if _is_in(name, last))
        else:  # the stem, which is all before the first stage
            first = module_of_stride[min(s for s in module_of_stride if s >= 4)]
            count = min(i for i, name in enumerate(names) if _is_in(name, first))
        for parameter in list(self.net.parameters())[:count]:
            parameter.requires_grad = False


def _is_in(parameter: str, module: str) -> bool:
    return parameter.startswith(module.replace(".", "_") + "_")


def is_timm(cfg: CfgNode) -> bool:
    """Whether the backbone of a config is a timm model."""
    builders = (build_timm_fpn_p6_backbone.__name__, build_timm_fpn_p6p7_backbone.__name__)
    return cfg.MODEL.BACKBONE.NAME in builders


def is_pretrained_by_timm(cfg: CfgNode) -> bool:
    """Whether the backbone of a config is a timm model that starts from its own weights."""
    return is_timm(cfg) and bool(cfg.MODEL.TIMM.PRETRAINED or cfg.MODEL.TIMM.CHECKPOINT)


def build_timm_backbone(cfg: CfgNode) -> TimmBackbone:
    """Build the model of ``MODEL.TIMM`` with its weights.

    Raises:
        ModuleNotFoundError: if timm is not installed.
        ValueError: if timm has no such model, the weights do not fit it, or the pixels of the
            config are not those that its weights were trained with.
        FileNotFoundError: if its weights cannot be had.
    """
    try:
        import timm
    except ModuleNotFoundError:
        raise ModuleNotFoundError(
            "MODEL.BACKBONE.NAME needs timm: pip install timm, or this package with its extra: "
            "pip install anchor-heads[timm]"
        ) from None
    node = cfg.MODEL.TIMM
    if not timm.is_model(node.NAME):
        similar = timm.list_models(f"*{node.NAME.split('_')[0]}*")[:5]
        hint = f" Similar names: {', '.join(similar)}." if similar else ""
        raise ValueError(f"MODEL.TIMM.NAME is {node.NAME}, which timm does not have.{hint}")
    record = timm.get_pretrained_cfg(node.NAME)
    pretrained = is_pretrained_by_timm(cfg)
    if pretrained:
        check_pixels(cfg, record)
    kwargs = {}  # only those that every model takes, or this one needs
    if record.fixed_input_size:  # windows of attention: timm pads the images to whole ones
        kwargs["strict_img_size"] = False
    if node.OUT_INDICES:
        kwargs["out_indices"] = tuple(node.OUT_INDICES)
    if node.DROP_PATH_RATE:
        kwargs["drop_path_rate"] = node.DROP_PATH_RATE
    shapes_only = torch.get_default_device().type == "meta"
    if pretrained and not cfg.MODEL.WEIGHTS and not shapes_only:
        kwargs["pretrained"] = True
        if node.CHECKPOINT:
            kwargs["pretrained_cfg_overlay"] = {"file": _existing(node.CHECKPOINT)}
    try:
        net = timm.create_model(node.NAME, features_only=True, **kwargs)
    except (OSError, ImportError) as error:
        raise FileNotFoundError(
            f"The weights of timm's {node.NAME} cannot be downloaded "
            f"({first_line(error)}). Put {_source(record)} into a file and name it in "
            "MODEL.TIMM.CHECKPOINT, name a checkpoint of the whole model in MODEL.WEIGHTS, or "
            "train from scratch with MODEL.TIMM.PRETRAINED False."
        ) from None
    except (KeyError, RuntimeError, TypeError) as error:
        raise ValueError(
            f"MODEL.TIMM.NAME {node.NAME} cannot be built"
            f"{f' with the weights in {node.CHECKPOINT}' if node.CHECKPOINT else ''}: "
            f"{first_line(error)}"
        ) from error
    return TimmBackbone(net, freeze_at=cfg.MODEL.BACKBONE.FREEZE_AT, norm_eval=node.NORM_EVAL)


def check_pixels(cfg: CfgNode, record) -> None:
    """Check that the images are normalised as timm's record of a model says.

    Args:
        cfg (CfgNode): its ``MODEL.PIXEL_MEAN``, ``MODEL.PIXEL_STD`` and ``INPUT.FORMAT`` are looked
            at.
        record: timm's ``PretrainedCfg``.

    Raises:
        ValueError: if they are not; the message has the keys to write.
    """
    mean, std = ([round(255 * x, 3) for x in values] for values in (record.mean, record.std))
    differences = [
        abs(ours - theirs)
        for ours, theirs in zip(
            [*cfg.MODEL.PIXEL_MEAN, *cfg.MODEL.PIXEL_STD], [*mean, *std], strict=True
        )
    ]
    if cfg.INPUT.FORMAT != "RGB" or max(differences) > PIXEL_TOLERANCE:
        raise ValueError(
            f"The weights of timm's {cfg.MODEL.TIMM.NAME} are for other pixels. Write INPUT.FORMAT "
            f'RGB MODEL.PIXEL_MEAN "{mean}" MODEL.PIXEL_STD "{std}"'
        )


def _existing(file: str) -> str:
    if not os.path.isfile(file):
        raise FileNotFoundError(
            f"There is no file {os.path.abspath(file)}, which MODEL.TIMM.CHECKPOINT names."
        )
    return file


def _source(record) -> str:
    hub = f"model.safetensors of https://huggingface.co/{record.hf_hub_id}"
    return hub if record.hf_hub_id else record.url


@BACKBONE_REGISTRY.register()
def build_timm_fpn_p6_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN with levels P2 to P6 on a timm model; see :func:`build_timm_backbone`."""
    return build_fpn_p6(cfg, build_timm_backbone(cfg))


@BACKBONE_REGISTRY.register()
def build_timm_fpn_p6p7_backbone(cfg: CfgNode, input_shape: ShapeSpec) -> FPN:
    """Build an FPN with levels P3 to P7 on a timm model; see :func:`build_timm_backbone`."""
    return build_fpn_p6p7(cfg, build_timm_backbone(cfg))
