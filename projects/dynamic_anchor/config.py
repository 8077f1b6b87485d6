from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Add ``MODEL.DYNAMIC_ANCHOR``. Its other settings are keys of Detectron2.

    A dynamic anchor is decoded from the predicted shape and a square with the smallest of its
    level's ``MODEL.ANCHOR_GENERATOR.SIZES``. Half of that size limits the objects that are shape
    targets of the level. ``MODEL.RPN.IOU_THRESHOLDS`` or ``MODEL.RETINANET.IOU_THRESHOLDS`` are for
    the predicted anchors; so are the deltas' weights. The published models have one threshold.
    """
    node = cfg.MODEL.DYNAMIC_ANCHOR = CfgNode()
    # Locations in an object have a shape target if they are this close to its centre, in strides of
    # the level, along x and along y.
    node.CENTER_RADIUS = 2.0
    # Height over width of the boxes that the anchors start from. 1 = squares, as published; the
    # median of one's data where most objects are wide or tall.
    node.BASE_ASPECT_RATIO = 1.0
    # Which distance from a location to a side of its object decides the level. False: the longest,
    # as published. True: that along the object's shorter side, so that long thin objects are on
    # levels whose locations lie close enough.
    node.LEVEL_BY_SHORT_SIDE = False
    # Initialisation of the feature attention and the fusion. False: a standard deviation of 0.01,
    # as published, which suits 256 channels. True: Kaiming initialisation, with
    # which the classes of narrow heads converge much sooner.
    node.KAIMING_INIT = False
    # Factor of the loss of the shapes.
    node.SHAPE_LOSS_WEIGHT = 1.0

    # What the detector and the proposal generator set differently, and what one of them lacks.
    node.RETINANET = CfgNode()
    # An object takes the anchors that overlap it most, if their IoU is at least this. 0 in
    # the published configs: an object that no anchor overlaps is then matched with every anchor,
    # including those of previous objects.
    node.RETINANET.MIN_IOU = 0.001
    # Factor of the loss of the quality.
    node.RETINANET.QUALITY_LOSS_WEIGHT = 1.0
    # As published, there is no box loss for a batch without any shape target, even if anchors are
    # positive. True computes it.
    node.RETINANET.ALWAYS_BOX_LOSS = False
    # As published, MODEL.RETINANET.SCORE_THRESH_TEST is for the class probability alone, so that
    # detections, scored by class times quality, may score less. True: it is for their score.
    node.RETINANET.THRESH_ON_PRODUCT = False

    node.RPN = CfgNode()
    # As RETINANET.MIN_IOU, for objectness; the value is that of Guided Anchoring's proposal
    # generator.
    node.RPN.MIN_IOU = 0.3
    # Initial objectness of the proposal generator. With a low value the first steps of a short
    # training need not lower it from 0.5.
    node.RPN.PRIOR_PROB = 0.5
