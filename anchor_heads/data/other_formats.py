"""Annotations in other formats than COCO's, recognised by their files."""

import os

VOC, YOLO = "Pascal VOC", "YOLO"


def recognize_format(path: str) -> str | None:
    """What other annotation format a path is of.

    Args:
        path (str): a file or folder. XML files, alone or in a folder or its folder "Annotations",
            are Pascal VOC's; a data.yaml, text files in a folder or its folder "labels" are YOLO's.

    Returns:
        str or None: VOC, YOLO or None.
    """
    if os.path.isfile(path):
        suffix = os.path.splitext(path)[1].lower()
        return {".xml": VOC, ".yaml": YOLO, ".yml": YOLO, ".txt": YOLO}.get(suffix)
    if _has_files(path, ".xml") or _has_files(os.path.join(path, "Annotations"), ".xml"):
        return VOC
    folders = [path, *(os.path.join(path, "labels", split) for split in ("", "train", "val"))]
    if _has_files(path, ".yaml") or any(_has_files(folder, ".txt") for folder in folders):
        return YOLO
    return None


def how_to_convert(path: str) -> str:
    """The command that converts annotations in another format; nothing where none is recognised."""
    found = recognize_format(path)
    if found is None:
        return "It is a folder, not a file." if os.path.isdir(path) else ""
    folder = os.path.dirname(path) if os.path.isfile(path) else path
    while {"Annotations", "ImageSets", "labels"} & set(folder.split(os.sep)):
        folder = os.path.dirname(folder)
    found = recognize_format(folder) or found  # the lists of Pascal VOC are text files, too
    # The classes may be beside the folders of the splits, each with its own "labels".
    parent = os.path.dirname(folder)
    if found == YOLO and not _has_files(folder, ".yaml") and _has_files(parent, ".yaml"):
        folder = parent
    return (
        f"It looks like annotations of {found}. Convert them with: anchor-heads convert-dataset "
        f"{folder} OUTPUT"
    )


def _has_files(folder, suffix):
    return os.path.isdir(folder) and any(
        entry.name.lower().endswith(suffix) for entry in os.scandir(folder)
    )
