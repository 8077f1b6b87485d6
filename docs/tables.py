"""Write the tables of the Markdown files from the data they show.

python docs/tables.py            # write every table
python docs/tables.py --check    # write nothing; fail if a table is out of date

A table is between two comments, ``<!-- table NAME -->`` and ``<!-- end -->``. NAME is one of

- ``results/NAME``: ``docs/results/NAME.yaml``, measured here
- ``output/NAME``: ``docs/results/NAME.txt``, output of a command, as a code block
- ``benchmarks/NAME``: ``docs/benchmarks/NAME.json``, measured here by ``anchor-heads benchmark``
- ``runtimes/NAME``: the same of whole models in several runtimes
- ``published/SECTION``: a section of ``docs/model_zoo.yaml``, reported by the authors; with
  ``published/SECTION/short`` without cost and weights
- ``published/summary``: the R-50 detector of each method
- ``configs``: the configs without published weights
"""

import argparse
import json
import os
import re
import statistics
import sys
from pathlib import Path

import yaml

ROOT = Path(__file__).resolve().parent.parent
DATA, CONFIGS = ROOT / "docs", ROOT / "configs"
FILES = ("README.md", "MODEL_ZOO.md", "projects/*/README.md", "docs/**/*.md")
SECTION = re.compile(
    r"^(?P<start><!-- table (?P<name>\S+) -->)$.*?^(?P<end><!-- end -->)$",
    re.MULTILINE | re.DOTALL,
)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--check", action="store_true", help="fail if a table is out of date")
    check = parser.parse_args().check
    for file in sorted({file for pattern in FILES for file in ROOT.glob(pattern)}):
        text = file.read_text(encoding="utf-8")
        filled = fill_in(text, file.parent)
        if filled != text and check:
            sys.exit(f"{file} is out of date: run python docs/tables.py")
        if filled != text:
            file.write_text(filled, encoding="utf-8")
            print(f"Wrote {file}")


def fill_in(markdown: str, folder: Path) -> str:
    """Replace the content of every table.

    Args:
        markdown (str): text of a file.
        folder (Path): the file's folder, to which links are relative.

    Raises:
        ValueError: a table has no end, or there is none of that name.
    """
    filled, count = SECTION.subn(
        lambda x: f"{x['start']}\n\n{render(x['name'], folder)}\n\n{x['end']}", markdown
    )
    if count != markdown.count("<!-- table "):
        raise ValueError("A table is not closed by '<!-- end -->' on a line of its own.")
    return filled


def render(name: str, folder: Path) -> str:
    """The Markdown of one table."""
    kind, *rest = name.split("/")
    if kind == "results":
        return results(_read_yaml(f"results/{rest[0]}.yaml"))
    if kind == "output":
        return f"```\n{(DATA / 'results' / f'{rest[0]}.txt').read_text('utf-8').strip()}\n```"
    if kind in ("benchmarks", "runtimes"):
        report = json.loads((DATA / "benchmarks" / f"{rest[0]}.json").read_text("utf-8"))
        return benchmark(report) if kind == "benchmarks" else runtimes(report)
    if kind == "published":
        return published(_read_yaml("model_zoo.yaml"), folder, *rest)
    if kind == "configs":
        return other_configs(_read_yaml("model_zoo.yaml"), folder)
    raise ValueError(f"There is no table named {name!r}.")


def results(result: dict) -> str:
    """A measured table; a cell with several values, of several seeds, shows mean and range."""
    lines = [table(result["columns"], [map(_spread, row) for row in result["rows"]])]
    return "\n\n".join([*lines, result["setting"].strip()])


def benchmark(report: dict) -> str:
    """Time of the parts of models, and the ratio of the last of them to the first."""
    runs = report["runs"]
    names = list(runs[0]["models"])
    condition = "kept" if runs[0]["objects"] is None else "objects"
    shown = [name.split("_R_50")[0] for name in names]
    head = [f"{name}, ms" for name in shown]
    head = ["part", *head, f"{shown[-1]} / {shown[0]} (quartiles)"]
    rows = []
    for run in runs:
        models = [run["models"][name] for name in names]
        for part in [part for part in models[0]["seconds"] if part != "other"]:
            times = [f"{1000 * statistics.median(x['seconds'][part]):.0f}" for x in models]
            low, median, high = models[-1]["ratios"][part]
            rows.append([part, *times, f"{median:.3f} ({low:.3f} to {high:.3f})"])
            if len(runs) > 1:
                share = f"{100 * run['kept']:g} %" if condition == "kept" else run["objects"]
                rows[-1].insert(0, share)
        memory = [x["peak_memory"]["whole"] for x in models]
        megabytes = [f"{x / 1e6:.0f}" for x in memory]
        ratio = f"{memory[-1] / memory[0]:.3f}"
        rows.append([*rows[-1][: len(runs) > 1], "peak memory, MB", *megabytes, ratio])
    if len(runs) > 1:
        head.insert(0, "locations kept" if condition == "kept" else condition)
    return f"{table(head, rows)}\n\n{_origin(report)}"


def runtimes(report: dict) -> str:
    """Time of whole models in several runtimes, and its ratio to the first model of the same kind
    in eager PyTorch."""
    rows, columns = {}, ["eager PyTorch"]
    for run in report["runs"]:
        task = "inference" if run["objects"] is None else "training step"
        for name, model in run["models"].items():
            model_name, _, runtime = name.rstrip(")").partition(" (")
            time = f"{1000 * statistics.median(model['seconds']['whole']):.0f}"
            if model["ratios"]:
                time = f"{time} ({model['ratios']['whole'][1]:.2f})"
            columns += [runtime] if runtime and runtime not in columns else []
            row = rows.setdefault((task, model_name.split("_R_50")[0]), {})
            row[runtime or columns[0]] = time
    head = ["task", "model", *(f"{column}, ms" for column in columns)]
    cells = [[*names, *(row.get(column, "") for column in columns)] for names, row in rows.items()]
    ratio = f"In brackets the ratio to {next(iter(rows))[1]} in eager PyTorch."
    return f"{table(head, cells)}\n\n{ratio} {_origin(report)}"


def _origin(report: dict) -> str:
    height, width = report["runs"][0]["image_size"]
    repeats = report["repeats"]
    several = repeats > 1
    ratios = " A ratio is the median of those of the runs." if several else ""
    return (
        f"One image of {height}x{width}, "
        f"{f'medians of {repeats} alternating runs' if several else 'a single run'}, "
        f"{report['threads']} threads of an {report['cpu']}, torch "
        f"{report['torch'].split('+')[0]}, {report['date'][:10]}.{ratios}"
    )


def published(zoo: dict, folder: Path, name: str, form: str = "") -> str:
    """What the authors of a method report.

    Raises:
        ValueError: there is no such section, or a row has not one value for each column.
    """
    if name == "summary":
        rows = [row | {"section": x} for x in zoo["sections"] for row in x["rows"]]
        rows = [row for row in rows if "summary" in row]
        return table(
            ["model", "reported AP on COCO", "config"],
            [[x["summary"], x["reported"], _config(x["section"], x, folder)] for x in rows],
        )
    sections = {section["name"]: section for section in zoo["sections"]}
    if name not in sections:
        raise ValueError(f"There is no section {name!r}, only {', '.join(sections)}.")
    section = sections[name]
    columns = section["columns"]
    rows = []
    for row in section["rows"]:
        if len(row["values"]) != len(columns):
            raise ValueError(f"{row['config']}: {len(row['values'])} values for {columns}.")
        values = ["" if value is None else value for value in row["values"]]
        rows.append(
            {
                "config": _config(section, row, folder),
                "weights": _weights(section, row),
                "training": row["trained"],
                **dict(zip(columns, values, strict=True)),
            }
        )
    head = ["config", "weights", "training", *columns]
    if form == "short":
        head = ["config", "training", *columns[: section["short"]]]
    return table(head, [[row[name] for name in head] for row in rows])


def other_configs(zoo: dict, folder: Path) -> str:
    """A list of the configs that no section names."""
    named = {_config_file(section, row) for section in zoo["sections"] for row in section["rows"]}
    others = set(CONFIGS.glob("*/*.yaml")) - set(CONFIGS.glob("*/Base-*")) - named
    folders = sorted({path.parent.name for path in others})
    links = {
        name: [_link(x.stem, x, folder) for x in sorted(others) if x.parent.name == name]
        for name in folders
    }
    return "\n".join(f"- `{name}/`: {', '.join(links[name])}" for name in folders)


def table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(map(str, line))} |" for line in lines)


def _read_yaml(path: str) -> dict:
    return yaml.safe_load((DATA / path).read_text(encoding="utf-8"))


def _spread(value) -> str:
    if isinstance(value, list):
        return f"{sum(value) / len(value):.1f} ({min(value)} to {max(value)})"
    return "" if value is None else str(value)


def _config_file(section: dict, row: dict) -> Path:
    path = CONFIGS / section["folder"] / f"{row['config']}.yaml"
    if not path.is_file():
        raise ValueError(f"There is no config {path}.")
    return path


def _config(section: dict, row: dict, folder: Path) -> str:
    link = _link(row["config"], _config_file(section, row), folder)
    return f"{link}, `{row['settings']}`" if "settings" in row else link


def _link(text: str, path: Path, folder: Path) -> str:
    return f"[{text}]({Path(os.path.relpath(path, folder)).as_posix()})"


def _weights(section: dict, row: dict) -> str:
    if "file" not in row:
        return ""
    password = f", password `{row['password']}`" if "password" in row else ""
    return f"[weights]({section.get('address', '')}{row['file']}){password}"


if __name__ == "__main__":
    main()
