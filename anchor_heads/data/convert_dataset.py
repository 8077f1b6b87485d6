"""Pascal VOC and YOLO data sets as COCO annotation files. supervision reads them."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from xml.etree import ElementTree

import numpy as np
import pycocotools.mask as mask_util
import yaml

from anchor_heads.data.coco_json import cleaning_of
from anchor_heads.data.image_files import read_headers
from anchor_heads.data.other_formats import VOC, YOLO, recognize_format
from anchor_heads.files import open_and_rename

SPLITS = ("train", "val", "valid", "trainval", "test")


@dataclass(frozen=True)
class Split:
    """A part of a data set.

    Attributes:
        name (str): such as "train"; "all" if the data set has no parts.
        images (str): folder of the images.
        annotations (str): folder of the XML or text files.
        stems (frozenset[str] or None): names of its images without suffix; None = all of the
            folder.
    """

    name: str
    images: str
    annotations: str
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
        FileNotFoundError: if there is no such folder, or a part of it is missing.
        ValueError: if it is in neither format, or an annotation in it cannot be read.
    """
    found = recognize_format(source) if os.path.isdir(source) else None
    if found is None:
        what = "is in neither Pascal VOC's nor YOLO's format"
        raise ValueError(f"{source} {what if os.path.isdir(source) else 'is no folder'}")
    splits = list(_voc_splits(source) if found == VOC else _yolo_splits(source))
    for split in splits:
        for folder in (split.images, split.annotations):
            if not os.path.isdir(folder):
                raise FileNotFoundError(f"{source}: {split.name} has no folder {folder}")
    return [_convert(found, source, split, output) for split in splits]


def output_files(source: str, output: str) -> list[str]:
    """The files that :func:`convert_dataset` will write."""
    found = recognize_format(source) if os.path.isdir(source) else None
    splits = {VOC: _voc_splits, YOLO: _yolo_splits}[found](source) if found else ()
    return [os.path.join(output, f"{split.name}.json") for split in splits]


def _convert(found, source, split, output):
    dataset = _read(found, source, split)
    paths = sorted(dataset.image_paths)
    if split.stems is not None:
        paths = [path for path in paths if _stem(path) in split.stems]
    # supervision reads boxes in the frame of the images as EXIF tags turn them
    sizes = [header.turned_size for header in read_headers(paths)]
    content = {
        "info": {"description": f"{found} data set {os.path.abspath(source)}, {split.name}"},
        "images": [],
        "annotations": [],
        "categories": [
            {"id": id, "name": str(name)} for id, name in enumerate(dataset.classes, start=1)
        ],
    }
    for id, (path, (width, height)) in enumerate(zip(paths, sizes, strict=True), start=1):
        content["images"].append(
            {
                "id": id,
                "file_name": os.path.relpath(path, split.images),
                "width": width,
                "height": height,
            }
        )
        for annotation in _annotations(dataset.annotations[path]):
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": id, **annotation})
    json_file = os.path.join(output, f"{split.name}.json")
    os.makedirs(output, exist_ok=True)
    with open_and_rename(json_file, "w", encoding="utf-8") as file:
        json.dump(content, file)
    changes = cleaning_of(json_file).changes if paths and dataset.classes else ()
    return Report(
        split.name,
        json_file,
        split.images,
        len(paths),
        len(content["annotations"]),
        [category["name"] for category in content["categories"]],
        [*_notes(found, source, split, paths), *(f"in training: {change}" for change in changes)],
    )


def _read(found, source, split):
    try:
        import supervision
    except ImportError as error:
        raise ImportError(
            f"Reading {found} takes supervision: pip install 'anchor-heads[supervision]'"
        ) from error
    folders = (split.images, split.annotations)
    yaml_file = _data_yaml(source) if found == YOLO else None
    try:
        if found == VOC:
            return supervision.DetectionDataset.from_pascal_voc(*folders)
        return supervision.DetectionDataset.from_yolo(*folders, yaml_file)
    except Exception as error:  # what is in the files may be anything
        file = _broken_xml_file(split.annotations) or split.annotations
        raise ValueError(f"{file} cannot be read: {' '.join(str(error).split())}") from error


def _broken_xml_file(folder: str) -> str:
    """The first that is no XML, which supervision does not name; "" if there is none."""
    for name in sorted(os.listdir(folder)):
        if name.endswith(".xml"):
            path = os.path.join(folder, name)
            try:
                ElementTree.parse(path)
            except ElementTree.ParseError:
                return path
    return ""


def _annotations(detections) -> Iterator[dict]:
    """Annotations in COCO's format of an image's Detections, without ids."""
    for i, (x0, y0, x1, y1) in enumerate(detections.xyxy.tolist()):
        annotation = {
            "category_id": int(detections.class_id[i]) + 1,
            "bbox": [round(x, 4) for x in (x0, y0, x1 - x0, y1 - y0)],
            "area": round((x1 - x0) * (y1 - y0), 4),
            "iscrowd": 0,
        }
        if detections.mask is not None and detections.mask[i].any():
            mask = mask_util.encode(np.asfortranarray(detections.mask[i].astype(np.uint8)))
            annotation["area"] = int(mask_util.area(mask))
            annotation["segmentation"] = {**mask, "counts": mask["counts"].decode()}
        yield annotation


def _notes(found, source, split, paths):
    """What supervision leaves out or takes together, with counts."""
    suffix = {VOC: ".xml", YOLO: ".txt"}[found]
    files = {_stem(name) for name in os.listdir(split.annotations) if name.endswith(suffix)}
    files -= {"classes", "data"} if found == YOLO else set()
    images = {_stem(path) for path in paths}
    listed = images if split.stems is None else split.stems
    notes = {
        "images have no annotation file, and are kept as images without objects": images - files,
        "images that the list names have no file, and are left out": listed - images,
    }
    if split.stems is None:
        notes["annotation files have no image, and are left out"] = files - images
    if found == VOC:
        notes["objects are marked difficult, and are kept like others"] = _difficult(
            split.annotations, images & files
        )
    elif "kpt_shape" in _yaml(source):
        notes["images have keypoints, which are left out"] = images & files
    return [f"{len(names)} {what}, first: {min(names)}" for what, names in notes.items() if names]


def _difficult(folder, stems):
    from defusedxml.ElementTree import parse  # comes with supervision

    return [
        stem
        for stem in sorted(stems)
        for mark in parse(os.path.join(folder, f"{stem}.xml")).iter("difficult")
        if (mark.text or "").strip() == "1"
    ]


def _voc_splits(source) -> Iterator[Split]:
    annotations = os.path.join(source, "Annotations")
    if not os.path.isdir(annotations):
        yield Split("all", source, source)
        return
    folders = [os.path.join(source, name) for name in ("JPEGImages", "images", "Annotations")]
    images = next(filter(os.path.isdir, folders))
    listed = False
    for name in SPLITS:
        path = os.path.join(source, "ImageSets", "Main", f"{name}.txt")
        if os.path.isfile(path):
            with open(path, encoding="utf-8") as file:
                stems = frozenset(line.split()[0] for line in file if line.strip())
            listed = True
            yield Split(name, images, annotations, stems)
    if not listed:
        yield Split("all", images, annotations)


def _yolo_splits(source) -> Iterator[Split]:
    content = _yaml(source)
    root = os.path.join(source, content.get("path") or "")
    if not os.path.isdir(root):  # of the machine that it was made on
        root = source
    named = {name: content[name] for name in SPLITS if isinstance(content.get(name), str)}
    if not named:
        folders = {name: os.path.join("images", name) for name in SPLITS}
        named = {k: v for k, v in folders.items() if os.path.isdir(os.path.join(source, v))}
        named = named or {"all": "images"}
    for name, folder in named.items():
        images = os.path.normpath(os.path.join(root, folder))
        if not os.path.isdir(images):  # exports name ../train/images
            images = os.path.normpath(os.path.join(root, folder.lstrip("./")))
        # as Ultralytics finds them: "labels" in place of the last "images"
        before, _, after = images.rpartition(f"{os.sep}images")
        yield Split(name, images, f"{before}{os.sep}labels{after}")


def _yaml(source) -> dict:
    with open(_data_yaml(source), encoding="utf-8") as file:
        content = yaml.safe_load(file)
    if not isinstance(content, dict):
        raise ValueError(f"{file.name} is not a mapping of keys and values")
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
