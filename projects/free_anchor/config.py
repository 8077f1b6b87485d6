from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Add ``MODEL.FREE_ANCHOR``. Its other settings are keys of Detectron2:
    ``MODEL.RETINANET.*`` for the detector, ``MODEL.RPN.*`` for the proposal generator."""
    node = cfg.MODEL.FREE_ANCHOR = CfgNode()
    # Anchors in the bag of an object: those with the highest IoU. Fewer where the image has fewer.
    node.BAG_SIZE = 50
    # A predicted box starts to count as localising an object above this IoU; at the best IoU that
    # any box reaches with the object it counts fully.
    node.BOX_IOU_THRESH = 0.6
    # Weight of the box loss inside the localisation likelihood, exp(-weight * loss). With
    # BBOX_REG_LOSS_TYPE "iou" it is the exponent of the IoU.
    node.BOX_LOSS_WEIGHT = 0.75
    # Share of the positive (bag) term in the loss; the negative term has the rest.
    node.ALPHA = 0.5
    # Exponent of the focal modulation of the negative term, above 0.
    node.GAMMA = 2.0
    # Objectness that the RPN head starts from (the detector's is MODEL.RETINANET.PRIOR_PROB).
    node.RPN_PRIOR_PROB = 0.02
    # For the detector: anchors, clipping and resizing as the published code has them, with its "+1"
    # box widths. Reproduces the published detections of published weights exactly; otherwise not
    # worth setting. Does not affect the resizing of detections in test-time augmentation.
    node.LEGACY_BOXES = False
