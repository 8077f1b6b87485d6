"""Pictures of ground truth and detections. All images are (H, W, 3) uint8 arrays in BGR."""

import io
import os
import textwrap
from collections.abc import Sequence
from typing import NamedTuple

import cv2
import matplotlib
import numpy as np
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode, Instances
from detectron2.utils.colormap import colormap
from detectron2.utils.visualizer import Visualizer
from matplotlib.cm import ScalarMappable
from matplotlib.colors import ListedColormap, Normalize
from matplotlib.figure import Figure

from anchor_heads.data.image_files import read_record_image

# Small images are enlarged so that labels can be read; huge ones are reduced.
MIN_SHORT_SIDE = 320
MAX_LONG_SIDE = 1333
# What is drawn of an image's detections and proposals: more would hide the image.
SCORE_THRESHOLD = 0.5
MAX_PROPOSALS = 30
# Of detections that all score less.
MAX_BELOW_THRESHOLD = 5

# From violet to yellow, without the darkest colours, which do not show on dark grey.
COLORMAP = ListedColormap(matplotlib.colormaps["plasma"](np.linspace(0.2, 1, 256)))

# Decorator of functions that draw names: in them "$" starts no formula.
plain_text = matplotlib.rc_context({"text.parse_math": False})

_DPI = 100  # an inch has 72 points
_FONT_SIZE = 9  # points
_CHARACTER = 7  # pixels that a character is wide
_MIN_PANEL_SIZE = (100, 200)  # height and width that leave room for legend and caption
_TEXT_HEIGHT = 150  # pixels that caption and legend have at most; what is left is cut off


class Panel(NamedTuple):
    """A part of a picture."""

    image: np.ndarray
    caption: str
    legend: str = ""
    """What the colours of COLORMAP mean; "" for none."""
    highest: float = 1.0
    """The value of the last colour; that of the first is 0."""


def readable_scale(image: np.ndarray) -> float:
    """How much an image has to be enlarged, or reduced, to a size that can be read."""
    height, width = image.shape[:2]
    enlarged = max(1.0, MIN_SHORT_SIDE / min(height, width))
    return min(enlarged, MAX_LONG_SIDE / max(height, width))


def draw_detections(
    image: np.ndarray,
    instances: Instances,
    metadata,
    score_threshold: float = SCORE_THRESHOLD,
    scale: float | None = None,
) -> np.ndarray:
    """The image with its detections, or its best proposals.

    Args:
        image (ndarray): BGR image.
        instances (Instances): detections or proposals, in the frame of the image.
        metadata (Metadata): of the data set; its "thing_classes" name the classes, its
            "keypoint_connection_rules" say which keypoints are joined.
        score_threshold (float): detections with a lower score are left out.
        scale (float or None): how much the image is enlarged; None for a size that can be read.

    Returns:
        ndarray: BGR image.
    """
    instances = instances.to("cpu")
    if instances.has("proposal_boxes"):
        best = instances.objectness_logits.argsort(descending=True)[:MAX_PROPOSALS]
        boxes = instances.proposal_boxes.tensor[best].numpy()
        return _draw(image, boxes, labels=None, classes=range(len(boxes)), scale=scale)
    instances = instances[instances.scores.argsort(descending=True)]
    instances = instances[instances.scores >= score_threshold]
    classes = instances.pred_classes.tolist()
    labels = [
        f"{name} {score:.0%}"
        for name, score in zip(_names(classes, metadata), instances.scores.tolist(), strict=True)
    ]
    masks = list(instances.pred_masks.numpy()) if instances.has("pred_masks") else None
    keypoints = list(instances.pred_keypoints.numpy()) if instances.has("pred_keypoints") else None
    boxes = instances.pred_boxes.tensor.numpy()
    return _draw(image, boxes, labels, classes, masks, keypoints, scale, metadata)


def draw_ground_truth(image: np.ndarray, ground_truth: Instances | dict, metadata) -> np.ndarray:
    """The image with its annotated boxes.

    Args:
        image (ndarray): BGR image.
        ground_truth (Instances or dict): Instances with "gt_boxes" and "gt_classes" in the frame
            of the image, or a record of a data set in Detectron2's format.
        metadata (Metadata): of the data set; its "thing_classes" name the classes.

    Returns:
        ndarray: BGR image, enlarged or reduced to a size that can be read.
    """
    if isinstance(ground_truth, Instances):
        boxes = ground_truth.gt_boxes.tensor.cpu().numpy()
        classes = ground_truth.gt_classes.tolist()
        return _draw(image, boxes, _names(classes, metadata), classes)
    annotations = ground_truth.get("annotations", [])
    boxes = [
        BoxMode.convert(ann["bbox"], ann["bbox_mode"], BoxMode.XYXY_ABS) for ann in annotations
    ]
    classes = [ann["category_id"] for ann in annotations]
    labels = [
        f"{name} (crowd)" if ann.get("iscrowd", 0) else name
        for name, ann in zip(_names(classes, metadata), annotations, strict=True)
    ]
    return _draw(image, np.array(boxes, dtype=np.float32).reshape(-1, 4), labels, classes)


def lowered_threshold(instances: Instances, score_threshold: float) -> tuple[float, str]:
    """A score that some detections have, where none has the one that is asked for.

    Args:
        instances (Instances): detections or proposals.
        score_threshold (float): the score that is asked for.

    Returns:
        float: the threshold to draw with.
        str: what is then drawn.
    """
    if instances.has("proposal_boxes"):
        number = len(instances)
        return score_threshold, f"Best {min(number, MAX_PROPOSALS)} of {number} proposals"
    scores = instances.scores.sort(descending=True).values
    if not len(scores):
        return score_threshold, "No detection: no score is above the model's own threshold"
    number = int((scores >= score_threshold).sum())
    if number:
        return score_threshold, f"Detections with a score >= {score_threshold:.0%}: {number}"
    scores = scores[:MAX_BELOW_THRESHOLD]
    return float(scores[-1]), (
        f"No detection has a score >= {score_threshold:.0%}. Shown: the best {len(scores)}, with "
        f"scores up to {float(scores[0]):.1%}"
    )


def ground_truth_beside_detections(
    image: np.ndarray, ground_truth: Instances | dict, instances: Instances, metadata
) -> np.ndarray:
    """Two copies of the image side by side: the annotated boxes, and the detections.

    Args: see :func:`draw_ground_truth` and :func:`draw_detections`.
    """
    panels = _ground_truth_and_detections(image, ground_truth, instances, metadata, SCORE_THRESHOLD)
    return draw_panels(panels, columns=2)


def picture_of_data_set(
    predictor, dataset_name: str, num_images: int, score_threshold: float = SCORE_THRESHOLD
) -> np.ndarray:
    """Ground truth and detections, side by side, for the first images of a data set.

    Args:
        predictor (callable): takes a BGR image and returns {"instances": Instances} or
            {"proposals": Instances}, such as Detectron2's DefaultPredictor.
        dataset_name (str): a registered data set.
        num_images (int): how many images, at most.
        score_threshold (float): see :func:`lowered_threshold`.
    """
    metadata = MetadataCatalog.get(dataset_name)
    panels = []
    for record in DatasetCatalog.get(dataset_name)[:num_images]:
        image = read_record_image(record)
        output = predictor(image)
        instances = output["instances"] if "instances" in output else output["proposals"]
        panels += _ground_truth_and_detections(image, record, instances, metadata, score_threshold)
    return draw_panels(panels, columns=4)


def _ground_truth_and_detections(image, ground_truth, instances, metadata, score_threshold):
    threshold, caption = lowered_threshold(instances, score_threshold)
    return [
        Panel(draw_ground_truth(image, ground_truth, metadata), "Ground truth"),
        Panel(draw_detections(image, instances, metadata, threshold), caption),
    ]


@plain_text
def draw_panels(panels: Sequence[Panel], columns: int) -> np.ndarray:
    """One picture of several, row by row, each below its caption and at the same scale.

    Args:
        panels (sequence of Panel): at least one.
        columns (int): panels per row, at least 1.
    """
    columns = min(columns, len(panels))
    rows = -(-len(panels) // columns)
    height, width = np.max([_MIN_PANEL_SIZE, *(x.image.shape[:2] for x in panels)], axis=0)
    size = np.array([columns * width, rows * (height + _TEXT_HEIGHT)])
    figure = Figure(size / _DPI, _DPI, layout="compressed")
    all_axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for axes, panel in zip(all_axes, panels, strict=False):
        axes.imshow(panel.image[..., ::-1])
        axes.set(xlim=(0, width), ylim=(height, 0))
        caption = textwrap.fill(panel.caption, int(width / _CHARACTER))
        axes.set_title(caption, loc="left", fontsize=_FONT_SIZE)
        if panel.legend:
            colors = ScalarMappable(Normalize(0, panel.highest), COLORMAP)
            bar = figure.colorbar(
                colors, ax=axes, location="bottom", shrink=0.5, aspect=30, pad=0.02
            )
            bar.set_label(panel.legend, fontsize=_FONT_SIZE)
            bar.ax.tick_params(labelsize=_FONT_SIZE)
    for axes in all_axes:
        axes.axis("off")
    file = io.BytesIO()
    figure.savefig(file, bbox_inches="tight", pad_inches=0.05)
    return cv2.imdecode(np.frombuffer(file.getbuffer(), np.uint8), cv2.IMREAD_COLOR)


def write_picture(path: str, picture: np.ndarray) -> None:
    """Write a BGR picture, in a folder that is made if it is not there."""
    os.makedirs(os.path.dirname(os.path.abspath(path)), exist_ok=True)
    if not cv2.imwrite(path, picture):
        raise OSError(f"Cannot write the picture {path}")


@plain_text
def _draw(
    image, boxes, labels, classes, masks=None, keypoints=None, scale=None, metadata=None
) -> np.ndarray:
    if scale is None:
        scale = readable_scale(image)
    # Colours are named here since Visualizer would take them from numpy's global generator.
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
