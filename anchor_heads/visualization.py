"""Pictures of ground truth and detections. All images are (H, W, 3) uint8 arrays in BGR."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import read_image
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

# Small images are enlarged so that labels can be read; huge ones are reduced.
MIN_SHORT_SIDE = 320
MAX_LONG_SIDE = 1333
# What is painted of an image's detections: more would hide the image.
SCORE_THRESHOLD = 0.5
MAX_DETECTIONS = 100
MAX_PROPOSALS = 30

_CAPTION_HEIGHT = 28
_GAP = 6
_WHITE = 255


def paint_detections(
    image: np.ndarray,
    instances: Instances,
    metadata,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """The image with detections, or the best proposals, painted in.

    Args:
        image (ndarray): BGR image.
        instances (Instances): detections or proposals, in the frame of the image.
        metadata (Metadata): of the data set; its "thing_classes" name the classes.
        score_threshold (float): detections with a lower score are left out.

    Returns:
        ndarray: BGR image, enlarged or reduced to a handy size.
    """
    instances = instances.to("cpu")
    if instances.has("proposal_boxes"):
        best = instances.objectness_logits.argsort(descending=True)[:MAX_PROPOSALS]
        boxes = instances.proposal_boxes.tensor[best].numpy()
        return _paint(image, boxes, labels=None, classes=range(len(boxes)))
    best = instances.scores.argsort(descending=True)[:MAX_DETECTIONS]
    instances = instances[best]
    instances = instances[instances.scores >= score_threshold]
    classes = instances.pred_classes.tolist()
    labels = [
        f"{name} {score:.0%}"
        for name, score in zip(_names(classes, metadata), instances.scores.tolist(), strict=True)
    ]
    masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else None
    return _paint(image, instances.pred_boxes.tensor.numpy(), labels, classes, masks)


def paint_ground_truth(image: np.ndarray, ground_truth: Instances | dict, metadata) -> np.ndarray:
    """The image with its annotated boxes painted in.

    Args:
        image (ndarray): BGR image.
        ground_truth (Instances or dict): Instances with "gt_boxes" and "gt_classes" in the frame
            of the image, or a record of a data set in Detectron2's format.
        metadata (Metadata): of the data set; its "thing_classes" name the classes.

    Returns:
        ndarray: BGR image, enlarged or reduced to a handy size.
    """
    if isinstance(ground_truth, Instances):
        boxes = ground_truth.gt_boxes.tensor.cpu().numpy()
        classes = ground_truth.gt_classes.tolist()
        return _paint(image, boxes, _names(classes, metadata), classes)
    annotations = ground_truth.get("annotations", [])
    boxes = [
        BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS) for ann in annotations
    ]
    classes = [ann["category_id"] for ann in annotations]
    labels = [
        f"{name} (crowd)" if ann.get("iscrowd", 0) else name
        for name, ann in zip(_names(classes, metadata), annotations, strict=True)
    ]
    return _paint(image, np.array(boxes, dtype=np.float32).reshape(-1, 4), labels, classes)


def ground_truth_beside_detections(
    image: np.ndarray,
    ground_truth: Instances | dict,
    instances: Instances,
    metadata,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Two copies of the image side by side: the annotated boxes, and what the model found.

    Args: see :func:`paint_ground_truth` and :func:`paint_detections`.
    """
    painted = {
        "ground truth": paint_ground_truth(image, ground_truth, metadata),
        "detections": paint_detections(image, instances, metadata, score_threshold),
    }
    return grid([_captioned(x, caption) for caption, x in painted.items()], columns=2)


def grid(images: Sequence[np.ndarray], columns: int) -> np.ndarray:
    """One picture of several, row by row, each in the upper left corner of a cell of equal size.

    Args:
        images (sequence of ndarray): at least one BGR image; sizes may differ.
        columns (int): images per row, at least 1.
    """
    if not images or columns < 1:
        raise ValueError(f"A grid of {len(images)} images in {columns} columns is empty.")
    columns = min(columns, len(images))
    rows = -(-len(images) // columns)
    height = max(x.shape[0] for x in images) + _GAP
    width = max(x.shape[1] for x in images) + _GAP
    picture = np.full((rows * height - _GAP, columns * width - _GAP, 3), _WHITE, np.uint8)
    for i, image in enumerate(images):
        y, x = i // columns * height, i % columns * width
        picture[y : y + image.shape[0], x : x + image.shape[1]] = image
    return picture


def picture_of_data_set(
    predictor, dataset_name: str, num_images: int, score_threshold: float = SCORE_THRESHOLD
) -> np.ndarray:
    """Ground truth beside detections for the first images of a data set.

    Args:
        predictor (callable): takes a BGR image and returns {"instances": Instances} or
            {"proposals": Instances}, such as Detectron2's DefaultPredictor.
        dataset_name (str): a registered data set.
        num_images (int): how many images, at most.
        score_threshold (float): detections with a lower score are left out.
    """
    metadata = MetadataCatalog.get(dataset_name)
    pairs = []
    for record in DatasetCatalog.get(dataset_name)[:num_images]:
        image = read_image(record["file_name"], format="BGR")
        output = predictor(image)
        instances = output["instances"] if "instances" in output else output["proposals"]
        pairs.append(
            ground_truth_beside_detections(image, record, instances, metadata, score_threshold)
        )
    return grid(pairs, columns=2)


def _paint(image, boxes, labels, classes, masks=None) -> np.ndarray:
    height, width = image.shape[:2]
    scale = max(1.0, MIN_SHORT_SIDE / min(height, width))
    scale = min(scale, MAX_LONG_SIDE / max(height, width))
    # Colours are named here since Visualizer would draw them from numpy's global generator.
    palette = colormap(rgb=True, maximum=1)
    colors = [palette[i % len(palette)] for i in classes]
    visualizer = Visualizer(image[:, :, ::-1], scale=scale)
    for i in reversed(range(len(boxes))):  # the first, which is the best detection, on top
        visualizer.draw_box(boxes[i], alpha=1.0, edge_color=colors[i])  # below it is drawn faintly
        visualizer.overlay_instances(
            boxes=boxes[i : i + 1],
            labels=labels and labels[i : i + 1],
            masks=masks and masks[i : i + 1],
            assigned_colors=colors[i : i + 1],
        )
    return np.ascontiguousarray(visualizer.output.get_image()[:, :, ::-1])


def _names(classes: Sequence[int], metadata) -> list[str]:
    names = metadata.get("thing_classes")
    return [names[i] if names else str(i) for i in classes]


def _captioned(image: np.ndarray, caption: str) -> np.ndarray:
    strip = np.full((_CAPTION_HEIGHT, image.shape[1], 3), _WHITE, np.uint8)
    cv2.putText(strip, caption, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.55, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, image])
