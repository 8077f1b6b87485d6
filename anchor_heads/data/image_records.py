"""Which data set an image file belongs to, and what is annotated on it."""

import os
from collections import defaultdict

from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.detection_utils import annotations_to_instances, transform_instance_annotations
from detectron2.structures import Instances
from detectron2.utils.file_io import PathManager

from anchor_heads.data.coco_format import register_coco_format


class ImageRecords:
    """The images of ``DATASETS.TEST`` and ``DATASETS.TRAIN``, to be found by their files.

    A data set is read when the first image of its folder is asked for. Data sets whose annotation
    file is not there are passed over.
    """

    def __init__(self, cfg: CfgNode):
        """
        Args:
            cfg (CfgNode): the config. Its ``DATASETS.COCO_FORMAT`` is registered.

        Raises:
            ValueError: if an annotation file is not in COCO format.
        """
        register_coco_format(cfg)
        names = dict.fromkeys((*cfg.DATASETS.TEST, *cfg.DATASETS.TRAIN))
        self._names = [name for name in names if _is_there(name)]
        self._records = {}

    def find(self, image_file: str) -> dict | None:
        """
        Args:
            image_file (str): path of an existing file.

        Returns:
            dict or None: the image's record in Detectron2's format, of the first data set that has
            it; None if none has.
        """
        for name in self._names:
            if _is_below(image_file, MetadataCatalog.get(name).get("image_root")):
                for record in self._by_file_name(name)[os.path.basename(image_file)]:
                    if os.path.samefile(record["file_name"], image_file):
                        return record
        return None

    def _by_file_name(self, name: str) -> dict[str, list[dict]]:
        if name not in self._records:
            records = self._records[name] = defaultdict(list)
            for record in DatasetCatalog.get(name):
                records[os.path.basename(record["file_name"])].append(record)
        return self._records[name]


def annotated_objects(annotations: list[dict], transform, image_size: tuple[int, int]) -> Instances:
    """The annotated objects, without crowds, as a model in training gets them.

    Args:
        annotations (list[dict]): in Detectron2's format.
        transform (Transform): from the annotated image to the one that the objects are for.
        image_size (tuple[int, int]): height and width of the latter.

    Returns:
        Instances: with "gt_boxes" and "gt_classes".
    """
    boxes_only = [
        {key: annotation[key] for key in ("bbox", "bbox_mode", "category_id")}
        for annotation in annotations
        if not annotation.get("iscrowd", 0)
    ]
    transformed = [transform_instance_annotations(x, [transform], image_size) for x in boxes_only]
    objects = annotations_to_instances(transformed, image_size)
    return objects[objects.gt_boxes.nonempty()]


def _is_there(name: str) -> bool:
    if name not in DatasetCatalog:
        return False
    json_file = MetadataCatalog.get(name).get("json_file")
    return json_file is None or PathManager.isfile(json_file)


def _is_below(file: str, folder: str | None) -> bool:
    """True also if the folder is not known."""
    if not folder:
        return True
    inside = os.path.realpath(os.path.dirname(os.path.abspath(file)))
    return os.path.join(inside, "").startswith(os.path.join(os.path.realpath(folder), ""))
