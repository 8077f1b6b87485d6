"""What the reports of this package have in common."""

import itertools
import platform
import re
from collections.abc import Sequence
from datetime import datetime, timezone
from pathlib import Path

import detectron2
import torch
import torchvision
from tabulate import tabulate

import anchor_heads

# Intraword underscores are left: they mean nothing in Markdown.
_MARKDOWN = re.compile(r"[\\`*\[\]<>|~&]|(?<!\w)_|_(?!\w)")


def environment(device: torch.device) -> dict:
    """What measured numbers depend on besides the models, ready for JSON."""
    cpuinfo = Path("/proc/cpuinfo")
    model = re.search(r"model name\s*: (.*)", cpuinfo.read_text() if cpuinfo.exists() else "")
    return {
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "torchvision": torchvision.__version__,
        "detectron2": detectron2.__version__,
        "anchor_heads": anchor_heads.__version__,
        "device": torch.cuda.get_device_name(device) if device.type == "cuda" else "cpu",
        "cpu": model[1] if model else platform.processor() or platform.machine(),
        "threads": torch.get_num_threads(),
    }


def device_name(machine: dict) -> str:
    """What times were measured on, from :func:`environment`."""
    if machine["device"] == "cpu":
        return f"{machine['threads']} thread(s) of {machine['cpu']}"
    return machine["device"]


def model_names(config_files: Sequence[str]) -> list[str]:
    """Short and unique names of models.

    A model is named after its config file, or after the folder of a file called config.yaml, as a
    training run leaves it. Further models of the same name are numbered.
    """
    names = []
    for path in map(Path, config_files):
        name = path.absolute().parent.name if path.stem == "config" else path.stem
        numbered = (f"{name}_{i}" for i in itertools.count(2))
        names.append(next(x for x in itertools.chain([name], numbered) if x not in names))
    return names


def markdown_text(text: str) -> str:
    """The text as Markdown shows it: on one line, nothing in it formats."""
    return _MARKDOWN.sub(lambda found: "\\" + found[0], " ".join(text.split()))


def markdown_table(headers: Sequence[str], rows: Sequence[Sequence[str]], text_columns: int) -> str:
    """A Markdown table of plain text.

    Args:
        headers (sequence of str): names of the columns.
        rows (sequence): a text for each column.
        text_columns (int): how many columns, from the left, have words; the others have numbers.
    """
    align = ["left" if i < text_columns else "right" for i in range(len(headers))]
    cells = [[markdown_text(cell) for cell in row] for row in rows]
    return tabulate(cells, headers, "pipe", colalign=align, disable_numparse=True)
