"""The configuration: Detectron2's defaults plus the nodes of every method.

This is the one place that knows all methods: importing it registers their meta architectures
and proposal generators.
"""

from importlib import import_module

from anchor_heads._requirements import check_requirements

check_requirements()  # before anything below imports torch or Detectron2

from detectron2.config import CfgNode  # noqa: E402
from detectron2.config import get_cfg as get_detectron2_cfg  # noqa: E402

from anchor_heads.config_files import Config  # noqa: E402
from anchor_heads.modeling.backbone import add_backbone_config  # noqa: E402
from anchor_heads.modeling.timm_backbone import add_timm_config  # noqa: E402

# The folders of projects/. Importing a method registers its models; add_config adds its keys.
METHODS = [
    import_module(f"anchor_heads.projects.{name}")
    for name in ("free_anchor", "guided_anchoring", "dynamic_anchor")
]


def add_run_config(cfg: CfgNode) -> None:
    """Add the keys that do not depend on the method."""
    # Custom data sets: a list of (name, COCO annotation file, image folder). The names can be used
    # in DATASETS.TRAIN and DATASETS.TEST.
    cfg.DATASETS.COCO_FORMAT = []
    # Whether to read the headers of all their image files before a run starts: for files that are
    # broken or of another size than the annotation file says, and for the frame of EXIF-rotated
    # photographs. Takes about a minute for 100,000 images.
    cfg.DATASETS.CHECK_IMAGES = True
    # Probabilities of a mosaic of four training images, of blending with another image (mixup),
    # and of pasting objects with masks from another image (copy-paste).
    cfg.INPUT.MOSAIC = 0.0
    cfg.INPUT.MIXUP = 0.0
    cfg.INPUT.COPY_PASTE = 0.0
    # Random brightness, contrast, saturation (factors from 1 - x to 1 + x) and hue (shifted by up
    # to x, at most 0.5) of training images.
    cfg.INPUT.COLOR_JITTER = [0.0, 0.0, 0.0, 0.0]
    # "SGD" with SOLVER.MOMENTUM, as in all published models, or "AdamW", which converges faster
    # from scratch.
    cfg.SOLVER.OPTIMIZER = "SGD"
    # In how many parts, one after another, each process goes through its images of a step: a
    # smaller part takes less memory. Batch norm sees the parts, not the whole, and losses are
    # normalised by the number of objects of each part.
    cfg.SOLVER.GRADIENT_ACCUMULATION = 1
    # Length in passes over the training images. Above 0 it replaces SOLVER.MAX_ITER, and
    # SOLVER.STEPS keep their shares of the length.
    cfg.SOLVER.MAX_EPOCHS = 0.0
    # Decay of an exponential moving average of the weights, such as 0.9998; 0 = none. It is
    # evaluated beside the model and saved as model_final_ema.pth.
    cfg.SOLVER.EMA_DECAY = 0.0
    # End a run after this many evaluations (every TEST.EVAL_PERIOD iterations) without a better
    # TEST.BEST_METRIC; 0 = never.
    cfg.SOLVER.EARLY_STOP_PATIENCE = 0
    # Whether SOLVER.BIAS_LR_FACTOR and WEIGHT_DECAY_BIAS also apply to the biases of norms and of
    # the layers that predict offsets of deformable convolutions, as in Detectron2 but not in mmcv.
    cfg.SOLVER.BIAS_RULE_FOR_ALL = True
    # Metric by which the best of the evaluated models is kept as model_best.pth, such as "bbox/AP",
    # or "bbox_EMA/AP" for the average of the weights; higher is better. "" = none is kept.
    cfg.TEST.BEST_METRIC = ""
    # Folder for the evaluated images with drawn detections. "" = none.
    cfg.TEST.SHOW_DIR = ""
    # Write precision-recall curves, precision and recall of each class at its best F1, and a
    # confusion matrix to OUTPUT_DIR/inference, as PNG and JSON.
    cfg.TEST.CURVES = False
    # Also evaluate NMS recall as defined in the FreeAnchor paper: the share of detected objects
    # that are still detected after NMS. For one-stage models.
    cfg.TEST.NMS_RECALL = False
    # Services that get the metrics of a run beside TensorBoard: "wandb", "mlflow", "trackio". They
    # are set up by environment variables of their own.
    cfg.EXPERIMENT_TRACKERS = []
    # Names of the classes, and their ids in COCO's results; a run takes them from its data.
    cfg.MODEL.CLASS_NAMES = []
    cfg.MODEL.CATEGORY_IDS = []


def get_cfg() -> CfgNode:
    """Detectron2's default config with the keys of this package added.

    Returns:
        CfgNode: a new node; Detectron2's own defaults stay as they are.
    """
    cfg = Config(get_detectron2_cfg())
    add_run_config(cfg)
    add_backbone_config(cfg)
    add_timm_config(cfg)
    for method in METHODS:
        method.add_config(cfg)
    return cfg
