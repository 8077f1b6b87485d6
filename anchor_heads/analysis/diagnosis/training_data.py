"""The training data as arrays, in the frame that the network sees.

Shape shorthand in this module:

    I: number of images that are trained on
    M: number of objects in them
"""

from dataclasses import dataclass, replace
from itertools import chain

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.build import (
    filter_images_with_few_keypoints,
    filter_images_with_only_crowd_annotations,
)
from detectron2.data.transforms import ResizeShortestEdge
from detectron2.structures import BoxMode

from anchor_heads.data.checks import check_datasets
from anchor_heads.data.coco_format import CocoFormatDataset
from anchor_heads.data.coco_json import Cleaning, cleaning_of


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
        return Objects(*(values[index] for values in vars(self).values()))

    @property
    def sides(self) -> np.ndarray:
        """(M, 2) widths and heights."""
        return self.boxes[:, 2:] - self.boxes[:, :2]

    @property
    def sizes(self) -> np.ndarray:
        """(M,) square roots of the areas."""
        return np.sqrt(self.sides.prod(axis=1))

    @property
    def aspect_ratios(self) -> np.ndarray:
        """(M,) heights over widths."""
        return self.sides[:, 1] / self.sides[:, 0]

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
    num_left_out: int
    """Images left out of training because they have no objects; crowds do not count."""
    cleaning: tuple[Cleaning, ...] = ()
    """What was done to each annotation file that a data set of ``DATASETS.COCO_FORMAT`` has."""
    scale: float = 1.0
    """Pixels of the network's input for one of the stored image, in the median."""

    @property
    def objects_per_image(self) -> np.ndarray:
        """(I,)"""
        return np.bincount(self.objects.images, minlength=len(self.image_sizes))


def read_training_data(cfg: CfgNode) -> TrainingData:
    """Read the annotations of ``DATASETS.TRAIN``. No image is read.

    Boxes are resized as in training; where training samples the short side, with
    :func:`short_side`. Random crops and flips are left aside.

    Raises:
        ValueError, FileNotFoundError: if training could not read the data sets; the message says
            what to write.
    """
    _check_readable(cfg)
    records = list(chain.from_iterable(map(DatasetCatalog.get, cfg.DATASETS.TRAIN)))
    num_left_out = len(records)
    if cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        records = filter_images_with_only_crowd_annotations(records)
    num_left_out -= len(records)
    if cfg.MODEL.KEYPOINT_ON:  # as the loader does
        fewest = cfg.MODEL.ROI_KEYPOINT_HEAD.MIN_KEYPOINTS_PER_IMAGE
        records = filter_images_with_few_keypoints(records, fewest)
    by_image = [[a for a in r["annotations"] if not a.get("iscrowd", 0)] for r in records]
    annotations = list(chain.from_iterable(by_image))
    classes = np.array([a["category_id"] for a in annotations], np.int64)
    images = np.repeat(np.arange(len(records)), list(map(len, by_image)))
    sizes = np.array([(r["width"], r["height"]) for r in records], np.float64).reshape(-1, 2)
    side, max_size = short_side(cfg), cfg.INPUT.MAX_SIZE_TRAIN
    shapes = [ResizeShortestEdge.get_output_shape(h, w, side, max_size) for w, h in sizes.tolist()]
    new_sizes = np.array(shapes, np.float64)[:, ::-1] if side else sizes
    boxes = _upright_boxes(annotations) * np.tile(new_sizes / sizes, 2)[images]
    image_sizes = new_sizes.astype(np.float32)
    names = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]).get("thing_classes")
    data_sets = [DatasetCatalog[name] for name in cfg.DATASETS.TRAIN]
    return TrainingData(
        objects=Objects(boxes.astype(np.float32), image_sizes[images], classes, images),
        image_sizes=image_sizes,
        class_names=list(names or map(str, range(classes.max(initial=-1) + 1))),
        num_left_out=num_left_out,
        cleaning=tuple(
            cleaning_of(x.json_file) for x in data_sets if isinstance(x, CocoFormatDataset)
        ),
        scale=float(np.median(new_sizes / sizes)) if len(sizes) else 1.0,
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
    """(M, 4) of annotations in Detectron2's format; those around rotated boxes."""
    modes = np.array([a["bbox_mode"] for a in annotations], np.int64)
    boxes = np.empty((len(annotations), 4))
    for mode in np.unique(modes):
        of_mode = [a["bbox"] for a in annotations if a["bbox_mode"] == mode]
        of_mode = np.array(of_mode, np.float64)
        boxes[modes == mode] = BoxMode.convert(of_mode, BoxMode(mode), BoxMode.XYXY_ABS)
    return boxes
