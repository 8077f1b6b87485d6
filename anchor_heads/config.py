"""The configuration: Detectron2's defaults plus the nodes of every method.

This is the one place that knows all methods: importing it registers their meta architectures
and proposal generators, and lets ``MODEL.WEIGHTS`` name published weights of other frameworks.
"""

from anchor_heads._requirements import check_requirements

check_requirements()  # before anything below imports torch or Detectron2

from detectron2.config import CfgNode  # noqa: E402
from detectron2.config import get_cfg as get_detectron2_cfg  # noqa: E402

from anchor_heads.checkpoint import extend_detection_checkpointer  # noqa: E402
from anchor_heads.modeling.backbone import add_backbone_config  # noqa: E402
from anchor_heads.modeling.timm_backbone import add_timm_config  # noqa: E402
from anchor_heads.projects import dynamic_anchor, free_anchor, guided_anchoring  # noqa: E402

extend_detection_checkpointer()


def add_run_config(cfg: CfgNode) -> None:
    """Add the keys that concern a run, whatever its method, to ``cfg``."""
    # Data sets of one's own: a list of (name, COCO annotation file, image folder). The names can
    # then be used in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO_FORMAT = []
    # Whether to read the headers of all their image files before a run starts: for files that are
    # broken or of another size than the annotation file says, and for the frame of EXIF-rotated
    # photographs. Takes about a minute for 100,000 images.
    cfg.DATASETS.CHECK_IMAGES = True
    # Probabilities that a training image is one of four in a mosaic, that another is laid over it,
    # and that objects with masks of another are pasted into it.
    cfg.INPUT.MOSAIC = 0.0
    cfg.INPUT.MIXUP = 0.0
    cfg.INPUT.COPY_PASTE = 0.0
    # Random brightness, contrast, saturation (factors from 1 - x to 1 + x) and hue (shifted by up
    # to x, at most 0.5) of training images.
    cfg.INPUT.COLOR_JITTER = [0.0, 0.0, 0.0, 0.0]
    # "SGD" with SOLVER.MOMENTUM, as all published models, or "AdamW", which learns faster from
    # scratch.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # Whether SOLVER.BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS are for the biases of norms, and of what
    # predicts the offsets of deformable convolutions, too: so in Detectron2, not so in mmcv.
    cfg.SOLVER.BIAS_RULE_FOR_ALL = True
    # Folder for every evaluated image with its detections painted in. "" = paint nothing.
    cfg.TEST.SHOW_DIR = ""
    # Write precision-recall curves, precision and recall of each class at its best F1, and a
    # confusion matrix to OUTPUT_DIR/inference, as PNG and JSON.
    cfg.TEST.CURVES = False
    # Evaluate NMS recall as well: how many objects the model still finds after NMS, as the
    # FreeAnchor paper defines it. For one-stage models.
    cfg.TEST.NMS_RECALL = False


def get_cfg() -> CfgNode:
    """Detectron2's default config with the keys of this package added.

    Returns:
        CfgNode: a new node; Detectron2's own defaults stay as they are.
    """
    cfg = get_detectron2_cfg()
    add_run_config(cfg)
    add_backbone_config(cfg)
    add_timm_config(cfg)
    free_anchor.add_config(cfg)
    guided_anchoring.add_config(cfg)
    dynamic_anchor.add_config(cfg)
    return cfg
