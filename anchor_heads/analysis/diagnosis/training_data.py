"""The training data as arrays, in the frame that the network sees.

Shape shorthand in this module:

    I: number of images that are trained on
    M: number of objects in them
"""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode

from anchor_heads.data.checks import check_datasets
from anchor_heads.data.coco_format import CocoFormatDataset
from anchor_heads.data.coco_json import Cleaning, cleaning_of

# Objects whose overlaps with anchors are computed at a time.
CHUNK = 2**14


@dataclass(frozen=True)
class Objects:
    """M objects, without crowds."""

    boxes: np.ndarray
    """(M, 4) float32, x0, y0, x1, y1 in pixels."""
    image_sizes: np.ndarray
    """(M, 2) float32, width and height of the image of each."""
    classes: np.ndarray
    """(M,) int64."""
    images: np.ndarray
    """(M,) int64 in [0, I)."""

    def __len__(self) -> int:
        return len(self.boxes)

    def __getitem__(self, index) -> "Objects":
        """Some of them, by a slice, indices or a mask."""
        return Objects(*(vars(self)[x.name][index] for x in fields(self)))

    @property
    def sides(self) -> np.ndarray:
        """(M, 2) widths and heights."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def sizes(self) -> np.ndarray:
        """(M,) square roots of the areas."""
        return np.sqrt(self.sides.prod(axis=1))

    def chunks(self) -> Iterator["Objects"]:
        """All of them in parts of at most :data:`CHUNK`, at least one part."""
        for start in range(0, max(1, len(self)), CHUNK):
            yield self[start : start + CHUNK]

    def sample(self, number: int) -> "Objects":
        """At most ``number`` of them, always the same."""
        if len(self) <= number:
            return self
        return self[np.random.default_rng(0).choice(len(self), number, replace=False)]

    def enlarged(self, factor: float) -> "Objects":
        """As if the images were enlarged."""
        boxes, sizes = (x * np.float32(factor) for x in (self.boxes, self.image_sizes))
        return replace(self, boxes=boxes, image_sizes=sizes)


@dataclass(frozen=True)
class TrainingData:
    """What a config trains on."""

    objects: Objects
    image_sizes: np.ndarray
    """(I, 2) float32, width and height in pixels of the network's input."""
    class_names: list[str]
    num_images_without_objects: int
    """Images without objects, crowds aside. They are among the I images unless
    ``DATALOADER.FILTER_EMPTY_ANNOTATIONS`` leaves them out."""
    num_images_in_files: int
    cleaning: tuple[Cleaning, ...] = ()
    """What was done to each annotation file that a data set of ``DATASETS.COCO_FORMAT`` has."""

    @property
    def num_images(self) -> int:
        """I."""
        return len(self.image_sizes)

    @property
    def objects_per_image(self) -> np.ndarray:
        """(I,)"""
        return np.bincount(self.objects.images, minlength=self.num_images)

    @property
    def boxes_per_class(self) -> np.ndarray:
        """One number for each of the class names."""
        return np.bincount(self.objects.classes, minlength=len(self.class_names))


def read_training_data(cfg: CfgNode) -> TrainingData:
    """Read the annotations of ``DATASETS.TRAIN``. No image is read.

    Boxes are resized as in training; where training samples the short side, with
    :func:`short_side`. Random crops and flips are left aside.

    Raises:
        ValueError, FileNotFoundError: if training could not read the data sets; the message says
            what to write. If boxes are not upright.
    """
    _check_readable(cfg)
    records = list(itertools.chain.from_iterable(map(DatasetCatalog.get, cfg.DATASETS.TRAIN)))
    by_image = [[a for a in r["annotations"] if not a.get("iscrowd", 0)] for r in records]
    annotations = list(itertools.chain.from_iterable(by_image))
    counts = np.array(list(map(len, by_image)), np.int64)
    classes = np.array([a["category_id"] for a in annotations], np.int64)
    kept = (counts > 0) | (not cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS)
    images = np.repeat(np.arange(kept.sum()), counts[kept])
    sizes = np.array([(r["width"], r["height"]) for r in records], np.float64).reshape(-1, 2)[kept]
    new_sizes = _resized(sizes, short_side(cfg), cfg.INPUT.MAX_SIZE_TRAIN)
    boxes = _upright_boxes(annotations) * np.tile(new_sizes / sizes, 2)[images]
    image_sizes = new_sizes.astype(np.float32)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    return TrainingData(
        objects=Objects(boxes.astype(np.float32), image_sizes[images], classes, images),
        image_sizes=image_sizes,
        class_names=list(names or map(str, range(classes.max(initial=-1) + 1))),
        num_images_without_objects=int((counts == 0).sum()),
        num_images_in_files=len(counts),
        cleaning=tuple(
            cleaning_of(DatasetCatalog[name].json_file)
            for name in cfg.DATASETS.TRAIN
            if isinstance(DatasetCatalog[name], CocoFormatDataset)
        ),
    )


def short_side(cfg: CfgNode) -> int:
    """The short side of training images: the middle one where several are sampled. 0 if images
    are not resized."""
    sides = sorted(cfg.INPUT.MIN_SIZE_TRAIN)
    if cfg.INPUT.MIN_SIZE_TRAIN_SAMPLING == "range":
        return (sides[0] + sides[-1]) // 2
    return sides[len(sides) // 2]


def _check_readable(cfg):
    """Raise what keeps the training data from being read. Whether they fit the model is left to
    the findings, so a model without classes, masks and stored proposals is checked."""
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.merge_from_list(["META_ARCHITECTURE", "ProposalNetwork", "MASK_ON", False])
    cfg.MODEL.merge_from_list(["LOAD_PROPOSALS", False, "PROPOSAL_GENERATOR.NAME", "RPN"])
    cfg.DATASETS.TEST = ()
    check_datasets(cfg)


def _upright_boxes(annotations) -> np.ndarray:
    """(m, 4) of annotations in Detectron2's format."""
    modes = np.array([a["bbox_mode"] for a in annotations], np.int64)
    if BoxMode.XYWHA_ABS in modes:
        raise ValueError("The data set has rotated boxes; only upright ones can be diagnosed.")
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    for mode in np.unique(modes):
        of_mode = modes == mode
        boxes[of_mode] = BoxMode.convert(boxes[of_mode], BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes


def _resized(sizes: np.ndarray, side: int, max_size: int) -> np.ndarray:
    """What Detectron2 makes of images of these widths and heights, (i, 2)."""
    if side == 0:
        return sizes
    kinds, kind_of = np.unique(sizes, axis=0, return_inverse=True)
    resized = [
        ResizeShortestEdge.get_output_shape(height, width, side, max_size)[::-1]
        for width, height in kinds.tolist()
    ]
    return np.array(resized, np.float64).reshape(-1, 2)[kind_of.reshape(-1)]
