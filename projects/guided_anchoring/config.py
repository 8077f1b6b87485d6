from detectron2.config import CfgNode


def add_config(cfg: CfgNode) -> None:
    """Add ``MODEL.GUIDED_ANCHOR``. Its other settings are keys of Detectron2.

    ``MODEL.ANCHOR_GENERATOR`` describes the shape samples (the published code's "approxes"): at
    each location all its sizes and aspect ratios. A guided anchor starts from a square of the
    smallest size of its level (the published code's "square"). ``MODEL.RPN.IOU_THRESHOLDS`` or
    ``MODEL.RETINANET.IOU_THRESHOLDS`` are for guided anchors; so are the deltas' weights. The
    published detectors have one threshold.
    """
    node = cfg.MODEL.GUIDED_ANCHOR = CfgNode()
    # At test time there are anchors only where the location probability is at least this.
    node.LOCATION_THRESH = 0.01
    # Height over width of the boxes that the anchors start from. 1 = squares, as published; the
    # median of one's data where most objects are wide or tall.
    node.BASE_ASPECT_RATIO = 1.0
    # Size that decides an object's level. False: the square root of its area, as published. True:
    # its shorter side, so that long thin objects are on levels whose locations lie close enough.
    node.LEVEL_BY_SHORT_SIDE = False
    # Initialisation of the feature adaption. False: a standard deviation of 0.01, as published,
    # which suits 256 channels. True: Kaiming initialisation, with which narrow heads
    # converge much sooner.
    node.KAIMING_INIT = False
    # Location targets, as fractions of an object's width and height: the centre region, which is
    # positive, and the larger region around it, which is ignored.
    node.CENTER_RATIO = 0.2
    node.IGNORE_RATIO = 0.5
    # Location probability that training starts from.
    node.LOCATION_PRIOR_PROB = 0.01
    # The focal loss of the location probability, and its factor among the losses.
    node.LOCATION_FOCAL_ALPHA = 0.25
    node.LOCATION_FOCAL_GAMMA = 2.0
    node.LOCATION_LOSS_WEIGHT = 1.0
    # True trains with centre and background exchanged, as mmdetection 2.x does.
    node.INVERTED_LOCATION_LABEL = False
    # Locations sampled per image for the shape loss, and how many of them at most are positive.
    node.SHAPE_BATCH_SIZE_PER_IMAGE = 256
    node.SHAPE_POSITIVE_FRACTION = 0.5
    # "bounded_iou", as published, or "iou": the negative logarithm of the IoU, divided by the
    # number of positives. Shapes that are far from the start converge faster.
    node.SHAPE_LOSS_TYPE = "bounded_iou"
    # Where the smooth L1 in "bounded_iou" becomes linear, and the factor of the loss.
    node.SHAPE_LOSS_BETA = 0.2
    node.SHAPE_LOSS_WEIGHT = 1.0

    # What the proposal generator and the detector set differently.
    node.RPN = CfgNode()
    # Scale of the shape prediction: width = side of the square * exp(SHAPE_STD * prediction).
    node.RPN.SHAPE_STD = 0.14
    # IoU of an object with the best shape sample of a location: below the first threshold the
    # location is negative, from the second on positive, in between it is ignored.
    node.RPN.SHAPE_IOU_THRESHOLDS = [0.3, 0.7]
    # The locations with the highest IoU become positive too if that IoU is at least this.
    node.RPN.SHAPE_MIN_IOU = 0.3
    # The same when guided anchors are matched with objects.
    node.RPN.MIN_IOU = 0.3

    node.RETINANET = node.RPN.clone()
    node.RETINANET.SHAPE_STD = 1.0
    node.RETINANET.SHAPE_IOU_THRESHOLDS = [0.4, 0.5]
    node.RETINANET.SHAPE_MIN_IOU = 0.4
    # 0 in the published configs: an object that no anchor overlaps is then matched with every
    # anchor, including those of previous objects.
    node.RETINANET.MIN_IOU = 0.001

    # Initial objectness of the proposal generator. With a low value the first steps of a short
    # training need not lower it from 0.5.
    node.RPN.PRIOR_PROB = 0.5
