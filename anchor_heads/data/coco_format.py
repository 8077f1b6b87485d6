"""Data sets of one's own in COCO format, named in the config: ``DATASETS.COCO_FORMAT``.

An entry is ``(name, annotation json, image folder)``; paths are relative to the working directory
and ``~`` is the home folder. The name can then be used in ``DATASETS.TRAIN`` and ``DATASETS.TEST``.

Annotation files of the wild are read kindly: see ``clean_coco_dict`` for what is filled in, what
is dropped with a warning, and what is an error.
"""

import os
from dataclasses import dataclass

import pycocotools.mask as mask_util
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.structures import BoxMode

from anchor_heads.data.coco_json import clean_coco_dict

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
