"""The classes of a trained model, noted in its config for when the data set is not at hand.

Detectron2's predictor and visualizers ask the metadata of ``DATASETS.TEST[0]`` for names, which the
data set itself provides only where its files are.
"""

from detectron2.config import CfgNode
from detectron2.data import MetadataCatalog

_NAMES, _IDS = "thing_classes", "thing_dataset_id_to_contiguous_id"
_FROM_CONFIG = "classes_from_config"


def note_classes(cfg: CfgNode) -> None:
    """Note the classes of the training set in MODEL.CLASS_NAMES and MODEL.CATEGORY_IDS."""
    metadata = MetadataCatalog.get(cfg.DATASETS.TRAIN[0]) if cfg.DATASETS.TRAIN else None
    if metadata is None or not metadata.get(_NAMES):
        return
    cfg.MODEL.CLASS_NAMES = list(metadata.get(_NAMES))
    ids = metadata.get(_IDS, {})
    cfg.MODEL.CATEGORY_IDS = sorted(ids, key=ids.get)


def recall_classes(cfg: CfgNode) -> None:
    """Give data sets without classes in their metadata those that the config has noted."""
    if not cfg.MODEL.CLASS_NAMES:
        return
    classes = {_NAMES: list(cfg.MODEL.CLASS_NAMES)}
    if cfg.MODEL.CATEGORY_IDS:
        classes[_IDS] = {id: i for i, id in enumerate(cfg.MODEL.CATEGORY_IDS)}
    for name in (*cfg.DATASETS.TRAIN, *cfg.DATASETS.TEST):
        metadata = MetadataCatalog.get(name)
        if not metadata.get(_NAMES):
            metadata.set(**classes, **{_FROM_CONFIG: True})


def forget_recalled_classes(dataset_name: str) -> None:
    """Make room for the classes of the data set itself; metadata cannot be changed otherwise."""
    metadata = MetadataCatalog.get(dataset_name)
    if not metadata.get(_FROM_CONFIG):
        return
    kept = metadata.as_dict()
    for key in (_NAMES, _IDS, _FROM_CONFIG):
        kept.pop(key, None)
    MetadataCatalog.pop(dataset_name)
    MetadataCatalog.get(dataset_name).set(**kept)
