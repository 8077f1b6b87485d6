"""FreeAnchor as published by its authors, with maskrcnn-benchmark.

Keys and conventions are those of github.com/zhangxiaosong18/FreeAnchor at commit afad43a.
"""

from torch import Tensor

from anchor_heads.checkpoint.formats import Classes, Format
from anchor_heads.checkpoint.resnet import resnet_names

# Anchors per location: ratios times sizes.
NUM_RATIOS = 3
NUM_ANCHORS = 9
# The batch norms of the published code divide by sqrt(variance), Detectron2's and PyTorch's by
# sqrt(variance + this).
BATCH_NORM_EPS = 1e-5


def sizes_first(x: Tensor) -> Tensor:
    """Reorder the anchors of a location: by size first, as in Detectron2, instead of by ratio.

    Args:
        x (Tensor): (A * C, ...), weight or bias with C outputs for each of A = 9 anchors.

    Raises:
        ValueError: if C is not an integer.
    """
    if len(x) % NUM_ANCHORS:
        raise ValueError(
            f"A convolution over anchors has {len(x)} outputs, which is not a multiple of the "
            f"{NUM_ANCHORS} anchors per location of the published models."
        )
    by_ratio = x.view(NUM_RATIOS, NUM_ANCHORS // NUM_RATIOS, -1, *x.shape[1:])
    return by_ratio.transpose(0, 1).reshape(x.shape)


NAMES = resnet_names(source=r"backbone\.body\.", stem=r"stem\.")
for _i in (2, 3, 4):  # ResNet stages, counted without the stem
    NAMES |= {
        rf"backbone\.fpn\.fpn_inner{_i}\.(\w+)": rf"backbone.fpn_lateral{_i + 1}.\1",
        rf"backbone\.fpn\.fpn_layer{_i}\.(\w+)": rf"backbone.fpn_output{_i + 1}.\1",
    }
NAMES |= {
    r"backbone\.fpn\.top_blocks\.(p6|p7)\.(\w+)": r"backbone.top_block.\1.\2",
    r"rpn\.head\.cls_tower\.(\d+\.\w+)": r"head.cls_subnet.\1",
    r"rpn\.head\.bbox_tower\.(\d+\.\w+)": r"head.bbox_subnet.\1",
    r"rpn\.head\.cls_logits\.(\w+)": r"head.cls_score.\1",
    r"rpn\.head\.bbox_pred\.(\w+)": r"head.bbox_pred.\1",
}

# FreeAnchor only changes the loss: the weights of a RetinaNet have the same keys.
RETINANET = Format(
    framework="maskrcnn-benchmark",
    model="FreeAnchor's RetinaNet",
    signature_keys=(r"backbone\.body\.stem\.conv1\.weight", r"rpn\.head\.cls_tower\.0\.weight"),
    names=NAMES,
    values={
        r"rpn\.head\.(cls_logits|bbox_pred)\.\w+": sizes_first,
        r"backbone\.body\..+\.running_var": lambda variance: variance - BATCH_NORM_EPS,
    },
    unused=(r"rpn\.anchor_generator\.cell_anchors\.\d",),
    note="For exactly the boxes of the published code set MODEL.FREE_ANCHOR.LEGACY_BOXES True.",
    meta_architecture="FreeAnchorRetinaNet",
    classes=Classes("MODEL.RETINANET.NUM_CLASSES", "head.cls_score.bias", outputs=NUM_ANCHORS),
)

FORMATS = (RETINANET,)
