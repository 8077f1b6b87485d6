"""A trained model for the commands: its predictor and the names of its classes."""

import logging
from collections.abc import Sequence

from detectron2.config import CfgNode
from detectron2.data import Metadata, MetadataCatalog
from detectron2.engine import DefaultPredictor
from detectron2.modeling import GeneralizedRCNN, ProposalNetwork

from anchor_heads.data.checks import check_input_format
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.errors import shorten
from anchor_heads.export import ExportedPredictor, is_exported

logger = logging.getLogger(__name__)

PROPOSALS = [{"id": 1, "name": "object"}]


def load_predictor(cfg: CfgNode) -> tuple[DefaultPredictor, list[dict]]:
    """Detectron2's predictor with all its weights, and the categories of its classes.

    The categories are those in the config or the checkpoint, which a training run notes there, else
    those of the data set in DATASETS.TEST, else numbered from 0, with a warning. A model that makes
    proposals has one, "object".

    Args:
        cfg (CfgNode): the config, with the checkpoint in MODEL.WEIGHTS, or an exported model.

    Returns:
        tuple[DefaultPredictor, list[dict]]: the predictor; "id" and "name" of each class.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if a parameter of the model is not in it, or the model needs what a picture does
            not have: one channel, or precomputed proposals.
    """
    if is_exported(cfg.MODEL.WEIGHTS):
        exported = ExportedPredictor(cfg.MODEL.WEIGHTS)
        return exported, exported.categories
    check_input_format(cfg)
    cfg = cfg.clone()
    cfg.defrost()
    weights, cfg.MODEL.WEIGHTS = cfg.MODEL.WEIGHTS, ""
    if not weights:
        raise ValueError("the model has no weights: name a checkpoint with --weights")
    predictor = DefaultPredictor(cfg)
    model = predictor.model
    if isinstance(model, GeneralizedRCNN) and model.proposal_generator is None:
        raise ValueError("the model needs precomputed proposals, and pictures come without them")
    checkpoint = AtomicCheckpointer(model).load(weights, complete=True)
    if isinstance(model, ProposalNetwork):
        return predictor, PROPOSALS
    classes = model.roi_heads if isinstance(model, GeneralizedRCNN) else model
    return predictor, _categories(cfg, checkpoint, classes.num_classes)


def _categories(cfg, checkpoint, num_classes):
    noted = [
        (cfg.MODEL.CLASS_NAMES, cfg.MODEL.CATEGORY_IDS),
        (checkpoint.get("class_names", []), checkpoint.get("category_ids", [])),
    ]
    if cfg.DATASETS.TEST:
        metadata = MetadataCatalog.get(cfg.DATASETS.TEST[0])
        ids = metadata.get("thing_dataset_id_to_contiguous_id", {})
        noted.append((metadata.get("thing_classes", []), sorted(ids, key=ids.get)))
    for names, ids in noted:
        if len(names) == len(ids or names) == num_classes:
            ids = ids or range(num_classes)
            return [{"id": id, "name": name} for id, name in zip(ids, names, strict=True)]
    logger.warning(
        f"The names of the model's {num_classes} classes are not known: they are numbered from 0. "
        "MODEL.CLASS_NAMES gives them names, MODEL.CATEGORY_IDS ids."
    )
    return [{"id": i, "name": str(i)} for i in range(num_classes)]


def metadata_of(cfg: CfgNode, categories: Sequence[dict]) -> Metadata:
    """The metadata of the data set in DATASETS.TEST, if any, with the names of the categories."""
    data_set = MetadataCatalog.get(cfg.DATASETS.TEST[0]).as_dict() if cfg.DATASETS.TEST else {}
    return Metadata(**data_set | {"thing_classes": [category["name"] for category in categories]})


def annotated_categories(categories: Sequence[dict], annotations: dict, file: str) -> list[dict]:
    """The categories of an annotation file, in the order of a model's classes.

    They are found by name; if the names differ, the order of their ids is that of the classes, and
    what was taken for what is logged.
    Proposals, which have no class and are of ``PROPOSALS``, get the first one.

    Args:
        categories (sequence of dict): those of :func:`load_predictor`.
        annotations (dict): the content of a file in COCO format.
        file (str): its path, for messages.

    Raises:
        ValueError: if the numbers of classes differ, or some names are the same at other places.
    """
    listed = sorted(annotations["categories"], key=lambda category: category["id"])
    if categories is PROPOSALS:
        return listed[:1]
    if len(listed) != len(categories):
        names = shorten([category["name"] for category in listed])
        raise ValueError(
            f"The model has {len(categories)} classes, and {file} has {len(listed)} ({names})"
        )
    by_name = {category["name"]: category for category in listed}
    names = [category["name"] for category in categories]
    if set(names) == set(by_name):
        return [by_name[name] for name in names]
    pairs = list(zip(names, (category["name"] for category in listed), strict=True))
    if any(name != other and name in by_name for name, other in pairs):
        raise ValueError(
            f"The model has the classes {shorten(names)}, and {file} in the order of its ids "
            f"{shorten([other for _, other in pairs])}: some names are the same, but at other "
            "places. Give the categories the model's names, or ids in the order of its classes"
        )
    logger.warning(
        f"Not all classes of the model have the name of a category in {file}. They are taken in "
        f"the order of ids: {', '.join(f'{name} is {other}' for name, other in pairs)}."
    )
    return listed


def renamed(categories: Sequence[dict], names: Sequence[str]) -> list[dict]:
    """
    Raises:
        ValueError: if there are more or fewer names than categories, or one is empty or repeated.
    """
    if len(names) != len(categories):
        raise ValueError(
            f"The model has {len(categories)} classes, and --class-names {len(names)} names "
            f"({shorten(names)})"
        )
    if "" in names or len(set(names)) < len(names):
        raise ValueError(f"--class-names: each class needs a name of its own, not {names}")
    return [{"id": x["id"], "name": name} for x, name in zip(categories, names, strict=True)]
