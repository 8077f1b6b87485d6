"""Category and image ids of predictions."""

import os
from collections import defaultdict
from collections.abc import Sequence

from detectron2.data import Metadata

from anchor_heads.data.coco_json import shorten
from anchor_heads.data.image_files import STORED_FRAME, is_stored_frame, read_headers
from anchor_heads.prediction.sources import ImageFile, Source

PROPOSALS = [{"id": 1, "name": "object"}]


def model_categories(
    num_classes: int | None,
    metadata: Metadata,
    annotations: dict | None = None,
    class_names: Sequence[str] | None = None,
) -> list[dict]:
    """The categories of a model's classes, in COCO's format.

    They are those of the annotations, else those of the data set that the metadata belongs to,
    else they are numbered from 0. ``class_names`` gives them other names. Proposals have no class:
    they get the first category of the annotations, else one called "object".

    Args:
        num_classes (int or None): of the model; None if it makes proposals.
        metadata (Metadata): of a data set; may be empty.
        annotations (dict or None): the content of a file in COCO format.
        class_names (sequence of str or None): the names of the classes, in the model's order.

    Returns:
        list[dict]: "id" and "name" of each class, in the model's order.

    Raises:
        ValueError: if the numbers of classes differ.
    """
    if annotations:
        categories = sorted(annotations["categories"], key=lambda category: category["id"])
    else:
        categories = _categories_of_data_set(metadata)
    if num_classes is None:
        return categories[:1] if annotations else PROPOSALS
    if len(categories) != num_classes:
        if annotations:
            raise ValueError(f"{_differ(num_classes, categories)} the annotation file.")
        if categories and not class_names:
            raise ValueError(
                f"{_differ(num_classes, categories)} data set '{metadata.name}' in DATASETS.TEST. "
                "Name the model's own classes with --class-names, or its data set in DATASETS.TEST"
            )
        categories = [{"id": i, "name": str(i)} for i in range(num_classes)]
    if not class_names:
        return [{"id": category["id"], "name": category["name"]} for category in categories]
    if len(class_names) != num_classes:
        raise ValueError(
            f"The model has {num_classes} classes, and --class-names {len(class_names)} names "
            f"({shorten(class_names)})"
        )
    return [{"id": x["id"], "name": name} for x, name in zip(categories, class_names, strict=True)]


def image_ids(sources: Sequence[Source], annotations: dict, json_file: str) -> dict[Source, int]:
    """Which images of an annotation file the sources are.

    A source is an image of the file if its path ends with the image's "file_name". It is read in
    the frame of its annotations from then on.

    Args:
        sources (sequence of Source): the images.
        annotations (dict): the content of a file in COCO format.
        json_file (str): path of the file, for messages.

    Returns:
        dict[Source, int]: the image id of each source that the file lists.

    Raises:
        ValueError: for a video or a camera, if two sources are the same image, if none is listed.
        ImageFileError: if an image is not of the size that the file says.
    """
    images = defaultdict(list)
    for image in annotations["images"]:
        images[os.path.basename(image["file_name"])].append(image)
    found = {}
    for source in sources:
        if not isinstance(source, ImageFile):
            raise ValueError(f"{json_file} lists images; take out {source.label} or --annotations")
        listed = [x for x in images[os.path.basename(source.path)] if _is_at(source.path, x)]
        if listed:
            found[source] = max(listed, key=lambda x: len(x["file_name"]))
    if not found:
        raise ValueError(f"{json_file} lists none of the images, the first being {sources[0].path}")
    ids = {source: image["id"] for source, image in found.items()}
    _check_each_once(ids, json_file)
    _set_frames(found, json_file)
    return ids


def _set_frames(images: dict[ImageFile, dict], json_file: str) -> None:
    """Let images be read in the frame of their annotations. Broken files are left for later."""
    headers = dict(zip(images, read_headers(source.path for source in images), strict=True))
    whole = [source for source, header in headers.items() if not header.wrong]
    is_stored = is_stored_frame(
        json_file,
        [source.path for source in whole],
        [headers[source] for source in whole],
        [(images[source]["width"], images[source]["height"]) for source in whole],
    )
    for source, image in images.items():
        source.record = {
            "width": image["width"],
            "height": image["height"],
            STORED_FRAME: is_stored,
        }


def _categories_of_data_set(metadata: Metadata) -> list[dict]:
    names = metadata.get("thing_classes", [])
    dataset_ids = metadata.get(
        "thing_dataset_id_to_contiguous_id", {i: i for i in range(len(names))}
    )
    id_of_class = {contiguous: id for id, contiguous in dataset_ids.items()}
    return [{"id": id_of_class[i], "name": name} for i, name in enumerate(names)]


def _differ(num_classes: int, categories: list[dict]) -> str:
    names = shorten([category["name"] for category in categories])
    return f"The model has {num_classes} classes, but there are {len(categories)} ({names}) in"


def _check_each_once(ids: dict[Source, int], json_file: str) -> None:
    source_of = {}
    for source, id in ids.items():
        other = source_of.setdefault(id, source)
        if other is not source:
            raise ValueError(
                f"{other.path} and {source.path} both are image {id} of {json_file}: predict on "
                "one of them at a time"
            )


def _is_at(path: str, image: dict) -> bool:
    """Whether the path ends with the image's file name, folder by folder."""
    wanted = os.path.normpath(image["file_name"]).split(os.sep)
    return os.path.abspath(path).split(os.sep)[-len(wanted) :] == wanted
