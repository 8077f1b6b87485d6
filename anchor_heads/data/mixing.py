"""Training images made of several: mosaic, mix-up and copy-paste.

Each takes images of the data set at random and keeps what is annotated on them. The results go to
the mapper as if they were read from a file.

Shape shorthand in this module:

    H, W: height and width of an image
    P: number of keypoints
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import cv2
import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode, configurable
from detectron2.structures import BoxMode, polygons_to_bitmask
from torch.utils.data import Dataset

from anchor_heads.data.image_files import read_record_image
from anchor_heads.data.mapper import DatasetMapper

# Of YOLOv4's mosaic (arXiv:2004.10934): where the four images meet, as a share of the sides, and
# how large they are, as a multiple of the size at which they fit.
_CENTRE = (0.25, 0.75)
_MOSAIC_SCALES = (0.5, 1.5)
_FILL = 114
# Of YOLOX's mix-up (arXiv:2107.08430).
_MIXUP_WEIGHT = 0.5
_MIXUP_SCALES = (0.5, 1.5)
# Of copy-paste (arXiv:2012.07177): scale jitter, and the share of objects that are pasted.
_PASTE_SCALES = (0.5, 1.25)
_PASTE_SHARE = 0.5
# An object of which less is left to be seen is taken out.
_MIN_VISIBLE = 0.25


@dataclass
class Scene:
    """An image and the objects on it, crowds left out.

    Attributes:
        image (ndarray): (H, W, C) uint8.
        objects (list[dict]): with "category_id", "bbox" (4,) x0, y0, x1, y1 in pixels, and where
            they are annotated "mask" (H, W) bool and "keypoints" (P, 3) x, y, visibility.
    """

    image: np.ndarray
    objects: list[dict] = field(default_factory=list)


class MixedImages(Dataset):
    """A data set whose images are mixed with others of it, and mapped to the model's input.

    The random numbers are those of numpy: the image of an index follows from their state. An image
    with semantic segmentation raises a ValueError.
    """

    @configurable
    def __init__(
        self,
        dataset: Sequence[dict],
        mapper: DatasetMapper,
        *,
        mosaic: float,
        mixup: float,
        copy_paste: float,
        with_masks: bool,
    ):
        """
        Args:
            dataset (sequence of dict): records in Detectron2's data set format.
            mapper (DatasetMapper): makes the model's input of a record and an image.
            mosaic (float): probability that an image is one of four in a mosaic.
            mixup (float): probability that another image is laid over it.
            copy_paste (float): probability that objects of another image are pasted into it.
            with_masks (bool): whether the model predicts masks.
        """
        self.dataset = dataset
        self.mapper = mapper
        self.mosaic = mosaic
        self.mixup = mixup
        self.copy_paste = copy_paste
        self.with_masks = with_masks

    @classmethod
    def from_config(cls, cfg: CfgNode, dataset, mapper):
        return {
            "dataset": dataset,
            "mapper": mapper,
            "mosaic": cfg.INPUT.MOSAIC,
            "mixup": cfg.INPUT.MIXUP,
            "copy_paste": cfg.INPUT.COPY_PASTE,
            "with_masks": cfg.MODEL.MASK_ON,
        }

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index: int) -> dict:
        record = self.dataset[index]
        is_drawn = np.random.rand(3) < (self.mosaic, self.mixup, self.copy_paste)
        if not is_drawn.any():
            return self.mapper(record)
        scene = self._read(record)
        if is_drawn[0]:
            scene = mosaic([scene, *(self._draw() for _ in range(3))])
        if is_drawn[1]:
            scene = mixup(scene, self._draw())
        if is_drawn[2]:
            scene = copy_paste(scene, self._draw())
        return self.mapper.map_image(self._to_record(record, scene), scene.image)

    def _draw(self):
        return self._read(self.dataset[np.random.randint(len(self.dataset))])

    def _read(self, record):
        if "sem_seg_file_name" in record:
            raise ValueError(
                "INPUT.MOSAIC, INPUT.MIXUP and INPUT.COPY_PASTE do not mix semantic segmentation, "
                "which the data set has: set them to 0"
            )
        image = read_record_image(record, self.mapper.image_format)
        with_masks = self.with_masks or self.copy_paste > 0
        objects = [
            _to_object(annotation, image.shape[:2], with_masks)
            for annotation in record.get("annotations", ())
            if not annotation.get("iscrowd", 0)
        ]
        return Scene(image, objects)

    def _to_record(self, record, scene):
        height, width = scene.image.shape[:2]
        annotations = [_to_annotation(x, self.with_masks) for x in scene.objects]
        return {**record, "height": height, "width": width, "annotations": annotations}


def mosaic(scenes: Sequence[Scene]) -> Scene:
    """Four images around a random point, each with the corner that is nearest to it.

    Args:
        scenes (sequence of Scene): four; the mosaic has the size of the first.
    """
    height, width = scenes[0].image.shape[:2]
    x, y = (int(side * np.random.uniform(*_CENTRE)) for side in (width, height))
    canvas = Scene(np.full_like(scenes[0].image, _FILL))
    for i, scene in enumerate(scenes):
        right, below = i % 2, i // 2
        scene = _resized(scene, (height, width), np.random.uniform(*_MOSAIC_SCALES))
        scene_height, scene_width = scene.image.shape[:2]
        corner = (x if right else x - scene_width, y if below else y - scene_height)
        x0, x1 = (x, width) if right else (0, x)
        y0, y1 = (y, height) if below else (0, y)
        part = _placed(scene, corner, (x0, y0, x1, y1), (height, width))
        canvas.image[y0:y1, x0:x1] = part.image[y0:y1, x0:x1]
        canvas.objects += part.objects
    return canvas


def mixup(scene: Scene, other: Scene) -> Scene:
    """The mean of two images, with the objects of both. The result has the size of the first."""
    size = scene.image.shape[:2]
    other = _at_random_place(other, size, _MIXUP_SCALES)
    mean = _MIXUP_WEIGHT * scene.image + (1 - _MIXUP_WEIGHT) * other.image
    return Scene(mean.round().astype(np.uint8), scene.objects + other.objects)


def copy_paste(scene: Scene, other: Scene) -> Scene:
    """An image with objects of another one in front of its own.

    Args:
        scene (Scene): is pasted into. Objects with masks of which little is left to be seen are
            taken out, the boxes of others shrink to what is left.
        other (Scene): its objects with masks may be pasted.
    """
    other = _at_random_place(other, scene.image.shape[:2], _PASTE_SCALES)
    candidates = [x for x in other.objects if "mask" in x]
    pasted = [x for x in candidates if np.random.rand() < _PASTE_SHARE]
    if not pasted:
        return scene
    front = np.logical_or.reduce([x["mask"] for x in pasted])
    image = np.where(front[:, :, None], other.image, scene.image)
    objects = [_covered(x, front) for x in scene.objects]
    return Scene(image, [x for x in objects if x is not None] + pasted)


def _to_object(annotation, size, with_masks):
    found = {
        "category_id": annotation["category_id"],
        "bbox": np.array(
            BoxMode.convert(annotation["bbox"], annotation["bbox_mode"], BoxMode.XYXY_ABS)
        ),
    }
    mask = annotation.get("segmentation")
    if with_masks and isinstance(mask, dict):
        found["mask"] = mask_util.decode(mask).astype(bool)
    elif with_masks and mask:
        found["mask"] = polygons_to_bitmask([np.asarray(x, float) for x in mask], *size)
    if "keypoints" in annotation:
        found["keypoints"] = np.array(annotation["keypoints"], float).reshape(-1, 3)
    return found


def _to_annotation(found, with_masks):
    annotation = {
        "category_id": found["category_id"],
        "bbox": found["bbox"].tolist(),
        "bbox_mode": BoxMode.XYXY_ABS,
        "iscrowd": 0,
    }
    if with_masks and "mask" in found:
        annotation["segmentation"] = mask_util.encode(
            np.asfortranarray(found["mask"].astype(np.uint8))
        )
    if "keypoints" in found:
        annotation["keypoints"] = found["keypoints"].reshape(-1).tolist()
    return annotation


def _at_random_place(scene, size, scales):
    """The scene at a random scale and place on an empty image of a size (height, width)."""
    scene = _resized(scene, size, np.random.uniform(*scales))
    free = np.subtract(size, scene.image.shape[:2])  # negative where it is larger
    y, x = (int(np.random.uniform(min(0, rest), max(0, rest))) for rest in free)
    return _placed(scene, (x, y), (0, 0, size[1], size[0]), size)


def _resized(scene, size, scale):
    """The scene at a multiple of the scale at which it fits into a size (height, width)."""
    height, width = scene.image.shape[:2]
    scale *= min(size[0] / height, size[1] / width)
    new = (max(1, round(width * scale)), max(1, round(height * scale)))
    ratio = np.divide(new, (width, height))
    objects = []
    for found in scene.objects:
        found = {**found, "bbox": found["bbox"] * np.tile(ratio, 2)}
        if "mask" in found:
            mask = cv2.resize(found["mask"].astype(np.uint8), new, interpolation=cv2.INTER_NEAREST)
            found["mask"] = mask.astype(bool)
        if "keypoints" in found:
            found["keypoints"] = found["keypoints"] * [*ratio, 1]
        objects.append(found)
    return Scene(cv2.resize(scene.image, new, interpolation=cv2.INTER_LINEAR), objects)


def _placed(scene, corner, window, size):
    """The part of a scene that is in a window, on an empty image.

    Args:
        scene (Scene): what is placed.
        corner (tuple): x, y of its upper left corner on the new image; may be outside.
        window (tuple): x0, y0, x1, y1 of what may be seen of it there.
        size (tuple): height and width of the new image.
    """
    x, y = corner
    height, width = scene.image.shape[:2]
    x0, y0 = max(window[0], x), max(window[1], y)
    x1, y1 = max(x0, min(window[2], x + width)), max(y0, min(window[3], y + height))
    target, source = np.s_[y0:y1, x0:x1], np.s_[y0 - y : y1 - y, x0 - x : x1 - x]
    image = np.full((*size, scene.image.shape[2]), _FILL, np.uint8)
    image[target] = scene.image[source]
    objects = []
    for found in scene.objects:
        before = found["bbox"] + np.tile(corner, 2)
        box = np.clip(before, (x0, y0, x0, y0), (x1, y1, x1, y1))
        if _area(box) < _MIN_VISIBLE * _area(before):
            continue
        found = {**found, "bbox": box}
        if "mask" in found:
            mask = np.zeros(size, bool)
            mask[target] = found["mask"][source]
            if not mask.any():
                continue
            found["mask"] = mask
        if "keypoints" in found:
            points = found["keypoints"] + [x, y, 0]
            inside = ((points[:, :2] >= (x0, y0)) & (points[:, :2] <= (x1, y1))).all(1)
            found["keypoints"] = points * inside[:, None]
        objects.append(found)
    return Scene(image, objects)


def _covered(found, front):
    """What is left of an object behind others; None if it is too little. (H, W) bool ``front``."""
    if "mask" in found:
        mask = found["mask"] & ~front
        if mask.sum() < _MIN_VISIBLE * found["mask"].sum() or not mask.any():
            return None
        if mask.sum() == found["mask"].sum():
            return found
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        box = np.array([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1], float)
        return {**found, "mask": mask, "bbox": box}
    x0, y0, x1, y1 = np.round(found["bbox"]).astype(int)
    hidden = front[y0:y1, x0:x1]
    return None if hidden.size and hidden.mean() > 1 - _MIN_VISIBLE else found


def _area(box):
    return (box[2] - box[0]) * (box[3] - box[1])
