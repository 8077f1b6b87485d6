"""Measured numbers of images, in a file that outlives the process that writes it."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

from detectron2.config import CfgNode

from anchor_heads.analysis.comparison.measure import AnnotatedImage

# Of what is stored: numbers of an older form are measured again.
FORM = 1


class Measurements:
    """The results of one model, a line of JSON per image, in the order in which they came.

    A line that was torn when its process was killed is dropped.
    """

    def __init__(self, path: Path):
        """
        Args:
            path (Path): file of the results; the first :meth:`add` makes it.

        Raises:
            ValueError: if the file is of another kind.
        """
        self.path = path
        if path.exists():
            with path.open("rb+") as file:
                file.truncate(sum(len(line) for line in file if line.endswith(b"\n")))
        self.image_ids = {result["image_id"] for result in self}

    def add(self, result: dict) -> None:
        """Write a result, which has an "image_id"."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(result) + "\n")
        self.image_ids.add(result["image_id"])

    def __iter__(self) -> Iterator[dict]:
        """The results, one at a time."""
        lines = self.path.read_text().splitlines() if self.path.exists() else []
        for number, line in enumerate(lines, start=1):
            try:
                yield json.loads(line)
            except ValueError as error:
                raise ValueError(
                    f"{self.path}, line {number}: {error}. Remove the file to measure its images "
                    "again."
                ) from None


def fingerprint(cfg: CfgNode, images: Sequence[AnnotatedImage], conditions: dict) -> str:
    """A name for the measurements that belong together.

    Args:
        cfg (CfgNode): config of the model; the content of its weights counts.
        images (sequence of AnnotatedImage): all images of the data set.
        conditions (dict): what else the numbers depend on, ready for JSON.

    Returns:
        str: 12 hexadecimal digits.
    """
    digest = hashlib.sha256(json.dumps([FORM, cfg.dump(), conditions]).encode())
    if Path(cfg.MODEL.WEIGHTS).is_file():
        with open(cfg.MODEL.WEIGHTS, "rb") as file:
            while chunk := file.read(2**20):
                digest.update(chunk)
    for record, objects in images:
        digest.update(json.dumps([record["file_name"], record["image_id"]]).encode())
        digest.update(objects.gt_boxes.tensor.numpy().tobytes())
    return digest.hexdigest()[:12]
