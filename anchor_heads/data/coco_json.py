"""Reading annotation files in COCO format, with what is missing filled in and errors named."""

import contextlib
import functools
import gc
import json
import logging
import marshal
import os
from collections import Counter
from typing import NamedTuple

import numpy as np

from anchor_heads.data.coco_boxes import clean_boxes, likely_format
from anchor_heads.data.coco_fields import (
    ANNOTATION_FIELDS,
    CATEGORY_FIELDS,
    IMAGE_FIELDS,
    Unusable,
    read_field,
)
from anchor_heads.errors import shorten

logger = logging.getLogger(__name__)

# What can become of entries; images of a file that another has, too, are left as they are.
CONVERTED, DROPPED, CLIPPED, REPEATED = "converted", "dropped", "clipped", "repeated"


class Change(NamedTuple):
    """Something that was done to some entries of an annotation file."""

    kind: str
    """CONVERTED, DROPPED, CLIPPED or REPEATED."""
    what: str
    """For example "boxes clipped to the image"."""
    count: int
    """Entries changed."""
    total: int
    """Entries in all."""
    first: str
    """Which the first is."""

    def __str__(self) -> str:
        return f"{self.count} of {self.total} {self.what}, first: {self.first}"


class Cleaning(NamedTuple):
    """What was done to an annotation file to make it usable."""

    changes: tuple[Change, ...]
    box_format: str | None
    """The format that its boxes seem to be in, if not (x, y, width, height) in pixels; see
    :func:`anchor_heads.data.coco_boxes.likely_format`."""


def clean_coco_dict(json_file: str) -> dict:
    """Read an annotation file in COCO format, complete it and drop what cannot be used.

    * Values that can mean only one thing are converted to the type that they should have, such as
      "1" or [1] to 1: see :mod:`anchor_heads.data.coco_fields`.
    * Filled in where missing: ``info``, and an annotation's ``iscrowd`` (0), ``area`` (the
      box's) and, with ``keypoints``, ``num_keypoints``. Annotation ids are numbered anew from 1 if
      one is missing, repeated or not above 0 (which pycocotools' evaluation would take for "no
      match"). Where some objects have keypoints, those of the others are not labelled.
    * Dropped or changed: boxes without width or height and boxes outside their image are dropped,
      boxes partly outside are clipped, annotations of images that the file does not list are
      dropped, polygons of fewer than 3 points are taken out of the masks.
    * ``annotations`` may be missing, as in test sets; everything else is an error.

    One warning per file counts what was converted, dropped and clipped; :func:`cleaning_of` gives
    it as data. The file is parsed once per process, and again when it changes.

    Args:
        json_file (str): path of the annotation file.

    Returns:
        dict: the content in COCO format, a copy of its own for each caller.

    Raises:
        ValueError: if the file cannot be used; names the file, the entry, the field and what to do.
        FileNotFoundError: if there is no such file.
    """
    with _paused_garbage_collection():
        return marshal.loads(_cleaned(*_version(json_file))[0])


def cleaning_of(json_file: str) -> Cleaning:
    """What :func:`clean_coco_dict` does to an annotation file.

    Args and Raises: see there.
    """
    with _paused_garbage_collection():
        return _cleaned(*_version(json_file))[1]


def _version(json_file):
    path = os.path.abspath(json_file)
    return path, os.stat(path).st_mtime_ns


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
    """The cleaned file, serialised: far smaller than its objects, and safe from changes. And what
    was done to it."""
    coco = _parse(json_file)
    cleaning = clean(coco, json_file)
    return marshal.dumps(coco), cleaning


def clean(coco: dict, label: str) -> Cleaning:
    """What :func:`clean_coco_dict` does, in place, to the content of a file.

    Args:
        coco (dict): with lists of dicts under "images", "categories" and perhaps "annotations".
        label (str): the file or data set, for messages.

    Raises:
        ValueError: see there.
    """
    changes = []
    try:
        for key, fields, check in (
            ("categories", CATEGORY_FIELDS, _check_categories),
            ("images", IMAGE_FIELDS, _check_images),
            ("annotations", ANNOTATION_FIELDS, _check_annotations),
        ):
            if key in coco:
                changes += _read_fields(key, fields, coco[key])
                check(coco)
    except Unusable as error:
        raise ValueError(f"{label}: {error}") from None
    changes += _repeated_files(coco["images"])
    coco.setdefault("info", {})
    box_format = None
    if "annotations" in coco:
        boxes, is_listed, image_sizes = _boxes_and_sizes(coco)
        box_format = likely_format(boxes[is_listed], image_sizes[is_listed])
        changes += _clean_annotations(coco, boxes, is_listed, image_sizes)
    cleaning = Cleaning(tuple(changes), box_format)
    _warn(label, cleaning)
    return cleaning


def _warn(label, cleaning):
    notes = [str(change) for change in cleaning.changes]
    if cleaning.box_format:
        notes.append(
            f"the boxes look like {cleaning.box_format}; COCO's are (x, y, width, height) in "
            "pixels: convert them"
        )
    if notes:
        logger.warning(f"{label}: {'; '.join(notes)}")


def _parse(json_file):
    try:
        with open(json_file, encoding="utf-8-sig") as file:
            coco = json.load(file)
    except (ValueError, RecursionError) as error:
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


def _read_fields(key, fields, entries) -> list[Change]:
    """Convert the entries of one of the file's lists, in place.

    Raises:
        Unusable: naming the entry and the field.
    """
    changes = []
    for field in fields:
        try:
            indices, first = read_field(field, entries)
        except Unusable as error:
            index, wrong = error.args
            raise Unusable(f"{_describe_entry(key, entries[index], index)}: {wrong}") from None
        if indices:
            entry = _describe_entry(key, entries[indices[0]], indices[0])
            changes.append(
                Change(
                    CONVERTED,
                    f"{key} with '{field.name}' converted",
                    len(indices),
                    len(entries),
                    f"{entry} ({first})",
                )
            )
    return changes


def _describe_entry(key, entry, index):
    if key == "annotations":
        return describe(entry, index)
    kind, label = {"images": ("image", "file_name"), "categories": ("category", "name")}[key]
    return f"{kind} {entry.get('id', f'number {index} (from 0)')} ({entry.get(label)})"


def describe(annotation, index):
    """An annotation for messages."""
    number = annotation.get("id") or f"number {index} (from 0)"
    return f"annotation {number} of image {annotation.get('image_id')}"


def _check_categories(coco):
    categories = coco["categories"]
    if not categories:
        raise Unusable("'categories' is empty: list the classes in it")
    _check_unique("category", categories, "name")
    ids = {}
    for category in categories:
        name, id = category["name"], category["id"]
        if ids.setdefault(name, id) != id:
            raise Unusable(
                f"categories {ids[name]} and {id} have the same 'name', {name}: give each a name "
                "of its own"
            )
        keypoints = category.get("keypoints", [])
        twice = [point for point, count in Counter(keypoints).items() if count > 1]
        if twice:
            raise Unusable(f"category {id} ({name}): 'keypoints' names {twice[0]} twice")
        pairs = category.get("skeleton", []) if keypoints else []
        beyond = [pair for pair in pairs if max(pair) > len(keypoints)]
        if beyond:
            raise Unusable(
                f"category {id} ({name}): 'skeleton' has {beyond[0]}, and there are "
                f"{len(keypoints)} keypoints, counted from 1"
            )


def _check_images(coco):
    if not coco["images"]:
        raise Unusable("'images' is empty")
    _check_unique("image", coco["images"], "file_name")


def _repeated_files(images) -> list[Change]:
    """Entries that share a file, each with its own objects: converters make one per object."""
    first: dict = {}
    again = [i for i, x in enumerate(images) if first.setdefault(x["file_name"], i) != i]
    if not again:
        return []
    what = "images have the file of an earlier one, whose objects are background in them"
    entry = _describe_entry("images", images[again[0]], again[0])
    return [Change(REPEATED, what, len(again), len(images), entry)]


def _check_unique(kind, entries, label):
    seen = {}
    for entry in entries:
        other = seen.setdefault(entry["id"], entry)
        if other is not entry:
            raise Unusable(
                f"two entries of {kind} id {entry['id']} "
                f"({other[label]} and {entry[label]}): give each an id of its own"
            )


def _check_annotations(coco):
    category_ids = {category["id"] for category in coco["categories"]}
    sizes = {image["id"]: [image["height"], image["width"]] for image in coco["images"]}
    for index, annotation in enumerate(coco["annotations"]):
        category_id, mask = annotation["category_id"], annotation.get("segmentation")
        size = sizes.get(annotation["image_id"])
        if category_id not in category_ids:
            listed = shorten(sorted(category_ids))
            wrong = f"'category_id' {category_id} is not among the categories ({listed})"
        elif annotation.get("ignore"):
            wrong = "'ignore' is not supported: write 'iscrowd': 1 for a region to be ignored"
        elif size and isinstance(mask, dict) and mask["size"] != size:
            wrong = (
                f"'segmentation' has the size {mask['size']} and the image {size} (height, width)"
            )
        else:
            continue
        raise Unusable(f"{describe(annotation, index)}: {wrong}")
    _check_keypoints(coco)


def _check_keypoints(coco):
    """Check that all objects of a category have as many keypoints as it names, or as each other."""
    numbers = {c["id"]: len(c["keypoints"]) for c in coco["categories"] if "keypoints" in c}
    for index, annotation in enumerate(coco["annotations"]):
        if "keypoints" not in annotation:
            continue
        found = len(annotation["keypoints"]) // 3
        expected = numbers.setdefault(annotation["category_id"], found)
        if found != expected:
            raise Unusable(
                f"{describe(annotation, index)}: 'keypoints' has {found} points, and others of "
                f"category {annotation['category_id']} have {expected}"
            )


def _boxes_and_sizes(coco):
    """Boxes (n, 4), whether their images are listed (n,), and the images' sizes (n, 2)."""
    index_of = {image["id"]: index for index, image in enumerate(coco["images"])}
    annotations = coco["annotations"]
    indices = np.array([index_of.get(a["image_id"], -1) for a in annotations], np.int64)
    image_sizes = np.array([(image["width"], image["height"]) for image in coco["images"]])
    boxes = np.array([a["bbox"] for a in annotations], np.float64).reshape(-1, 4)
    return boxes, indices >= 0, image_sizes[indices]


def _clean_annotations(coco, boxes, is_listed, image_sizes) -> list[Change]:
    """Drop the annotations that cannot be used, and complete the others."""
    annotations = coco["annotations"]
    cleaned = clean_boxes(boxes, image_sizes)
    has_size, is_inside = cleaned.has_size, cleaned.is_inside
    usable = is_listed & has_size & is_inside
    for i in np.flatnonzero(usable & cleaned.is_changed):
        annotations[i]["bbox"] = cleaned.boxes[i].tolist()
    counted = (
        (DROPPED, "annotations dropped (image not listed)", ~is_listed),
        (DROPPED, "boxes dropped (no width or height)", is_listed & ~has_size),
        (DROPPED, "boxes dropped (outside the image)", is_listed & has_size & ~is_inside),
        (CLIPPED, "boxes clipped to the image", usable & cleaned.is_clipped),
        (DROPPED, "masks dropped (no polygon of 3 points)", [*map(_drop_short, annotations)]),
    )
    changes = [_change(annotations, *counts) for counts in counted if any(counts[-1])]
    coco["annotations"] = [annotations[i] for i in np.flatnonzero(usable)]
    _complete(coco["annotations"])
    return changes


def _change(annotations, kind, what, found):
    indices = np.flatnonzero(found).tolist()
    first = describe(annotations[indices[0]], indices[0])
    return Change(kind, what, len(indices), len(annotations), first)


def _drop_short(annotation):
    """Take polygons of fewer than 3 points out; True if there was a mask and none is left."""
    mask = annotation.get("segmentation")
    if not mask or isinstance(mask, dict):
        return False
    annotation["segmentation"] = [polygon for polygon in mask if len(polygon) >= 6]
    return not annotation["segmentation"]


def _complete(annotations):
    for annotation in annotations:
        if annotation["area"] is None:
            annotation["area"] = annotation["bbox"][2] * annotation["bbox"][3]
    ids = {annotation["id"] for annotation in annotations}
    if None in ids or len(ids) < len(annotations):
        for number, annotation in enumerate(annotations, start=1):
            annotation["id"] = number
    with_keypoints = [annotation for annotation in annotations if "keypoints" in annotation]
    lengths = {len(annotation["keypoints"]) for annotation in with_keypoints}
    if len(lengths) == 1:  # evaluation and training need keypoints of every object
        with_keypoints, not_labelled = annotations, [0] * lengths.pop()
    for annotation in with_keypoints:
        keypoints = annotation["keypoints"] = annotation.get("keypoints") or not_labelled
        annotation["num_keypoints"] = sum(visibility > 0 for visibility in keypoints[2::3])
