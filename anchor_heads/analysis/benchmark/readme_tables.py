"""Benchmarks in Markdown files.

A file says where the benchmark ``results/NAME.json`` goes, and it is put there::

    <!-- benchmark NAME -->
    <!-- end -->
"""

import json
import re
from pathlib import Path

from anchor_heads.analysis.benchmark.report import describe

SECTION = re.compile(
    r"^(?P<start><!-- benchmark (?P<name>\S+) -->\n)(?P<old>.*?)(?P<end>^<!-- end -->$)",
    re.MULTILINE | re.DOTALL,
)
START = "<!-- benchmark "


def fill_in_benchmarks(markdown: str, results: Path) -> str:
    """Put benchmarks into the sections for them, instead of what stands there.

    Args:
        markdown (str): the text of a file.
        results (Path): the folder of the JSON files that ``tools/benchmark.py`` writes.

    Returns:
        str: the text with the benchmarks.

    Raises:
        ValueError: if a section does not end.
        FileNotFoundError: if there is no such file.
    """

    def fill_in(section: re.Match) -> str:
        file = results / f"{section['name']}.json"
        if not file.is_file():
            raise FileNotFoundError(
                f"There is no {file} for the section '{section['name']}'. Write it with "
                f"python tools/benchmark.py --output {file}"
            )
        benchmark = describe(json.loads(file.read_text(encoding="utf-8")))
        return f"{section['start']}\n{benchmark}\n\n{section['end']}"

    filled, count = SECTION.subn(fill_in, markdown)
    if count != markdown.count(START) or any(START in x["old"] for x in SECTION.finditer(markdown)):
        raise ValueError(
            "A section is not closed. Each is '<!-- benchmark NAME -->' and '<!-- end -->', both "
            "on lines of their own."
        )
    return filled
