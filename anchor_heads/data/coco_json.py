"""Reading annotation files in COCO format, with what is missing filled in and errors named."""

import contextlib
import functools
import gc
import json
import logging
import marshal
import os

import numpy as np

logger = logging.getLogger(__name__)

MIN_SIDE = 0.01  # pixels; a narrower box may have no width left once it is float32
CLIP_TOLERANCE = 0.01  # pixels; boxes that stick out by rounding alone are not worth a warning


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
            listed = shorten(sorted(category_ids))
            wrong = f"category_id {category_id} is not among the categories ({listed})"
        elif not _is_box(annotation.get("bbox")):
            box = annotation.get("bbox", "missing")
            wrong = f"bbox is {box}, not 4 finite numbers (x, y, width, height)"
        elif annotation.get("ignore"):
            wrong = "'ignore' is not supported: write 'iscrowd': 1 for a region to be ignored"
        else:
            continue
        raise ValueError(f"{json_file}: {describe(annotation, index)}: {wrong}")


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
    first = describe(annotations[indices[0]], indices[0])
    return f"{len(indices)} of {len(annotations)} {what}, first: {first}"


def describe(annotation, index):
    number = annotation.get("id", f"number {index} (from 0)")
    return f"annotation {number} of image {annotation.get('image_id')}"


def shorten(items, limit=10):
    text = ", ".join(str(item) for item in items[:limit])
    return f"{text}, ..." if len(items) > limit else text
