"""Guided Anchoring of mmdetection, and Dynamic Anchor of its authors' fork of it.

Keys and conventions are those of mmdetection 1.x (up to 0.5.3 where ``cls_convs`` are concerned)
and 2.x, and of github.com/LX-SZY/Dynamic-Anchor at commit ffa1724.
"""

from dataclasses import replace

import torch
from torch import Tensor

from anchor_heads.checkpoint.formats import Classes, Format
from anchor_heads.checkpoint.resnet import resnet_names


def background_last(x: Tensor) -> Tensor:
    """Move the background from the first to the last of the (K + 1, ...) outputs."""
    return torch.cat([x[1:], x[:1]])


def without_background(x: Tensor) -> Tensor:
    """Drop the deltas of the background, the first four of the (4 * (K + 1), ...) outputs.

    The four deltas of a class-agnostic head are kept.
    """
    return x if len(x) == 4 else x[4:].clone()


def fpn_names(first_level: int) -> dict[str, str]:
    """Names of an FPN with finest level P<first_level>; P6 and P7, if convolutions, follow P5."""
    names = {}
    for i, level in enumerate(range(first_level, 6)):
        names |= {
            rf"neck\.lateral_convs\.{i}\.conv\.(\w+)": rf"backbone.fpn_lateral{level}.\1",
            rf"neck\.fpn_convs\.{i}\.conv\.(\w+)": rf"backbone.fpn_output{level}.\1",
        }
    for level in (6, 7):
        theirs = rf"neck\.fpn_convs\.{level - first_level}\.conv\.(\w+)"
        names[theirs] = rf"backbone.top_block.p{level}.\1"
    return names


BACKBONE = resnet_names(source=r"backbone\.", stem="")

GA_RPN_HEAD = {
    r"rpn_head\.rpn_conv\.(\w+)": r"proposal_generator.rpn_head.conv.\1",
    r"rpn_head\.(conv_loc|conv_shape|feature_adaption)\.(.+)": r"proposal_generator.rpn_head.\1.\2",
    r"rpn_head\.conv_cls\.(\w+)": r"proposal_generator.rpn_head.objectness_logits.\1",
    r"rpn_head\.conv_reg\.(\w+)": r"proposal_generator.rpn_head.anchor_deltas.\1",
}

GA_RPN = Format(
    framework="mmdetection",
    model="GA-RPN",
    signature_keys=(r"rpn_head\.conv_loc\.weight", r"rpn_head\.feature_adaption\..+"),
    names=BACKBONE | fpn_names(2) | GA_RPN_HEAD,
    meta_architecture="ProposalNetwork",
    proposal_generator="GuidedAnchorRPN",
)


def box_head_names(source: str) -> dict[str, str]:
    """Names of a box head with two fully connected layers; ``source`` is the prefix of its keys."""
    return {
        rf"{source}shared_fcs\.0\.(\w+)": r"roi_heads.box_head.fc1.\1",
        rf"{source}shared_fcs\.1\.(\w+)": r"roi_heads.box_head.fc2.\1",
        rf"{source}fc_cls\.(\w+)": r"roi_heads.box_predictor.cls_score.\1",
        rf"{source}fc_reg\.(\w+)": r"roi_heads.box_predictor.bbox_pred.\1",
    }


GA_FASTER_RCNN = replace(
    GA_RPN,
    model="GA-Faster R-CNN",
    signature_keys=(*GA_RPN.signature_keys, r"roi_head\.bbox_head\.fc_cls\.weight"),
    names=GA_RPN.names | box_head_names(r"roi_head\.bbox_head\."),
    meta_architecture="GeneralizedRCNN",
    classes=Classes(
        "MODEL.ROI_HEADS.NUM_CLASSES", "roi_heads.box_predictor.cls_score.bias", background=1
    ),
)

GA_RETINANET_HEAD = {
    r"bbox_head\.(conv_loc|conv_shape|feature_adaption_cls|feature_adaption_reg)\.(.+)": (
        r"head.\1.\2"
    ),
    r"bbox_head\.retina_cls\.(\w+)": r"head.cls_score.\1",
    r"bbox_head\.retina_reg\.(\w+)": r"head.bbox_pred.\1",
}
for _i in range(4):  # Detectron2's towers have a ReLU after each
    GA_RETINANET_HEAD |= {
        rf"bbox_head\.cls_convs\.{_i}\.(?:conv\.)?(\w+)": rf"head.cls_subnet.{2 * _i}.\1",
        rf"bbox_head\.reg_convs\.{_i}\.(?:conv\.)?(\w+)": rf"head.bbox_subnet.{2 * _i}.\1",
    }

GA_RETINANET = Format(
    framework="mmdetection",
    model="GA-RetinaNet",
    signature_keys=(r"bbox_head\.conv_loc\.weight", r"bbox_head\.feature_adaption_cls\..+"),
    names=BACKBONE | fpn_names(3) | GA_RETINANET_HEAD,
    meta_architecture="GuidedAnchorRetinaNet",
    classes=Classes("MODEL.RETINANET.NUM_CLASSES", "head.cls_score.bias"),
)

DA_RETINANET = Format(
    framework="the Dynamic Anchor fork of mmdetection",
    model="DA-RetinaNet",
    signature_keys=(r"bbox_head\.conv_anchor\.weight", r"bbox_head\.feature_attention\..+"),
    names=BACKBONE
    | fpn_names(3)
    | {
        r"bbox_head\.anchor_convs\.(\d)\.gn\.(\w+)": r"head.anchor_convs.\1.norm.\2",
        r"bbox_head\.((?:anchor_convs\.\d\.conv|scales|feature_attention)\..+)": r"head.\1",
        r"bbox_head\.((?:fusion|fusion_conv_x|fusion_conv_y)\.\w+)": r"head.\1",
        r"bbox_head\.(conv_(?:anchor|cls|reg|quality)\.\w+)": r"head.\1",
    },
    meta_architecture="DynamicAnchorRetinaNet",
    classes=Classes("MODEL.RETINANET.NUM_CLASSES", "head.conv_cls.bias"),
)

# mmdetection 1.x also has other conventions at test time, see README.md.
MMDET_V1 = "mmdetection 1.x"
MMDET_V1_VERSIONS = ("0.", "1.")
MMDET_V1_NOTE = (
    "The boxes are those of mmdetection 2.x with these weights. For boxes close to those of 1.x, "
    "set MODEL.ANCHOR_GENERATOR.OFFSET 0.5, and with a caffe-style backbone "
    "MODEL.PIXEL_MEAN [102.9801,115.9465,122.7717]."
)
GA_RPN_1X = replace(GA_RPN, framework=MMDET_V1, versions=MMDET_V1_VERSIONS, note=MMDET_V1_NOTE)
GA_RETINANET_1X = replace(
    GA_RETINANET, framework=MMDET_V1, versions=MMDET_V1_VERSIONS, note=MMDET_V1_NOTE
)
GA_FASTER_RCNN_1X = replace(
    GA_FASTER_RCNN,
    framework=MMDET_V1,
    signature_keys=(*GA_RPN.signature_keys, r"bbox_head\.fc_cls\.weight"),
    names=GA_RPN.names | box_head_names(r"bbox_head\."),
    values={
        r"bbox_head\.fc_cls\.\w+": background_last,
        r"bbox_head\.fc_reg\.\w+": without_background,
    },
    note=f"{MMDET_V1_NOTE} Also set MODEL.ROI_BOX_HEAD.POOLER_TYPE ROIAlign, "
    "MODEL.ROI_BOX_HEAD.POOLER_SAMPLING_RATIO 2.",
)

# It has no proposal generator. Another model with these keys has further keys, which are unknown.
GA_FAST_RCNN_1X = replace(
    GA_FASTER_RCNN_1X,
    model="GA-Fast R-CNN",
    signature_keys=(r"bbox_head\.fc_cls\.weight", r"bbox_head\.shared_fcs\.1\.weight"),
    names=BACKBONE | fpn_names(2) | box_head_names(r"bbox_head\."),
    proposal_generator="PrecomputedProposals",
)

# The first that matches is used.
FORMATS = (
    GA_FASTER_RCNN,
    GA_FASTER_RCNN_1X,
    GA_RPN_1X,
    GA_RPN,
    GA_RETINANET_1X,
    GA_RETINANET,
    DA_RETINANET,
    GA_FAST_RCNN_1X,
)
