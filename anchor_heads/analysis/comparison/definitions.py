"""What is compared, in words and numbers."""

# The numbers of best boxes that recall is given for.
RANKS = (10, 30, 100, 300, 1000)
# Which boxes these are.
KINDS = ("anchors", "proposals", "detections")
# COCO's limits between small, medium and large, in square pixels.
SIZE_LIMITS = (32**2, 96**2)
SIZES = ("small", "medium", "large")
# The name of the numbers over all sizes, or all levels.
ALL = "all"
# Of NMS recall, as published.
NMS_THRESHOLD = 0.5

DEFINITIONS = {
    "Objects": "The annotated boxes, without crowds. Images without objects count in the numbers "
    "of anchors and in the times. Sizes are those of the box in the original image: small below "
    f"{SIZE_LIMITS[0]} square pixels, medium below {SIZE_LIMITS[1]}, large from there on.",
    "Anchors": "All boxes that a model starts from in an image, before it moves them; they may "
    "reach beyond the image. The padding of the image has anchors too. A model that predicts "
    "which locations to keep has them only there, others at every location.",
    "Best IoU": "For each object the highest IoU that any anchor of the image has with it, "
    "whatever the anchor's score; 0 if there are no anchors.",
    "Recall at k": "Of each image the k best boxes are taken and matched with the objects one to "
    "one, the pair with the highest IoU first, whatever their classes. AR is the share of objects "
    "whose match has an IoU of at least t, averaged over t = 0.50, 0.55, .., 0.95; R50 is the "
    "share at t = 0.5. Anchors are ranked by what the model says of them: the probability of the "
    "most likely class or of any object, times the quality where that is predicted. They are "
    "taken as they stand, not moved and without NMS. Proposals and detections are those that the "
    "model returns, so detections are at most TEST.DETECTIONS_PER_IMAGE.",
    "NMS recall": "Of one-stage models: how many of the objects that any box over the score "
    f"threshold finds are still found after NMS per class at {NMS_THRESHOLD}. NR is the mean over "
    "the IoU thresholds 0.50, 0.55, .., 0.90.",
    "Parameters and multiply-adds": "Of the whole model, for one image as large as the network's "
    "input for the first image of the data set. Where locations are predicted, all are "
    "kept, and ROI heads get as many boxes as there can be.",
    "Time per image": "From the resized image in memory to the boxes, one image at a time. The "
    "models take turns on each image.",
}
