"""Pictures of ground truth and detections. All images are (H, W, 3) uint8 arrays in BGR."""

from collections.abc import Sequence

import cv2
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer

from anchor_heads.data.image_files import read_record_image

# Small images are enlarged so that labels can be read; huge ones are reduced.
MIN_SHORT_SIDE = 320
MAX_LONG_SIDE = 1333
# What is painted of an image's detections: more would hide the image.
SCORE_THRESHOLD = 0.5
MAX_DETECTIONS = 100
MAX_PROPOSALS = 30

MIN_CAPTION_WIDTH = 320
LINE_HEIGHT = 22

_FONT = {"fontFace": cv2.FONT_HERSHEY_SIMPLEX, "fontScale": 0.55, "thickness": 1}
MARGIN = 6
_GAP = 6
_WHITE = 255


def paint_detections(
    image: np.ndarray,
    instances: Instances,
    metadata,
    score_threshold: float = SCORE_THRESHOLD,
    scale: float | None = None,
) -> np.ndarray:
    """The image with detections, or the best proposals, painted in.

    Args:
        image (ndarray): BGR image.
        instances (Instances): detections or proposals, in the frame of the image.
        metadata (Metadata): of the data set; its "thing_classes" name the classes, its
            "keypoint_connection_rules" say which keypoints are joined.
        score_threshold (float): detections with a lower score are left out.
        scale (float or None): how much the image is enlarged; None for a handy size.

    Returns:
        ndarray: BGR image.
    """
    instances = instances.to("cpu")
    if instances.has("proposal_boxes"):
        best = instances.objectness_logits.argsort(descending=True)[:MAX_PROPOSALS]
        boxes = instances.proposal_boxes.tensor[best].numpy()
        return _paint(image, boxes, labels=None, classes=range(len(boxes)), scale=scale)
    best = instances.scores.argsort(descending=True)[:MAX_DETECTIONS]
    instances = instances[best]
    instances = instances[instances.scores >= score_threshold]
    classes = instances.pred_classes.tolist()
    labels = [
        f"{name} {score:.0%}"
        for name, score in zip(_names(classes, metadata), instances.scores.tolist(), strict=True)
    ]
    masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else None
    keypoints = list(instances.pred_keypoints.numpy()) if instances.has("pred_keypoints") else None
    boxes = instances.pred_boxes.tensor.numpy()
    return _paint(image, boxes, labels, classes, masks, keypoints, scale, metadata)


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
    return grid([captioned(x, [caption]) for caption, x in painted.items()], columns=2)


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
        image = read_record_image(record)
        output = predictor(image)
        instances = output["instances"] if "instances" in output else output["proposals"]
        pairs.append(
            ground_truth_beside_detections(image, record, instances, metadata, score_threshold)
        )
    return grid(pairs, columns=2)


def captioned(image: np.ndarray, lines: Sequence[str]) -> np.ndarray:
    """The image below some lines of text, on white that is wide enough to hold a few words."""
    height, width = image.shape[:2]
    top = LINE_HEIGHT * len(lines) + MARGIN
    picture = np.full((top + height, max(width, MIN_CAPTION_WIDTH), 3), _WHITE, np.uint8)
    for i, line in enumerate(lines):
        write(picture, line, MARGIN, (i + 1) * LINE_HEIGHT)
    picture[top:, :width] = image
    return picture


def write(image: np.ndarray, text: str, x: int, y: int) -> None:
    """Write black text into the image, its base line starting at x, y."""
    cv2.putText(image, text, (x, y - 4), color=(0, 0, 0), lineType=cv2.LINE_AA, **_FONT)


def text_width(text: str) -> int:
    """Width in pixels of what :func:`write` writes."""
    return cv2.getTextSize(text, **_FONT)[0][0]


def wrapped(text: str, width: int) -> list[str]:
    """Break text into lines that :func:`captioned` has room for over an image of this width."""
    room = max(width, MIN_CAPTION_WIDTH) - 2 * MARGIN
    lines = [""]
    for word in text.split():
        longer = f"{lines[-1]} {word}".lstrip()
        if lines[-1] and text_width(longer) > room:
            lines.append(word)
        else:
            lines[-1] = longer
    return lines


def _paint(
    image, boxes, labels, classes, masks=None, keypoints=None, scale=None, metadata=None
) -> np.ndarray:
    if scale is None:
        height, width = image.shape[:2]
        scale = max(1.0, MIN_SHORT_SIDE / min(height, width))
        scale = min(scale, MAX_LONG_SIDE / max(height, width))
    # Colours are named here since Visualizer would draw them from numpy's global generator.
    palette = colormap(rgb=True, maximum=1)
    colors = [palette[i % len(palette)] for i in classes]
    visualizer = Visualizer(image[:, :, ::-1], metadata, scale)
    for i in reversed(range(len(boxes))):  # the first, which is the best detection, on top
        visualizer.draw_box(boxes[i], alpha=1.0, edge_color=colors[i])  # below it is drawn faintly
        visualizer.overlay_instances(
            boxes=boxes[i : i + 1],
            labels=labels and labels[i : i + 1],
            masks=masks and masks[i : i + 1],
            keypoints=keypoints and keypoints[i : i + 1],
            assigned_colors=colors[i : i + 1],
        )
    return np.ascontiguousarray(visualizer.output.get_image()[:, :, ::-1])


def _names(classes: Sequence[int], metadata) -> list[str]:
    names = metadata.get("thing_classes", [])
    return [names[i] if i < len(names) else str(i) for i in classes]
