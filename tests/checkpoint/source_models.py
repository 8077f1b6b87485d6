"""Networks with the keys of published weights, made of torchvision's modules.

Names and conventions are typed here from the published codes, not taken from the package. A
backbone also computes: its features are what the converted weights have to give.
"""

from collections import OrderedDict

import torch
import torch.nn.functional as F
from torch import nn
from torchvision.models.resnet import Bottleneck, ResNet

BLOCKS = {50: [3, 4, 6, 3], 101: [3, 4, 23, 3]}
STAGE_CHANNELS = (256, 512, 1024, 2048)
LEVELS = 5


def named(**modules):
    return nn.ModuleDict(modules)


def conv(in_channels, out_channels, size=1, **kwargs):
    return nn.Conv2d(in_channels, out_channels, size, padding=size // 2, **kwargs)


# --- ResNet ---


def resnet(depth=50, groups=1, width=64, stride_in_1x1=True):
    """torchvision's, whose stride is in the 3x3 convolution, or with it in the first 1x1."""
    net = ResNet(Bottleneck, BLOCKS[depth], groups=groups, width_per_group=width)
    for stage in (net.layer2, net.layer3, net.layer4) if stride_in_1x1 else ():
        stage[0].conv1.stride, stage[0].conv2.stride = (2, 2), (1, 1)
    return net


def stages(net, stem, x):
    """Outputs of the four stages."""
    x = F.max_pool2d(F.relu(stem.bn1(stem.conv1(x))), 3, stride=2, padding=1)
    features = []
    for i in range(1, 5):
        x = net[f"layer{i}"](x)
        features.append(x)
    return features


def make_up_statistics(module):
    """Batch norms as of a trained model: far from those of a fresh one."""
    for norm in module.modules():
        if isinstance(norm, (nn.BatchNorm2d, FrozenBatchNorm)):
            nn.init.uniform_(norm.running_mean, -0.1, 0.1)
            # Small enough for the eps to matter.
            nn.init.uniform_(norm.running_var, 1e-4, 2e-4)
            nn.init.uniform_(norm.weight, 0.005, 0.01)
            nn.init.uniform_(norm.bias, -0.1, 0.1)


# --- FPN ---


def add_top_down(laterals):
    """From coarse to fine, each level gets the coarser one, enlarged to its size."""
    levels = laterals[-1:]
    for lateral in laterals[-2::-1]:
        levels.insert(0, lateral + F.interpolate(levels[0], size=lateral.shape[-2:]))
    return levels


class MMDetection(nn.Module):
    """Backbone, neck and heads of mmdetection, or of the Dynamic Anchor fork."""

    def __init__(self, backbone, channels, heads, p6_input="", p7_relu=False):
        """
        Args:
            heads (dict): name -> module.
            p6_input (str): "" = P2 to P5 and a pooled P6; else P3 to P7, and P6 is from "res5" or
                "p5".
        """
        super().__init__()
        self.backbone = backbone
        self.p6_input, self.p7_relu = p6_input, p7_relu
        inputs = STAGE_CHANNELS[1:] if p6_input else STAGE_CHANNELS
        lateral = [named(conv=conv(c, channels)) for c in inputs]
        fpn = [named(conv=conv(channels, channels, 3)) for _ in inputs]
        if p6_input:
            p6_channels = 2048 if p6_input == "res5" else channels
            for c in (p6_channels, channels):
                fpn.append(named(conv=conv(c, channels, 3, stride=2)))
        self.neck = named(lateral_convs=nn.ModuleList(lateral), fpn_convs=nn.ModuleList(fpn))
        for name, head in heads.items():
            setattr(self, name, head)

    def forward(self, x):
        """The five features of the neck."""
        net = self.backbone
        c = stages(net._modules, net, x)[1 if self.p6_input else 0 :]
        fpn = [x.conv for x in self.neck.fpn_convs]
        laterals = [x.conv(c_i) for x, c_i in zip(self.neck.lateral_convs, c, strict=True)]
        p = [f(x) for f, x in zip(fpn, add_top_down(laterals), strict=False)]
        if not self.p6_input:
            return [*p, F.max_pool2d(p[-1], 1, stride=2)]
        p6 = fpn[3](c[-1] if self.p6_input == "res5" else p[-1])
        return [*p, p6, fpn[4](F.relu(p6) if self.p7_relu else p6)]


class FrozenBatchNorm(nn.Module):
    """That of maskrcnn-benchmark, which divides by sqrt(running_var) with no eps."""

    def __init__(self, norm):
        super().__init__()
        for name in ("weight", "bias", "running_mean", "running_var"):
            self.register_buffer(name, getattr(norm, name).detach().clone())

    def forward(self, x):
        scale = self.weight / self.running_var.sqrt()
        shift = self.bias - self.running_mean * scale
        return x * scale[:, None, None] + shift[:, None, None]


def freeze(module):
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d):
            setattr(module, name, FrozenBatchNorm(child))
        else:
            freeze(child)


class MaskRCNNBenchmark(nn.Module):
    """Backbone and RetinaNet head of maskrcnn-benchmark, as FreeAnchor has them."""

    def __init__(self, net, channels, head):
        super().__init__()
        freeze(net)
        layers = {f"layer{i}": net._modules[f"layer{i}"] for i in range(1, 5)}
        fpn = {}
        for i, c in enumerate(STAGE_CHANNELS[1:], start=2):
            fpn[f"fpn_inner{i}"] = conv(c, channels)
            fpn[f"fpn_layer{i}"] = conv(channels, channels, 3)
        fpn["top_blocks"] = named(
            p6=conv(channels, channels, 3, stride=2), p7=conv(channels, channels, 3, stride=2)
        )
        self.backbone = named(
            body=named(stem=named(conv1=net.conv1, bn1=net.bn1), **layers), fpn=named(**fpn)
        )
        anchors = nn.ParameterList(torch.zeros(9, 4) for _ in range(LEVELS))
        self.rpn = named(head=head, anchor_generator=named(cell_anchors=anchors))

    def forward(self, x):
        """The five features of the FPN."""
        body, fpn = self.backbone.body, self.backbone.fpn
        c = stages(body, body.stem, x)[1:]
        laterals = [fpn[f"fpn_inner{i}"](c_i) for i, c_i in enumerate(c, start=2)]
        p = [fpn[f"fpn_layer{i}"](x) for i, x in enumerate(add_top_down(laterals), start=2)]
        p6 = fpn.top_blocks.p6(p[-1])
        return [*p, p6, fpn.top_blocks.p7(F.relu(p6))]


# --- heads: names and shapes ---


def feature_adaption(channels):
    return named(
        conv_offset=conv(2, 72, bias=False), conv_adaption=conv(channels, channels, 3, bias=False)
    )


def ga_rpn_head(channels=256):
    return named(
        rpn_conv=conv(channels, channels, 3),
        conv_loc=conv(channels, 1),
        conv_shape=conv(channels, 2),
        feature_adaption=feature_adaption(channels),
        conv_cls=conv(channels, 1),
        conv_reg=conv(channels, 4),
    )


def box_head(classes=80, deltas=80, channels=256, fc=1024):
    """``classes`` without the background; ``deltas``: boxes that each RoI gets."""
    return named(
        shared_fcs=nn.ModuleList([nn.Linear(channels * 49, fc), nn.Linear(fc, fc)]),
        fc_cls=nn.Linear(fc, classes + 1),
        fc_reg=nn.Linear(fc, 4 * deltas),
    )


def tower(channels, convs):
    return nn.ModuleList(named(conv=conv(channels, channels, 3)) for _ in range(convs))


def ga_retinanet_head(channels=256, classes=80, convs=4):
    return named(
        cls_convs=tower(channels, convs),
        reg_convs=tower(channels, convs),
        conv_loc=conv(channels, 1),
        conv_shape=conv(channels, 2),
        feature_adaption_cls=feature_adaption(channels),
        feature_adaption_reg=feature_adaption(channels),
        retina_cls=conv(channels, classes, 3),
        retina_reg=conv(channels, 4, 3),
    )


class DeformConv(nn.Conv2d):
    """Names only."""

    def __init__(self, channels):
        super().__init__(channels, channels, 3)
        self.conv_offset = conv(channels, 27, 3)


class Scale(nn.Module):
    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))


def da_retinanet_head(channels=256, classes=80):
    convs = [conv(channels, channels, 3) for _ in range(3)] + [DeformConv(channels)]
    return named(
        anchor_convs=nn.ModuleList(named(conv=x, gn=nn.GroupNorm(32, channels)) for x in convs),
        conv_anchor=conv(channels, 2, 3),
        feature_attention=feature_adaption(channels),
        fusion_conv_x=conv(channels, channels // 2),
        fusion_conv_y=conv(channels, channels // 2),
        fusion=conv(channels, channels),
        conv_cls=conv(channels, classes, 3),
        conv_reg=conv(channels, 4, 3),
        conv_quality=conv(channels, 1, 3),
        scales=nn.ModuleList(Scale() for _ in range(LEVELS)),
    )


def free_anchor_head(channels=256, classes=80):
    def layers():
        convs = [(str(2 * i), conv(channels, channels, 3)) for i in range(4)]
        return nn.ModuleDict(OrderedDict(convs))

    return named(
        cls_tower=layers(),
        bbox_tower=layers(),
        cls_logits=conv(channels, 9 * classes, 3),
        bbox_pred=conv(channels, 36, 3),
    )


# --- whole models ---


def source_model(method, channels=256, head=None, heads=None, **backbone):
    """The network of one of the published models.

    Args:
        method (str): "ga_rpn", "ga_faster_rcnn", "ga_retinanet", "da_retinanet", "free_anchor".
        head (module): instead of the published size's.
        heads (dict): further heads.
        backbone: see :func:`resnet`.
    """
    net = resnet(**backbone)
    if method == "free_anchor":
        return MaskRCNNBenchmark(net, channels, head or free_anchor_head(channels))
    if method in ("ga_rpn", "ga_faster_rcnn"):
        head = head or ga_rpn_head(channels)
        more = {"roi_head": named(bbox_head=box_head())} if method == "ga_faster_rcnn" else {}
        net.fc = nn.Identity()
        return MMDetection(net, channels, {"rpn_head": head, **more, **(heads or {})})
    net.fc = nn.Identity()
    if method == "ga_retinanet":
        head = head or ga_retinanet_head(channels)
        return MMDetection(net, channels, {"bbox_head": head}, p6_input="res5")
    head = head or da_retinanet_head(channels)
    return MMDetection(net, channels, {"bbox_head": head}, p6_input="p5", p7_relu=True)


def weightless(method, **kwargs):
    """Weights of full size that take no memory: each tensor is one zero, repeated."""
    with torch.device("meta"):
        shapes = {
            key: (x.shape, x.dtype)
            for key, x in source_model(method, **kwargs).state_dict().items()
        }
    return {key: torch.zeros((), dtype=d).expand(shape) for key, (shape, d) in shapes.items()}
