"""Data sets of one's own in COCO format, named in the config: ``DATASETS.COCO_FORMAT``.

An entry is ``(name, annotation json, image folder)``; paths are relative to the working directory
and ``~`` is the home folder. The name can then be used in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.

Annotation files of the wild are read kindly: see ``clean_coco_dict`` for what is filled in, what
is dropped with a warning, and what is an error.
"""

import contextlib
import functools
import gc
import itertools
import json
import logging
import marshal
import os
from dataclasses import dataclass

import numpy as np
import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.modeling import META_ARCH_REGISTRY, GeneralizedRCNN
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.structures import BoxMode
from detectron2.utils.file_io import PathManager

logger = logging.getLogger(__name__)

ENTRY_FORM = '("name", "path/to/annotations.json", "path/to/images")'
MIN_SIDE = 0.01  # pixels; a narrower box may have no width left once it is float32
CLIP_TOLERANCE = 0.01  # pixels; boxes that stick out by rounding alone are not worth a warning


def register_coco_format(cfg: CfgNode) -> None:
    """Register the data sets of ``cfg.DATASETS.COCO_FORMAT`` in Detectron2's catalogs.

    A set that ``DATASETS.TRAIN`` or ``DATASETS.TEST`` names also gets its classes in the metadata,
    if its annotation file exists; other sets get them when they are loaded. Registering the same
    entry again does nothing.

    Raises:
        ValueError: if an entry is not of the right form, if its name is taken, or if an annotation
            file is not in COCO format.
    """
    for entry in cfg.DATASETS.COCO_FORMAT:
        dataset = _dataset_of(entry)
        if dataset.name not in DatasetCatalog:
            DatasetCatalog.register(dataset.name, dataset)
            MetadataCatalog.get(dataset.name).set(
                json_file=dataset.json_file, image_root=dataset.image_root, evaluator_type="coco"
            )
        elif DatasetCatalog[dataset.name] != dataset:
            raise ValueError(
                f"DATASETS.COCO_FORMAT: the name '{dataset.name}' is taken by "
                f"{_describe_registered(dataset.name)}: choose another name"
            )
        used = dataset.name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST)
        if used and os.path.isfile(dataset.json_file):
            dataset.set_classes(dataset.read())


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


def clean_coco_dict(json_file: str) -> dict:
    """Read an annotation file in COCO format, complete it and drop what cannot be used.

    * Filled in where missing: ``info``, and an annotation's ``iscrowd`` (0) and ``area`` (the
      box's). Annotation ids are numbered anew from 1 if one is missing, repeated or 0 (which
      pycocotools' evaluation would take for "no match").
    * Dropped or changed, with one warning per file that counts them: boxes without width or
      height and boxes outside their image are dropped, boxes partly outside are clipped,
      annotations of images that the file does not list are dropped, polygons of fewer than 3
      points are taken out of the masks.
    * ``annotations`` may be missing, as in test sets; everything else is an error.

    The file is parsed once per process, and again when it changes.

    Args:
        json_file (str): path of the annotation file.

    Returns:
        dict: the content in COCO format, a copy of its own for each caller.

    Raises:
        ValueError: if the file cannot be used; names the file, the entry and what to do.
        FileNotFoundError: if there is no such file.
    """
    path = os.path.abspath(json_file)
    with _paused_garbage_collection():
        return marshal.loads(_cleaned(path, os.stat(path).st_mtime_ns))


@dataclass(frozen=True)
class CocoFormatDataset:
    """An entry of ``DATASETS.COCO_FORMAT``; calling it loads it, as ``DatasetCatalog`` wants.

    Attributes:
        name (str): its name in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.
        json_file (str): absolute path of the annotation file.
        image_root (str): absolute path of the image folder.
    """

    name: str
    json_file: str
    image_root: str

    def __call__(self) -> list[dict]:
        """
        Returns:
            list[dict]: one dict per image in Detectron2's data set format, by image id.
        """
        coco = self.read()
        self.set_classes(coco)
        classes = _contiguous_ids(coco)
        records = {}
        for image in sorted(coco["images"], key=lambda image: image["id"]):
            records[image["id"]] = {
                "file_name": os.path.join(self.image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [],
            }
        for annotation in coco.get("annotations", ()):
            record = records[annotation["image_id"]]
            record["annotations"].append(_detectron2_annotation(annotation, classes))
        return list(records.values())

    def read(self) -> dict:
        """``clean_coco_dict`` of the annotation file; if there is none, names the data set."""
        if not os.path.isfile(self.json_file):
            raise FileNotFoundError(
                f"data set '{self.name}': there is no annotation file {self.json_file} "
                "(second item of its entry in DATASETS.COCO_FORMAT)"
            )
        return clean_coco_dict(self.json_file)

    def set_classes(self, coco: dict) -> None:
        """Put the classes of the cleaned content ``coco`` into the metadata."""
        categories = sorted(coco["categories"], key=lambda category: category["id"])
        MetadataCatalog.get(self.name).set(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=_contiguous_ids(coco),
        )

    def check_images(self, coco: dict) -> None:
        """Raise FileNotFoundError if an image of the cleaned content ``coco`` has no file."""
        if not os.path.isdir(self.image_root):
            raise FileNotFoundError(
                f"data set '{self.name}': there is no image folder {self.image_root} "
                "(third item of its entry in DATASETS.COCO_FORMAT)"
            )
        paths = [os.path.join(self.image_root, image["file_name"]) for image in coco["images"]]
        # one listing per folder: asking for each file alone takes minutes on a network disk
        listed = set()
        for folder in {os.path.dirname(path) for path in paths}:
            if os.path.isdir(folder):
                listed.update(os.path.join(folder, name) for name in os.listdir(folder))
        missing = [path for path in paths if path not in listed and not os.path.exists(path)]
        if missing:
            raise FileNotFoundError(
                f"{self.json_file}: {len(missing)} of {len(paths)} images have no file, "
                f"first: {missing[0]}. Correct the image folder of data set '{self.name}' in "
                "DATASETS.COCO_FORMAT, or take the images out of the annotation file"
            )


def _dataset_of(entry):
    is_triple = isinstance(entry, (list, tuple)) and len(entry) == 3
    if not is_triple or not all(isinstance(item, str) and item for item in entry):
        raise ValueError(
            f"DATASETS.COCO_FORMAT: {entry!r} is not a data set; an entry is {ENTRY_FORM}, "
            f"and the key is a list of such entries: [{ENTRY_FORM}, ...]"
        )
    name, *paths = entry
    return CocoFormatDataset(name, *(os.path.abspath(os.path.expanduser(p)) for p in paths))


def _describe_registered(name):
    dataset = DatasetCatalog[name]
    if isinstance(dataset, CocoFormatDataset):
        return f"the entry with {dataset.json_file} and {dataset.image_root}"
    return "a data set that Detectron2 or other code has registered"


def _contiguous_ids(coco):
    return {id: i for i, id in enumerate(sorted(category["id"] for category in coco["categories"]))}


def _detectron2_annotation(annotation, classes):
    record = {
        "bbox": annotation["bbox"],
        "bbox_mode": BoxMode.XYWH_ABS,
        "category_id": classes[annotation["category_id"]],
        "iscrowd": annotation["iscrowd"],
    }
    if mask := annotation.get("segmentation"):
        if isinstance(mask, dict) and isinstance(mask["counts"], list):
            mask = mask_util.frPyObjects(mask, *mask["size"])
        record["segmentation"] = mask
    if keypoints := annotation.get("keypoints"):
        # COCO's keypoints are pixel indices, Detectron2's are coordinates: the pixel's centre
        record["keypoints"] = [k if i % 3 == 2 else k + 0.5 for i, k in enumerate(keypoints)]
    return record


# What check_datasets checks


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
            f"have no segmentation, first: {_describe(without_mask[0], 0)}; a model with "
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
                f"({_shorten(classes)}). Write {key} {len(classes)}"
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


# What clean_coco_dict does


@contextlib.contextmanager
def _paused_garbage_collection():
    """Millions of new objects and no garbage: the collector would take half of the time."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_enabled:
            gc.enable()


@functools.cache
def _cleaned(json_file, mtime):
    """The cleaned file, serialised: far smaller than its objects, and safe from changes."""
    coco = _parse(json_file)
    _check_categories(json_file, coco["categories"])
    _check_images(json_file, coco["images"])
    coco.setdefault("info", {})
    if "annotations" in coco:
        _check_annotations(json_file, coco["annotations"], coco["categories"])
        coco["annotations"], notes = _clean_annotations(coco["annotations"], coco["images"])
        if notes:
            logger.warning(f"{json_file}: {'; '.join(notes)}")
    return marshal.dumps(coco)


def _parse(json_file):
    try:
        with open(json_file, encoding="utf-8-sig") as file:
            coco = json.load(file)
    except ValueError as error:
        raise ValueError(f"{json_file}: not a JSON file ({error})") from error
    if not isinstance(coco, dict):
        raise ValueError(f"{json_file}: not in COCO format: a {type(coco).__name__}, not an object")
    for key in ("images", "categories", "annotations"):
        entries = coco.get(key, [] if key == "annotations" else None)
        if not isinstance(entries, list) or not all(isinstance(entry, dict) for entry in entries):
            raise ValueError(
                f"{json_file}: not in COCO format: '{key}' must be there and be a list of objects"
            )
    return coco


def _check_categories(json_file, categories):
    if not categories:
        raise ValueError(f"{json_file}: 'categories' is empty: list the classes in it")
    for category in categories:
        if not isinstance(category.get("id"), int) or not isinstance(category.get("name"), str):
            raise ValueError(
                f"{json_file}: category {category}: needs an 'id' (integer) and a 'name' (string)"
            )
    _check_unique(json_file, "category", categories, "name")


def _check_images(json_file, images):
    if not images:
        raise ValueError(f"{json_file}: 'images' is empty")
    for image in images:
        if not isinstance(image.get("id"), int) or not isinstance(image.get("file_name"), str):
            raise ValueError(
                f"{json_file}: image {image}: needs an 'id' (integer) and a 'file_name' (string)"
            )
        sides = (image.get("width"), image.get("height"))
        if not all(isinstance(side, (int, float)) and side > 0 for side in sides):
            raise ValueError(
                f"{json_file}: image {image['id']} ({image['file_name']}): "
                "needs 'width' and 'height', its size in pixels"
            )
    _check_unique(json_file, "image", images, "file_name")


def _check_unique(json_file, kind, entries, label):
    seen = {}
    for entry in entries:
        other = seen.setdefault(entry["id"], entry)
        if other is not entry:
            raise ValueError(
                f"{json_file}: two entries of {kind} id {entry['id']} "
                f"({other[label]} and {entry[label]}): give each an id of its own"
            )


def _check_annotations(json_file, annotations, categories):
    category_ids = {category["id"] for category in categories}
    for index, annotation in enumerate(annotations):
        image_id, category_id = annotation.get("image_id"), annotation.get("category_id")
        if not isinstance(image_id, int) or not isinstance(category_id, int):
            wrong = "needs an 'image_id' and a 'category_id', both integers"
        elif category_id not in category_ids:
            listed = _shorten(sorted(category_ids))
            wrong = f"category_id {category_id} is not among the categories ({listed})"
        elif not _is_box(annotation.get("bbox")):
            box = annotation.get("bbox", "missing")
            wrong = f"bbox is {box}, not 4 finite numbers (x, y, width, height)"
        elif annotation.get("ignore"):
            wrong = "'ignore' is not supported: write 'iscrowd': 1 for a region to be ignored"
        else:
            continue
        raise ValueError(f"{json_file}: {_describe(annotation, index)}: {wrong}")


def _is_box(box):
    # NaN compares as False
    return (
        isinstance(box, list)
        and len(box) == 4
        and all(isinstance(value, (int, float)) and -1e9 < value < 1e9 for value in box)
    )


def _clean_annotations(annotations, images):
    """
    Returns:
        tuple: the annotations that can be used, completed, and a list of notes on what was
        dropped or changed.
    """
    index_of = {image["id"]: index for index, image in enumerate(images)}
    indices = np.array([index_of.get(a["image_id"], -1) for a in annotations], np.int64)
    image_sizes = np.array([(image["width"], image["height"]) for image in images])
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)

    corners = np.stack([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], 1)  # (n, 2, 2)
    clipped = np.clip(corners, 0, image_sizes[indices][:, None])
    cut = np.abs(clipped - corners).max((1, 2))  # pixels
    is_listed = indices >= 0
    has_size = (boxes[:, 2:] >= MIN_SIDE).all(1)
    is_inside = (clipped[:, 1] - clipped[:, 0] >= MIN_SIDE).all(1)
    usable = is_listed & has_size & is_inside

    for i in np.flatnonzero(usable & (cut > 0)):
        (x0, y0), (x1, y1) = clipped[i].tolist()
        annotations[i]["bbox"] = [x0, y0, x1 - x0, y1 - y0]
    counted = {
        "annotations dropped (image not listed)": ~is_listed,
        "boxes dropped (no width or height)": is_listed & ~has_size,
        "boxes dropped (outside the image)": is_listed & has_size & ~is_inside,
        "boxes clipped to the image": usable & (cut > CLIP_TOLERANCE),
        "masks dropped (no polygon of 3 points)": [_drop_bad_polygons(a) for a in annotations],
    }
    notes = [_note(annotations, found, what) for what, found in counted.items() if any(found)]
    annotations = [annotations[i] for i in np.flatnonzero(usable)]
    _complete(annotations)
    return annotations, notes


def _drop_bad_polygons(annotation):
    """Take polygons of fewer than 3 points out; True if there was a mask and none is left."""
    mask = annotation.get("segmentation")
    if not mask or isinstance(mask, dict):
        return False
    mask = [polygon for polygon in mask if len(polygon) >= 6 and len(polygon) % 2 == 0]
    annotation["segmentation"] = mask
    return not mask


def _complete(annotations):
    for annotation in annotations:
        annotation["iscrowd"] = annotation.get("iscrowd") or 0
        if annotation.get("area") is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    ids = {annotation.get("id") or 0 for annotation in annotations}
    if 0 in ids or len(ids) < len(annotations):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number


def _note(annotations, found, what):
    indices = np.flatnonzero(found)
    first = _describe(annotations[indices[0]], indices[0])
    return f"{len(indices)} of {len(annotations)} {what}, first: {first}"


def _describe(annotation, index):
    number = annotation.get("id", f"number {index} (from 0)")
    return f"annotation {number} of image {annotation.get('image_id')}"


def _shorten(items, limit=10):
    text = ", ".join(str(item) for item in items[:limit])
    return f"{text}, ..." if len(items) > limit else text
