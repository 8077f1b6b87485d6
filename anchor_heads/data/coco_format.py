"""Data sets of one's own in COCO format, named in the config: ``DATASETS.COCO_FORMAT``.

An entry is ``(name, annotation json, image folder)``; paths are relative to the working directory
and ``~`` is the home folder. The name can then be used in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.

See ``clean_coco_dict`` for what is filled in, what is converted or dropped with a warning, and what
is an error.
"""

import os
import re
from dataclasses import dataclass

import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode
from detectron2.utils.colormap import colormap

from anchor_heads.data.class_names import forget_recalled_classes
from anchor_heads.data.coco_json import clean_coco_dict
from anchor_heads.data.image_files import (
    STORED_FRAME,
    ImageFileError,
    is_stored_frame,
    read_headers,
)
from anchor_heads.data.other_formats import how_to_convert
from anchor_heads.data.shapes import how_to_make

ENTRY_FORM = '("name", "path/to/annotations.json", "path/to/images")'


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
        of_stored_pixels = MetadataCatalog.get(self.name).get(STORED_FRAME, False)
        records = {}
        for image in sorted(coco["images"], key=lambda image: image["id"]):
            records[image["id"]] = {
                "file_name": os.path.join(self.image_root, image["file_name"]),
                "height": image["height"],
                "width": image["width"],
                "image_id": image["id"],
                "annotations": [],
            }
            if of_stored_pixels:
                records[image["id"]][STORED_FRAME] = True
        for annotation in coco.get("annotations", ()):
            record = records[annotation["image_id"]]
            record["annotations"].append(_detectron2_annotation(annotation, classes))
        return list(records.values())

    def read(self) -> dict:
        """``clean_coco_dict`` of the annotation file; if there is none, names the data set."""
        if not os.path.isfile(self.json_file):
            advice = how_to_convert(self.json_file) or how_to_make(self.name, self.json_file)
            raise FileNotFoundError(
                f"data set '{self.name}': there is no annotation file {self.json_file} "
                f"(second item of its entry in DATASETS.COCO_FORMAT). {advice}".rstrip()
            )
        try:
            return clean_coco_dict(self.json_file)
        except ValueError as error:
            if advice := how_to_convert(self.json_file):
                raise ValueError(f"{error}. {advice}") from error
            raise

    def set_classes(self, coco: dict) -> None:
        """Put the classes and keypoints of the cleaned content ``coco`` into the metadata."""
        categories = sorted(coco["categories"], key=lambda category: category["id"])
        forget_recalled_classes(self.name)
        MetadataCatalog.get(self.name).set(
            thing_classes=[category["name"] for category in categories],
            thing_dataset_id_to_contiguous_id=_contiguous_ids(coco),
            **_keypoint_metadata(coco),
        )

    def check_images(self, coco: dict) -> None:
        """Check that the images of the cleaned content ``coco`` have files.

        Raises:
            FileNotFoundError: if one has not.
        """
        if not os.path.isdir(self.image_root):
            advice = how_to_make(self.name, self.json_file)
            raise FileNotFoundError(
                f"data set '{self.name}': there is no image folder {self.image_root} "
                f"(third item of its entry in DATASETS.COCO_FORMAT). {advice}".rstrip()
            )
        paths = self._paths(coco)
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

    def check_headers(self, coco: dict) -> bool:
        """Read the headers of all image files and compare them with the cleaned content ``coco``.

        Returns:
            bool: whether the annotations are of the stored pixels; see :func:`is_stored_frame`. To
            be given to :meth:`set_frame`.

        Raises:
            ImageFileError: if a file cannot be read or does not fit the annotations.
        """
        paths = self._paths(coco)
        headers = read_headers(paths)
        broken = [f"{p}: {h.wrong}" for p, h in zip(paths, headers, strict=True) if h.wrong]
        if broken:
            raise ImageFileError(
                f"{self.json_file}: {len(broken)} of {len(paths)} image files cannot be used, "
                f"first: {broken[0]}. Replace the files, or take the images out of the annotation "
                "file"
            )
        sizes = [(image["width"], image["height"]) for image in coco["images"]]
        return is_stored_frame(self.json_file, paths, headers, sizes)

    def set_frame(self, of_stored_pixels: bool) -> None:
        """Note what :meth:`check_headers` found, for the records that are loaded from now on."""
        if of_stored_pixels:
            MetadataCatalog.get(self.name).set(**{STORED_FRAME: True})

    def _paths(self, coco):
        return [os.path.join(self.image_root, image["file_name"]) for image in coco["images"]]


def check_name(name: str) -> None:
    """Raise ValueError if results under this name would be written elsewhere."""
    if re.search(r"[/\\\0]", name) or name in (".", ".."):
        raise ValueError(
            f"the name of a data set is part of file names: '{name}' must have no / and no \\ in it"
        )


def _dataset_of(entry):
    is_triple = isinstance(entry, (list, tuple)) and len(entry) == 3
    if not is_triple or not all(isinstance(item, str) and item for item in entry):
        raise ValueError(
            f"DATASETS.COCO_FORMAT: {entry!r} is not a data set; an entry is {ENTRY_FORM}, "
            f"and the key is a list of such entries: [{ENTRY_FORM}, ...]"
        )
    name, *paths = entry
    check_name(name)
    return CocoFormatDataset(name, *(os.path.abspath(os.path.expanduser(p)) for p in paths))


def _describe_registered(name):
    dataset = DatasetCatalog[name]
    if isinstance(dataset, CocoFormatDataset):
        return f"the entry with {dataset.json_file} and {dataset.image_root}"
    return "a data set that Detectron2 or other code has registered"


def _contiguous_ids(coco):
    return {id: i for i, id in enumerate(sorted(category["id"] for category in coco["categories"]))}


def _keypoint_metadata(coco) -> dict:
    """What Detectron2 wants to know of keypoints, if all categories with keypoints have the same.

    Points are pairs of left and right, which change places in a mirrored image, where their names
    differ in that word alone. Points without names are numbered.
    """
    named = [c for c in coco["categories"] if "keypoints" in c]
    lists = {tuple(category["keypoints"]) for category in named}
    if len(lists) != 1:
        lengths = {
            len(a["keypoints"]) // 3 for a in coco.get("annotations", ()) if "keypoints" in a
        }
        if lists or len(lengths) != 1:
            return {}
        lists = {tuple(map(str, range(1, lengths.pop() + 1)))}
    names = lists.pop()
    pairs = [pair for category in named[:1] for pair in category.get("skeleton", ())]
    colors = colormap(rgb=True).round().astype(int).tolist()
    return {
        "keypoint_names": list(names),
        "keypoint_flip_map": [
            (name, mirrored)
            for name in names
            if "left" in name.lower() and (mirrored := _mirrored(name)) in names
        ],
        "keypoint_connection_rules": [
            (names[a - 1], names[b - 1], tuple(colors[i % len(colors)]))
            for i, (a, b) in enumerate(pairs)
        ],
    }


def _mirrored(name):
    for left, right in (("left", "right"), ("Left", "Right"), ("LEFT", "RIGHT")):
        name = name.replace(left, right)
    return name


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
