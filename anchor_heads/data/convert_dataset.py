"""Pascal VOC and YOLO data sets as COCO annotation files. supervision reads them."""

import json
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from glob import glob

import numpy as np
import pycocotools.mask as mask_util
import yaml
from PIL import Image

from anchor_heads.data.coco_json import clean
from anchor_heads.data.image_files import read_headers
from anchor_heads.data.other_formats import VOC, YOLO, recognize_format
from anchor_heads.errors import shorten
from anchor_heads.files import open_and_rename

SIDES = ("xmin", "ymin", "xmax", "ymax")  # of a box in an XML file
SPLITS = ("train", "val", "valid", "trainval", "test")


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name (str): such as "train"; "all" if the data set has no parts.
        root (str): folder that the file names of its images are relative to.
        folders (list[tuple[str, str]]): folders of images, each with that of its XML or text files.
        stems (frozenset[str] or None): names of its images without suffix; None = all of the
            folders.
    """

    name: str
    root: str
    folders: list[tuple[str, str]]
    stems: frozenset[str] | None = None


@dataclass
class Report:
    """What became of a part of a data set.

    Attributes:
        split (str): name of the part.
        json_file (str): the file that was written.
        image_folder (str): where its images are.
        num_images, num_objects (int): in the file.
        class_names (list[str]): by ascending category id.
        notes (list[str]): what was left out or changed, with counts.
    """

    split: str
    json_file: str
    image_folder: str
    num_images: int
    num_objects: int
    class_names: list[str]
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        entry = (self.split, self.json_file, self.image_folder)
        return "\n".join(
            [
                f"Wrote {self.json_file}: {self.num_images} images, {self.num_objects} objects of "
                f"{len(self.class_names)} classes ({', '.join(self.class_names)})",
                *(f"  {note}" for note in self.notes),
                f"  entry of DATASETS.COCO_FORMAT: {json.dumps(entry)}",
            ]
        )


def convert_dataset(source: str, output: str) -> list[Report]:
    """Write a COCO annotation file for each part of a data set. Images stay where they are.

    Args:
        source (str): a folder in Pascal VOC's format (XML files, or the folders Annotations and
            JPEGImages, with the parts that ImageSets/Main lists) or YOLO's (a data.yaml, and text
            files in folders "labels" beside "images").
        output (str): folder for the files, each with the name of its part, such as train.json.

    Returns:
        list[Report]: of each part.

    Raises:
        ImportError: without supervision.
        FileNotFoundError: if a folder of it is missing.
        ValueError: if it is in neither format, if an annotation in it cannot be read or used, or if
            a part has no images. Nothing is written then.
    """
    found, splits = _splits(source)
    for split in splits:
        images, annotations = zip(*split.folders, strict=True)
        missing = [folder for folder in images if not os.path.isdir(folder)]
        if not any(map(os.path.isdir, annotations)):
            missing.append(annotations[0])
        if missing:
            raise FileNotFoundError(f"{source}: {split.name} has no folder {missing[0]}")
    converted = [_convert(found, source, split, output) for split in splits]
    os.makedirs(output, exist_ok=True)
    for report, content in converted:
        with open_and_rename(report.json_file, "w", encoding="utf-8") as file:
            file.write(content)
    return [report for report, _ in converted]


def output_files(source: str, output: str) -> list[str]:
    """The files that :func:`convert_dataset` will write.

    Raises:
        FileNotFoundError, ValueError: see there.
    """
    return [os.path.join(output, f"{split.name}.json") for split in _splits(source)[1]]


def _splits(source: str) -> tuple[str, list[Split]]:
    """The format of a data set, and its parts."""
    found = recognize_format(source) if os.path.isdir(source) else None
    if found is None:
        what = "is in neither Pascal VOC's nor YOLO's format"
        raise ValueError(f"{source} {what if os.path.isdir(source) else 'is no folder'}")
    return found, list(_voc_splits(source) if found == VOC else _yolo_splits(source))


def _convert(found, source, split, output):
    """The report on a part, and the content of its file."""
    names, annotations = _read(found, source, split)
    paths = sorted(annotations)
    if split.stems is not None:
        paths = [path for path in paths if _stem(path) in split.stems]
    if not paths:
        listed = f" named as in its list, such as {min(split.stems)}" if split.stems else ""
        raise ValueError(f"{source}: {split.name} has no image in {split.root}{listed}")
    if not names:
        raise ValueError(f"{source}: {split.name} has no classes, and no objects")
    names = [str(name).strip() for name in names]
    # VOC's classes are their names; YOLO's are numbers, and two of the same name are refused
    classes = list(dict.fromkeys(names)) if found == VOC else names
    objects = (
        (image_id, class_id, annotation)
        for image_id, path in enumerate(paths, start=1)
        for class_id, annotation in _annotations(annotations[path])
    )
    category_ids = [classes.index(name) + 1 for name in names]
    content = {
        "info": {"description": f"{found} data set {os.path.abspath(source)}, {split.name}"},
        "images": _images(paths, split.root),
        "annotations": [
            {"id": id, "image_id": image_id, "category_id": category_ids[class_id], **annotation}
            for id, (image_id, class_id, annotation) in enumerate(objects, start=1)
        ],
        "categories": [{"id": id, "name": name} for id, name in enumerate(classes, start=1)],
    }
    text = json.dumps(content)
    report = Report(
        split.name,
        os.path.join(output, f"{split.name}.json"),
        split.root,
        len(paths),
        len(content["annotations"]),
        classes,
        _notes(found, source, split, paths),
    )
    cleaning = clean(content, f"{source}, {split.name}")  # which changes the content
    report.notes += [f"in training: {change}" for change in cleaning.changes]
    return report, text


def _read(found, source, split):
    """The names of the classes, and supervision's Detections by the path of their image."""
    try:
        import supervision
    except ImportError as error:
        raise ImportError(
            f"Reading {found} takes supervision: pip install 'anchor-heads[supervision]'"
        ) from error
    annotations = {}
    for images, labels in split.folders:
        try:
            if found == VOC:
                dataset = supervision.DetectionDataset.from_pascal_voc(images, labels)
            else:
                yaml_file = _data_yaml(source)
                dataset = supervision.DetectionDataset.from_yolo(images, labels, yaml_file)
        except Exception as error:  # what is in the files may be anything
            file = _broken_xml_file(labels) or labels
            raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error
        annotations.update(dataset.annotations)
    return dataset.classes, annotations


def _images(paths, root) -> list[dict]:
    """In COCO's format, numbered from 1. supervision reads boxes in the frame of the images as EXIF
    tags turn them."""
    sizes = [header.turned_size for header in read_headers(paths, behind_pixels=True)]
    return [
        {"id": id, "file_name": os.path.relpath(path, root), "width": width, "height": height}
        for id, (path, (width, height)) in enumerate(zip(paths, sizes, strict=True), start=1)
    ]


def _broken_xml_file(folder: str) -> str:
    """The first that lacks a name or a box, which supervision does not name; "" if none does."""
    from defusedxml.ElementTree import parse  # comes with supervision

    for name in sorted(glob("*.xml", root_dir=folder)):
        path = os.path.join(folder, name)
        try:
            objects = list(parse(path).iter("object"))
            boxes = [float(x.findtext(f"bndbox/{side}")) for x in objects for side in SIDES]
        except Exception:  # what is in it may be anything
            return path
        if not (all(x.findtext("name") for x in objects) and np.isfinite(boxes).all()):
            return path
    return ""


def _annotations(detections) -> Iterator[tuple[int, dict]]:
    """Number of the class and annotation in COCO's format of each of an image's Detections."""
    for i, (x0, y0, x1, y1) in enumerate(detections.xyxy.tolist()):
        annotation = {
            "bbox": [round(x, 4) for x in (x0, y0, x1 - x0, y1 - y0)],
            "area": round((x1 - x0) * (y1 - y0), 4),
            "iscrowd": 0,
        }
        if detections.mask is not None and detections.mask[i].any():
            mask = mask_util.encode(np.asfortranarray(detections.mask[i].astype(np.uint8)))
            annotation["area"] = int(mask_util.area(mask))
            annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        yield int(detections.class_id[i]), annotation


def _notes(found, source, split, paths):
    """What supervision leaves out or takes together, with counts."""

    def name_of(*path):
        return os.path.splitext(os.path.relpath(os.path.join(*path), split.root))[0]

    suffix = {VOC: ".xml", YOLO: ".txt"}[found]
    no_annotations = ("classes.txt", "data.txt") if found == YOLO else ()
    files = {
        name_of(images, file): os.path.join(labels, file)
        for images, labels in split.folders
        if os.path.isdir(labels)
        for file in os.listdir(labels)
        if file.endswith(suffix) and file not in no_annotations
    }
    images = set(map(name_of, paths))
    listed = images if split.stems is None else split.stems
    notes = {
        "images have no annotation file, and are kept as images without objects": images
        - files.keys(),
        "images that the list names have no file, and are left out": listed - images,
    }
    if split.stems is None:
        notes["annotation files have no image, and are left out"] = files.keys() - images
    if found == VOC:
        notes["objects are marked difficult, and are kept like others"] = [
            image for image in images & files.keys() for _ in range(_num_difficult(files[image]))
        ]
    elif "kpt_shape" in _yaml(source):
        notes["images have keypoints, which are left out"] = images & files.keys()
    return [f"{len(names)} {what}, first: {min(names)}" for what, names in notes.items() if names]


def _num_difficult(path):
    from defusedxml.ElementTree import parse  # comes with supervision

    return sum((mark.text or "").strip() == "1" for mark in parse(path).iter("difficult"))


def _voc_splits(source) -> Iterator[Split]:
    annotations = os.path.join(source, "Annotations")
    if not os.path.isdir(annotations):
        yield Split("all", source, [(source, source)])
        return
    folders = [os.path.join(source, name) for name in ("JPEGImages", "images", "Annotations")]
    images = next(filter(os.path.isdir, folders))
    listed = False
    for name in SPLITS:
        path = os.path.join(source, "ImageSets", "Main", f"{name}.txt")
        if os.path.isfile(path):
            listed = True
            yield Split(name, images, [(images, annotations)], _listed_stems(path, images))
    if not listed:
        yield Split("all", images, [(images, annotations)])


def _listed_stems(path, images):
    """The names of images in a list, of which some are followed by a flag, -1, 0 or 1."""
    there = set(map(_stem, os.listdir(images)))
    with open(path, encoding="utf-8-sig") as file:
        names = [line.strip() for line in file if line.strip()]
    without_flag = (re.sub(r"\s+(-1|0|1)$", "", name) for name in names)
    pairs = ([_listed_stem(x) for x in pair] for pair in zip(names, without_flag, strict=True))
    return frozenset(whole if whole in there else part for whole, part in pairs)


def _listed_stem(name):
    """Lists name images without their suffix, some with it."""
    is_file = os.path.splitext(name)[1].lower() in Image.registered_extensions()
    return _stem(name) if is_file else os.path.basename(name)


def _yolo_splits(source) -> Iterator[Split]:
    content = _yaml(source)
    named = {name: content[name] for name in SPLITS if content.get(name)}
    if not named:
        folders = {name: os.path.join("images", name) for name in SPLITS}
        named = {k: v for k, v in folders.items() if os.path.isdir(os.path.join(source, v))}
        named = named or {"all": "images"}
    for name, value in named.items():
        values = value if isinstance(value, list) else [value]
        if not all(isinstance(x, str) and not x.endswith(".txt") for x in values):
            raise ValueError(
                f"{_data_yaml(source)}: {name} is {value!r}: only folders of images can be "
                "converted, not files that list them: name a folder, or a list of folders"
            )
        roots = [_yolo_folder(source, content, x) for x in values]
        root = roots[0] if len(roots) == 1 else os.path.commonpath(map(os.path.abspath, roots))
        images = dict.fromkeys(folder for x in roots for folder in _with_folders_below(x))
        yield Split(name, root, [(folder, _yolo_labels(folder)) for folder in images])


def _yolo_folder(source, content, folder):
    root = os.path.join(source, content.get("path") or "")
    if not os.path.isdir(root):  # of the machine that it was made on
        root = source
    images = os.path.normpath(os.path.join(root, folder))
    if not os.path.isdir(images):  # exports name ../train/images
        images = os.path.normpath(os.path.join(root, folder.lstrip("./")))
    return images


def _with_folders_below(folder):
    """A folder and all that is below it, where Ultralytics looks for images."""
    below = sorted(glob("**/", root_dir=folder, recursive=True))
    return [folder, *(os.path.normpath(os.path.join(folder, x)) for x in below)]


def _yolo_labels(images):
    """As Ultralytics finds them: "labels" in place of the last "images"."""
    return re.sub(r"^((?:.*/)?)images(?=/|$)", r"\1labels", images)


def _yaml(source) -> dict:
    with open(_data_yaml(source), encoding="utf-8") as file:
        content = yaml.safe_load(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is not a mapping of keys and values")
    names = content.get("names")
    if isinstance(names, dict) and {str(x) for x in names} != {str(i) for i in range(len(names))}:
        raise ValueError(
            f"{file.name}: the keys of 'names' are {shorten(list(names))}: write the numbers that "
            "the text files have, from 0 on, with a name for each"
        )
    for name in names.values() if isinstance(names, dict) else names or ():
        if isinstance(name, bool) or name is None:
            raise ValueError(
                f"{file.name}: YAML reads a name in 'names' as {name}: put it in quotes"
            )
    return content


def _data_yaml(source):
    names = sorted(name for name in os.listdir(source) if name.endswith((".yaml", ".yml")))
    names.sort(key=lambda name: not name.startswith("data."))
    if not names:
        raise FileNotFoundError(
            f"{source} has no data.yaml: write one with the classes by ascending number, "
            "names: [first, second]"
        )
    return os.path.join(source, names[0])


def _stem(path):
    return os.path.splitext(os.path.basename(path))[0]
