"""What can be known to be wrong with a run's data, said before anything is built."""

import functools
import itertools
import os

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.file_io import PathManager

from anchor_heads.data.coco_format import ENTRY_FORM, CocoFormatDataset, register_coco_format
from anchor_heads.data.coco_json import describe, shorten


def check_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Check all that can be known to be wrong with a run's data before anything is built.

    Checks the data sets' names, annotations and image files, and the model's number of classes.
    Of data sets that are not in ``DATASETS.COCO_FORMAT`` only the classes and whether the files'
    places exist are checked. Calls ``register_coco_format``.

    Args:
        cfg (CfgNode): the full config.
        train (bool): False if the run only evaluates: ``DATASETS.TRAIN`` need not exist then.

    Raises:
        ValueError: unknown data set, invalid annotations, classes that do not fit the model or
            each other, nothing to train on.
        FileNotFoundError: annotation file or images missing.
    """
    register_coco_format(cfg)
    used = _used_names(cfg, train)
    for key, names in used.items():
        if not names:
            raise ValueError(f"{key} is empty: name at least one data set in it")
        for name in names:
            _check_registered(cfg, key, name)
            if not isinstance(dataset := DatasetCatalog[name], CocoFormatDataset):
                _check_detectron2_files(name)
                continue
            coco = dataset.read()
            dataset.set_classes(coco)
            dataset.check_images(coco)
            if key == "DATASETS.TRAIN":
                _check_trainable(cfg, name, coco)
    _check_classes(cfg, itertools.chain(*used.values()))


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
    for path in (metadata.get("json_file"), metadata.get("image_root")):
        if path and not PathManager.exists(path):
            raise FileNotFoundError(
                f"data set '{name}': {path} does not exist. Detectron2 looks for its own data "
                "sets in the folder that the environment variable DETECTRON2_DATASETS names "
                f"(now: {os.getenv('DETECTRON2_DATASETS', 'not set, so ./datasets')})"
            )


def _check_trainable(cfg, name, coco):
    if "annotations" not in coco:
        raise ValueError(f"DATASETS.TRAIN: the file of data set '{name}' has no 'annotations'")
    objects = [annotation for annotation in coco["annotations"] if not annotation["iscrowd"]]
    if not objects and cfg.DATALOADER.FILTER_EMPTY_ANNOTATIONS:
        raise ValueError(
            f"DATASETS.TRAIN: data set '{name}' has no object to train on, and images without "
            "objects are left out (DATALOADER.FILTER_EMPTY_ANNOTATIONS True)"
        )
    without_mask = [annotation for annotation in objects if not annotation.get("segmentation")]
    if without_mask and cfg.MODEL.MASK_ON:
        raise ValueError(
            f"DATASETS.TRAIN: {len(without_mask)} of {len(objects)} objects of data set '{name}' "
            f"have no segmentation, first: {describe(without_mask[0], 0)}; a model with "
            "MODEL.MASK_ON True learns masks: complete the file or set MODEL.MASK_ON False"
        )


def _check_classes(cfg, names):
    """Compare the model's number of classes with the data sets', and the data sets' classes."""
    key = _num_classes_key(cfg)
    if key is None:
        return
    num_classes = functools.reduce(getattr, key.split("."), cfg)
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


def _num_classes_key(cfg):
    """The key that holds the model's number of classes; None for models without classes."""
    architecture = META_ARCH_REGISTRY.get(cfg.MODEL.META_ARCHITECTURE)
    if issubclass(architecture, DenseDetector):
        return "MODEL.RETINANET.NUM_CLASSES"
    if issubclass(architecture, GeneralizedRCNN):
        return "MODEL.ROI_HEADS.NUM_CLASSES"
    return None
