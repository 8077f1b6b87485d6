"""What can be known to be wrong with a run's data, said before anything is built."""

import functools
import itertools
import os
import pickle

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils.file_io import PathManager

from anchor_heads.data.coco_format import ENTRY_FORM, CocoFormatDataset, register_coco_format
from anchor_heads.data.coco_json import describe, shorten

# What the entries of a file of proposals were called in Detectron.
_NAMES_SINCE_DETECTRON = {"indexes": "ids", "scores": "objectness_logits"}


def check_datasets(cfg: CfgNode, train: bool = True) -> None:
    """Check all that can be known to be wrong with a run's data before anything is built.

    Checks the data sets' names, annotations and image files, the model's number of classes, and
    precomputed proposals where ``MODEL.LOAD_PROPOSALS`` asks for them. Of data sets that are not in
    ``DATASETS.COCO_FORMAT`` only the classes, the proposals and whether the files' places exist
    are checked. Calls ``register_coco_format``.

    Args:
        cfg (CfgNode): the full config.
        train (bool): False if the run only evaluates: ``DATASETS.TRAIN`` need not exist then.

    Raises:
        ValueError: unknown data set, invalid annotations, classes that do not fit the model or
            each other, nothing to train on, images without precomputed proposals.
        FileNotFoundError: annotation file, images or file of proposals missing.
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
    _check_proposals(cfg, used)


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
            _check_proposal_file(f"{files_key}: {file}", file, name)


def _check_proposal_file(label, file, name):
    if not PathManager.isfile(file):
        raise FileNotFoundError(
            f"{label} does not exist. A ProposalNetwork writes such a file, box_proposals.pkl "
            f"below OUTPUT_DIR/inference, when it is evaluated with '{name}' in DATASETS.TEST"
        )
    try:
        with PathManager.open(file, "rb") as f:
            content = pickle.load(f, encoding="latin1")
        content = {_NAMES_SINCE_DETECTRON.get(key, key): value for key, value in content.items()}
        columns = [content[key] for key in ("ids", "boxes", "objectness_logits")]
        with_proposals = {str(image_id) for image_id, _, _ in zip(*columns, strict=True)}
    except Exception as error:  # reading a file that is no pickle may raise anything
        raise ValueError(f"{label} is not a file of proposals ({error!r})") from None
    ids = [str(record["image_id"]) for record in DatasetCatalog.get(name)]
    missing = [image_id for image_id in ids if image_id not in with_proposals]
    if missing:
        raise ValueError(
            f"{label} has nothing for {len(missing)} of {len(ids)} images of data set '{name}', "
            f"the first with the id {missing[0]}. Is it the file of another data set?"
        )
