"""What can be known to be wrong with a run's data, said before anything is built."""

import functools
import importlib.util
import itertools
import logging
import os
from collections.abc import Callable, Sequence
from operator import attrgetter
from typing import TypeVar

import numpy as np
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import (
    META_ARCH_REGISTRY,
    GeneralizedRCNN,
    PanopticFPN,
    SemanticSegmentor,
)
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import BoxMode
from detectron2.utils import comm
from detectron2.utils.file_io import PathManager

from anchor_heads.checkpoint.safe_pickle import UnsafePickleError, load_pickle
from anchor_heads.data.coco_format import (
    ENTRY_FORM,
    CocoFormatDataset,
    check_name,
    register_coco_format,
)
from anchor_heads.data.coco_json import cleaning_of, describe
from anchor_heads.errors import shorten

logger = logging.getLogger(__name__)

# What the entries of a file of proposals were called in Detectron.
_NAMES_SINCE_DETECTRON = {"indexes": "ids", "scores": "objectness_logits"}
# Where Detectron2's own data sets lie, by their metadata.
_PLACES = ("json_file", "image_root", "dirname", "image_dir", "gt_dir")
# From this many images on, reading their headers takes seconds.
_MANY_IMAGES = 5000

Result = TypeVar("Result")


def check_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Check all that can be known to be wrong with a run's data before anything is built.

    Checks the data sets' names, annotations and image files, the model's number of classes and
    keypoints, masks, and precomputed proposals where ``MODEL.LOAD_PROPOSALS`` asks for them. Of
    data sets that are not in ``DATASETS.COCO_FORMAT`` only the name, the classes, the proposals and
    whether the files' places exist are checked. Calls ``register_coco_format``.

    With ``DATASETS.CHECK_IMAGES`` the headers of all image files are read, in one process of each
    machine.

    Args:
        cfg (CfgNode): the full config.
        train (bool): False if the run only evaluates: ``DATASETS.TRAIN`` need not exist then.

    Raises:
        ValueError: unknown data set, invalid annotations, images of another size, classes that do
            not fit the model or each other, nothing to train on, images without precomputed
            proposals.
        FileNotFoundError: annotation file, images or file of proposals missing.
        ImageFileError: image files that cannot be read or are not of the annotated size.
    """
    check_input_format(cfg)
    register_coco_format(cfg)
    used = _used_names(cfg, train)
    for key, names in used.items():
        if not names:
            raise ValueError(f"{key} is empty: name at least one data set in it")
        if key == "DATASETS.TEST" and len(set(names)) < len(names):  # results are by name
            raise ValueError(f"{key} is {names}: name each data set once")
        for name in names:
            check_name(name)
            _check_registered(cfg, key, name)
            if not isinstance(dataset := DatasetCatalog[name], CocoFormatDataset):
                _check_detectron2_files(name)
                continue
            coco = dataset.read()
            dataset.set_classes(coco)
            dataset.check_images(coco)
            if key == "DATASETS.TRAIN":
                _check_trainable(cfg, name, coco)
    if train:
        _check_mixing(cfg)
    _check_classes(cfg, itertools.chain(*used.values()))
    if cfg.DATASETS.CHECK_IMAGES:
        _check_headers(dict.fromkeys(itertools.chain(*used.values())))
    _check_proposals(cfg, used)


def check_input_format(cfg: CfgNode) -> None:
    """Raise ValueError unless the model takes images of three colours, as all commands give it."""
    if cfg.INPUT.FORMAT not in ("BGR", "RGB"):
        raise ValueError(
            f"INPUT.FORMAT is {cfg.INPUT.FORMAT!r}: Detectron2's DefaultPredictor, and so every "
            'command here, gives a model images in "BGR" or "RGB". Grey images are read as three '
            "equal channels: set INPUT.FORMAT BGR, and three values in MODEL.PIXEL_MEAN and "
            "MODEL.PIXEL_STD"
        )


def _check_headers(names):
    for name in names:
        if isinstance(dataset := DatasetCatalog[name], CocoFormatDataset):
            dataset.set_frame(_once_per_machine(functools.partial(_read_headers, dataset)))


def _read_headers(dataset):
    coco = dataset.read()
    if len(coco["images"]) >= _MANY_IMAGES:
        logger.info(
            f"Reading the headers of {len(coco['images'])} images of data set '{dataset.name}' "
            "(DATASETS.CHECK_IMAGES False leaves it out)"
        )
    return dataset.check_headers(coco)


def _once_per_machine(check: Callable[[], Result]) -> Result:
    """What a check returns or raises, in every process, called in one process of each machine."""
    result, error = None, None
    if comm.get_local_rank() == 0:
        try:
            result = check()
        except Exception as raised:  # the other processes wait for it
            error = raised
    found = comm.all_gather((result, error))
    for _, error in found:
        if error is not None:
            raise error
    return next((result for result, _ in found if result is not None), None)


def _used_names(cfg, train):
    used = {"DATASETS.TRAIN": tuple(cfg.DATASETS.TRAIN)} if train else {}
    if not train or cfg.DATASETS.TEST:
        used["DATASETS.TEST"] = tuple(cfg.DATASETS.TEST)
    return used


def _check_registered(cfg, key, name):
    if name not in DatasetCatalog:
        listed = ", ".join(entry[0] for entry in cfg.DATASETS.COCO_FORMAT) or "nothing yet"
        form = ENTRY_FORM.replace("name", name, 1)
        raise ValueError(
            f"{key}: there is no data set '{name}'. Data sets of your own are listed in "
            f"DATASETS.COCO_FORMAT (now: {listed}); add the entry {form}"
        )


def _check_detectron2_files(name):
    metadata = MetadataCatalog.get(name)
    for path in map(metadata.get, _PLACES):
        if path and not PathManager.exists(path):
            raise FileNotFoundError(
                f"data set '{name}': {path} does not exist. Detectron2 looks for its own data "
                "sets in the folder that the environment variable DETECTRON2_DATASETS names "
                f"(now: {os.getenv('DETECTRON2_DATASETS', 'not set, so ./datasets')})"
            )


def _check_trainable(cfg, name, coco):
    if "annotations" not in coco:
        raise ValueError(f"DATASETS.TRAIN: the file of data set '{name}' has no 'annotations'")
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(architecture, (PanopticFPN, SemanticSegmentor)):
        raise ValueError(
            f"DATASETS.TRAIN: {cfg.MODEL.META_ARCHITECTURE} is for semantic segmentation, which "
            f"data set '{name}' in COCO format does not have: set MODEL.META_ARCHITECTURE to a "
            "detector"
        )
    objects = [annotation for annotation in coco["annotations"] if not annotation["iscrowd"]]
    if not objects and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        box_format = cleaning_of(DatasetCatalog[name].json_file).box_format
        reason = f". The boxes of its file look like {box_format}" if box_format else ""
        raise ValueError(
            f"DATASETS.TRAIN: data set '{name}' has no object to train on, and images without "
            f"objects are left out (DATALOADER.FILTER_EMPTY_ANNOTATIONS True){reason}"
        )
    if cfg.INPUT.COPY_PASTE and not any(annotation.get("segmentation") for annotation in objects):
        raise ValueError(
            f"INPUT.COPY_PASTE is {cfg.INPUT.COPY_PASTE}, and no object of data set '{name}' has a "
            "segmentation to be cut out by: set it to 0"
        )
    if cfg.MODEL.MASK_ON:
        _check_masks(cfg, name, objects)
    if cfg.MODEL.KEYPOINT_ON:
        _check_keypoints(cfg, name, objects)


def _check_masks(cfg, name, objects):
    without_mask = [annotation for annotation in objects if not annotation.get("segmentation")]
    if without_mask:
        raise ValueError(
            f"DATASETS.TRAIN: {len(without_mask)} of {len(objects)} objects of data set '{name}' "
            f"have no segmentation, first: {describe(without_mask[0], 0)}; a model with "
            "MODEL.MASK_ON True needs masks: complete the file or set MODEL.MASK_ON False"
        )
    if cfg.INPUT.CROP.ENABLED and importlib.util.find_spec("shapely") is None:
        raise ValueError(
            "Detectron2 crops polygons (INPUT.CROP.ENABLED) with shapely, which is not installed: "
            "pip install shapely"
        )
    as_bitmap = [a for a in objects if isinstance(a["segmentation"], dict)]
    if as_bitmap and cfg.INPUT.MASK_FORMAT == "polygon":
        raise ValueError(
            f"DATASETS.TRAIN: {len(as_bitmap)} of {len(objects)} masks of data set '{name}' are "
            f"run-length codes, first: {describe(as_bitmap[0], 0)}: set INPUT.MASK_FORMAT bitmask"
        )


def _check_keypoints(cfg, name, objects):
    with_keypoints = [annotation for annotation in objects if "keypoints" in annotation]
    if len(with_keypoints) < len(objects) or not objects:
        raise ValueError(
            f"DATASETS.TRAIN: {len(objects) - len(with_keypoints)} of {len(objects)} objects of "
            f"data set '{name}' have no keypoints; a model with MODEL.KEYPOINT_ON True learns "
            "them: complete the file or set MODEL.KEYPOINT_ON False"
        )
    metadata = MetadataCatalog.get(name)
    names = metadata.get("keypoint_names")
    if names is None:
        raise ValueError(
            f"DATASETS.TRAIN: the categories of data set '{name}' have different keypoints, and a "
            "model with MODEL.KEYPOINT_ON True learns one set for all of them"
        )
    if cfg.INPUT.RANDOM_FLIP == "horizontal" and not metadata.keypoint_flip_map:
        logger.warning(
            f"The keypoints of data set '{name}' ({shorten(names)}) are not named as pairs of "
            "left and right, so each stays what it is when images are mirrored. If some are such "
            "pairs, name them so in the category's 'keypoints', or set INPUT.RANDOM_FLIP none."
        )
    key, number = "MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS", cfg.MODEL.ROI_KEYPOINT_HEAD.NUM_KEYPOINTS
    if number != len(names):
        raise ValueError(
            f"{key} is {number}, but the objects of data set '{name}' have {len(names)} "
            f"({shorten(names)}). Write {key} {len(names)}"
        )


def _check_mixing(cfg):
    """Check the augmentations that mix images."""
    probabilities = {f"INPUT.{key}": cfg.INPUT[key] for key in ("MOSAIC", "MIXUP", "COPY_PASTE")}
    for key, value in probabilities.items():
        if not 0 <= value <= 1:
            raise ValueError(f"{key} is {value}: a probability is from 0 to 1")
    used = [key for key, value in probabilities.items() if value]
    if used and cfg.MODEL.LOAD_PROPOSALS:
        raise ValueError(f"{used[0]}: mixed images have no precomputed proposals: set it to 0")
    if used and cfg.MODEL.MASK_ON and cfg.INPUT.MASK_FORMAT == "polygon":
        raise ValueError(
            f"{used[0]}: polygons are not cut where images meet: set INPUT.MASK_FORMAT bitmask"
        )


def _check_classes(cfg, names):
    """Compare the model's number of classes with the data sets', and the data sets' classes."""
    key = num_classes_key(cfg)
    if key is None:
        return
    num_classes = attrgetter(key)(cfg)
    known = {name: MetadataCatalog.get(name).get("thing_classes") for name in names}
    known = {name: list(classes) for name, classes in known.items() if classes}
    for name, classes in known.items():
        if len(classes) != num_classes:
            raise ValueError(
                f"{key} is {num_classes}, but data set '{name}' has {len(classes)} classes "
                f"({shorten(classes)}). Write {key} {len(classes)}"
            )
    for a, b in itertools.pairwise(known):
        for i, (class_a, class_b) in enumerate(zip(known[a], known[b], strict=True)):
            if class_a != class_b:
                raise ValueError(
                    f"data sets '{a}' and '{b}' have different classes: the one with index {i} "
                    f"(by ascending category id) is '{class_a}' in '{a}' and '{class_b}' in '{b}'"
                )


def check_class_order(
    weights: str, trained: Sequence[str] | None, cfg: CfgNode, data_sets: Sequence[str]
) -> None:
    """Compare the classes that a model was trained with, with those of data sets.

    Other names are logged. A model without classes, or classes without names, are no error.

    Args:
        weights (str): the file of the model, for messages.
        trained (sequence[str] or None): the names of its classes; none = not known.
        cfg (CfgNode): of the model.
        data_sets (sequence[str]): which have the same classes.

    Raises:
        ValueError: if the names are the same, and their order is another.
    """
    trained = list(trained or ())
    classes = list(MetadataCatalog.get(data_sets[0]).get("thing_classes", ()))
    if not (trained and classes and num_classes_key(cfg)) or trained == classes:
        return
    differ = (
        f"{weights} is of a training with the classes {shorten(trained, 100)}, and data set "
        f"'{data_sets[0]}' has {shorten(classes, 100)}"
    )
    if sorted(trained) == sorted(classes):
        raise ValueError(
            f"{differ}: the same in another order. The order is that of the category ids: number "
            "the categories in the annotation file as the checkpoint has them."
        )
    logger.warning(f"{differ}. Class i of the one is taken for class i of the other.")


def num_classes_key(cfg: CfgNode) -> str | None:
    """The key that holds the model's number of classes; None for models without classes."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(architecture, DenseDetector):
        return "MODEL.RETINANET.NUM_CLASSES"
    if issubclass(architecture, GeneralizedRCNN):
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    return None


def _check_proposals(cfg, used):
    """Check that there is a file of precomputed proposals for each data set, if they are used."""
    if not cfg.MODEL.LOAD_PROPOSALS:
        if cfg.MODEL.PROPOSAL_GENERATOR.NAME == "PrecomputedProposals":
            raise ValueError(
                'MODEL.PROPOSAL_GENERATOR.NAME is "PrecomputedProposals": set MODEL.LOAD_PROPOSALS '
                "True, and name the files in DATASETS.PROPOSAL_FILES_TRAIN and _TEST"
            )
        return
    for key, names in used.items():
        files_key = key.replace("DATASETS.", "DATASETS.PROPOSAL_FILES_")
        files = getattr(cfg.DATASETS, files_key.removeprefix("DATASETS."))
        if len(files) != len(names):
            raise ValueError(
                f"{files_key} names {len(files)} files and {key} {len(names)} data sets: name one "
                "file of proposals for each data set, in the same order"
            )
        for file, name in zip(files, names, strict=True):
            label = f"{files_key}: {file}"
            _once_per_machine(functools.partial(_check_proposal_file, label, file, name))


def _check_proposal_file(label, file, name):
    if not PathManager.isfile(file):
        raise FileNotFoundError(
            f"{label} does not exist. A ProposalNetwork writes such a file, box_proposals.pkl "
            f"below OUTPUT_DIR/inference, when it is evaluated with '{name}' in DATASETS.TEST"
        )
    try:
        with PathManager.open(file, "rb") as f:
            content = load_pickle(f, label)
        content = {_NAMES_SINCE_DETECTRON.get(key, key): value for key, value in content.items()}
        columns = [content[key] for key in ("ids", "boxes", "objectness_logits")]
        BoxMode(content.get("bbox_mode", BoxMode.XYXY_ABS))
        with_proposals = set()
        for image_id, boxes, logits in zip(*columns, strict=True):
            _check_proposals_of_image(image_id, boxes, logits)
            with_proposals.add(str(image_id))
    except UnsafePickleError:
        raise
    except Exception as error:  # what is in it may be anything
        raise ValueError(f"{label} is not a file of proposals ({error!r})") from None
    ids = [str(record["image_id"]) for record in DatasetCatalog.get(name)]
    missing = [image_id for image_id in ids if image_id not in with_proposals]
    if missing:
        raise ValueError(
            f"{label} has nothing for {len(missing)} of {len(ids)} images of data set '{name}', "
            f"the first with the id {missing[0]}. Is it the file of another data set?"
        )


def _check_proposals_of_image(image_id, boxes, logits):
    boxes, logits = np.asarray(boxes, np.float64), np.asarray(logits, np.float64)
    if boxes.size and boxes.shape[1:] != (4,) or logits.shape != boxes.shape[:1]:
        raise ValueError(
            f"image {image_id} has boxes of the shape {boxes.shape} and scores of {logits.shape}"
        )
    if not (np.isfinite(boxes).all() and np.isfinite(logits).all()):
        raise ValueError(f"image {image_id} has boxes or scores that are not finite")
