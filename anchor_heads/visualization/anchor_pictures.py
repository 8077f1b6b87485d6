"""Pictures of a model's anchors: location maps, anchors and detections.

All images are (H, W, 3) uint8 arrays in BGR.
"""

import cv2
import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.structures import Boxes, Instances

from anchor_heads.anchor_generation.strategy import LocationMap
from anchor_heads.data.image_records import annotated_objects
from anchor_heads.visualization.drawing import (
    COLORMAP,
    SCORE_THRESHOLD,
    Panel,
    draw_detections,
    draw_panels,
    lowered_threshold,
)
from anchor_heads.visualization.inspected_anchors import InspectedAnchors, inspect_anchors

# Long side in pixels of each panel.
PANEL_SIDE = 600
# Proposals have no score to choose objects by: so many of the best stand in for them.
MAX_PROPOSAL_OBJECTS = 10

_SHADE = 0.5  # brightness of a map's colours where the image is black; 1 where it is white
_BRIGHTNESS = 0.5
_OUTSIDE = 10  # pixels away from the image, where a line does not show
_CYAN = (255, 255, 0)  # unlike the colours above


@torch.no_grad()
def picture_of_anchors(
    predictor,
    image: np.ndarray,
    metadata,
    annotations: list[dict] | None = None,
    score_threshold: float = SCORE_THRESHOLD,
) -> np.ndarray:
    """Location maps, anchors and detections of an image, as panels of one picture.

    Args:
        predictor (DefaultPredictor): the model, with its preprocessing.
        image (ndarray): BGR image.
        metadata (Metadata): of a data set; its "thing_classes" name the classes.
        annotations (list[dict] or None): the objects in Detectron2's format, in the frame of the
            image; crowds are left out. If None, the model's own detections stand in for them.
        score_threshold (float): detections with a lower score are left out.

    Raises:
        TypeError, ValueError: see :func:`inspect_anchors`.
    """
    resize, tensor = network_input(predictor, image)
    input_size = tuple(tensor.shape[1:])
    height, width = (max(1, round(PANEL_SIDE * side / max(input_size))) for side in input_size)
    (output,) = predictor.model([{"image": tensor, "height": height, "width": width}])
    found = output["instances" if "instances" in output else "proposals"].to("cpu")

    threshold, found_text = lowered_threshold(found, score_threshold)
    if annotations is None:
        objects, source = stand_in_objects(found, input_size, threshold)
    else:
        objects = annotated_objects(annotations, resize, input_size)
        source = f"annotated objects ({len(objects)})"
    inspected = inspect_anchors(predictor.model, tensor, objects)
    panel = T.ResizeTransform(*image.shape[:2], height, width).apply_image(image)
    highest = max((float(x.probability.max()) for x in inspected.location_maps), default=0.0)
    panels = [
        Panel(
            draw_location_map(panel, x, inspected.image_size, highest),
            _describe(x),
            "probability",
            highest,
        )
        for x in inspected.location_maps
    ]
    panels += [
        Panel(
            draw_anchors(panel, inspected, objects.gt_boxes),
            f"{inspected.caption}. Cyan: {source}",
            inspected.score_name if len(inspected.scores) else "",
            _highest(inspected),
        ),
        Panel(draw_detections(panel, found, metadata, threshold, scale=1.0), found_text),
    ]
    return draw_panels(panels, columns=2 if len(panels) < 4 else -(-len(panels) // 2))


def network_input(predictor, image: np.ndarray) -> tuple[T.Transform, torch.Tensor]:
    """How a predictor resizes an image, and the (C, height, width) tensor that its model gets.

    Args:
        predictor (DefaultPredictor): the model, with its preprocessing.
        image (ndarray): BGR image.
    """
    resize = predictor.aug.get_transform(image)
    channels = image if predictor.input_format == "BGR" else image[:, :, ::-1]
    pixels = resize.apply_image(channels).astype("float32")
    return resize, torch.as_tensor(pixels.transpose(2, 0, 1))


def stand_in_objects(
    found: Instances, image_size: tuple[int, int], score_threshold: float = SCORE_THRESHOLD
) -> tuple[Instances, str]:
    """What the model found, in place of objects that nobody has annotated.

    Args:
        found (Instances): detections or proposals.
        image_size (tuple[int, int]): height and width of the network's input.
        score_threshold (float): detections with a lower score are left out.

    Returns:
        Instances: with "gt_boxes" and "gt_classes", in the frame of the network's input.
        str: what they are.
    """
    if found.has("proposal_boxes"):
        best = found.objectness_logits.argsort(descending=True)[:MAX_PROPOSAL_OBJECTS]
        boxes, classes = found.proposal_boxes[best], torch.zeros_like(best)
        source = f"best proposals ({len(best)}), since no object is annotated"
    else:
        found = found[found.scores >= score_threshold]
        boxes, classes = found.pred_boxes.clone(), found.pred_classes
        source = f"detections ({len(found)}), since no object is annotated"
    height, width = found.image_size
    boxes.scale(image_size[1] / width, image_size[0] / height)
    return Instances(image_size, gt_boxes=boxes, gt_classes=classes), source


def draw_location_map(
    image: np.ndarray, location_map: LocationMap, image_size: tuple[int, int], highest: float
) -> np.ndarray:
    """The map in colours, from probability 0 to ``highest``, shaded by the image.

    Each pixel has the colour of the location next to it.

    Args:
        image (ndarray): BGR image.
        location_map (LocationMap): the map.
        image_size (tuple[int, int]): height and width of the network's input.
        highest (float): probability that has the last colour.
    """
    probability = location_map.probability.cpu().numpy()
    rows, columns = (
        _nearest(pixels, size, locations, location_map)
        for pixels, size, locations in zip(
            image.shape[:2], image_size, probability.shape, strict=True
        )
    )
    colors = _colors(probability, highest)[rows][:, columns]
    shade = _SHADE + (1 - _SHADE) * cv2.cvtColor(image, cv2.COLOR_BGR2GRAY) / 255
    return (colors * shade[..., None]).round().astype(np.uint8)


def draw_anchors(
    image: np.ndarray, inspected: InspectedAnchors, objects: Boxes, highest: float | None = None
) -> np.ndarray:
    """The image in dark grey with anchors coloured by score, the highest on top.

    Args:
        image (ndarray): BGR image.
        inspected (InspectedAnchors): the anchors.
        objects (Boxes): objects in the frame of the network's input, drawn in cyan.
        highest (float or None): score that has the last colour; None for the highest of them.
    """
    picture = _dark_grey(image)
    scale = np.divide(image.shape[1::-1], inspected.image_size[::-1])
    score = inspected.scores.cpu().numpy()
    boxes = inspected.boxes.cpu().numpy()
    highest = highest or _highest(inspected)
    colors = _colors(score, highest)
    for i in score.argsort(kind="stable"):
        thickness = 2 if score[i] > highest / 2 else 1
        _rectangle(picture, boxes[i], scale, colors[i].tolist(), thickness)
    for box in objects.tensor.cpu().numpy():
        _rectangle(picture, box, scale, _CYAN, thickness=1)  # a thick anchor below it has a rim
    return picture


def _rectangle(image, box, scale, color, thickness) -> None:
    # Predicted boxes may be larger than OpenCV can count. A box ends where its last pixel ends.
    corners = (box.reshape(2, 2) * scale).clip(-_OUTSIDE, max(image.shape) + _OUTSIDE)
    first, last = corners.round().astype(int).tolist()
    cv2.rectangle(image, first, [last[0] - 1, last[1] - 1], color, thickness)


def _nearest(pixels: int, size: int, locations: int, location_map: LocationMap) -> np.ndarray:
    """Along one side: the location next to each of the ``pixels`` that show ``size``."""
    centers = (np.arange(pixels) + 0.5) * size / pixels
    index = np.round(centers / location_map.stride - location_map.offset)
    return index.astype(int).clip(0, locations - 1)


def _colors(values: np.ndarray, highest: float) -> np.ndarray:
    """(..., 3) BGR colours of values from 0 to ``highest``."""
    return COLORMAP(values / max(highest, 1e-12), bytes=True)[..., 2::-1]


def _dark_grey(image: np.ndarray) -> np.ndarray:
    grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY)
    return cv2.cvtColor((_BRIGHTNESS * grey).astype(np.uint8), cv2.COLOR_GRAY2BGR)


def _highest(inspected: InspectedAnchors) -> float:
    return float(inspected.scores.max()) if len(inspected.scores) else 0.0


def _describe(location_map: LocationMap) -> str:
    probability, threshold = location_map.probability, location_map.threshold
    kept = float((probability >= threshold).float().mean())
    return (
        f"Location {location_map.level}: at most {float(probability.max()):.2g}, "
        f"{kept:.1%} at or above {threshold:g}"
    )
