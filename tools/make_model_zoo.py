"""Write MODEL_ZOO.md from docs/model_zoo.yaml.

python tools/make_model_zoo.py            # write it
python tools/make_model_zoo.py --check    # say whether it is up to date
"""

import argparse
import sys
from pathlib import Path
from urllib.parse import urlsplit

import yaml

from anchor_heads import model_zoo

ROOT = Path(__file__).resolve().parent.parent
NOTHING = "–"


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--data", type=Path, default=ROOT / "docs/model_zoo.yaml", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--output", type=Path, default=ROOT / "MODEL_ZOO.md", help="(default: %(default)s)"
    )
    parser.add_argument(
        "--check", action="store_true", help="write nothing; fail if the output is out of date"
    )
    return parser.parse_args()


def main():
    args = parse_arguments()
    page = render(yaml.safe_load(args.data.read_text(encoding="utf-8")))
    if not args.check:
        args.output.write_text(page, encoding="utf-8")
        print(f"Wrote {args.output}")
    elif not args.output.is_file() or args.output.read_text(encoding="utf-8") != page:
        sys.exit(f"{args.output} is out of date: run python tools/make_model_zoo.py")


def render(zoo: dict) -> str:
    """The page as Markdown.

    Raises:
        ValueError: if a row names a config or a check that does not exist, or has not one value
            for each of the authors' columns.
    """
    parts = [zoo["introduction"], table(["mark", "what was checked here"], zoo["checks"].items())]
    listed = set()
    for section in zoo["sections"]:
        parts += [f"## {section['title']}", section["text"], render_section(section, zoo["checks"])]
        listed |= {full_name(section, row) for row in section["rows"]}
    parts += ["## All other configs", zoo["others"], render_others(listed)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def render_section(section: dict, checks: dict) -> str:
    head = ["our config", "published training"]
    head += [f"authors report: {column}" for column in section["authors"]]
    head += ["published file", "conversion checked here", "measured here"]
    return table(head, [cells(section, row, checks) for row in section["rows"]])


def cells(section: dict, row: dict, checks: dict) -> list[str]:
    mark = row.get("check", section["check"])
    if mark is not None and mark not in checks:
        raise ValueError(f"{row['config']}: there is no check {mark!r}, only {', '.join(checks)}.")
    if len(row["authors"]) != len(section["authors"]):
        raise ValueError(
            f"{row['config']}: {len(row['authors'])} values for the columns {section['authors']}."
        )
    config = link(row["config"], f"configs/{full_name(section, row)}")
    if "settings" in row:
        config += f" with `{row['settings']}`"
    return [
        config,
        row["trained"],
        *map(or_nothing, row["authors"]),
        published_file(section, row),
        or_nothing(mark if "file" in row else None),
        or_nothing(row.get("measured")),
    ]


def full_name(section: dict, row: dict) -> str:
    """The name of a row's config, as in ``model_zoo.list_configs()``."""
    path = Path(model_zoo.get_config_file(f"{section['folder']}/{row['config']}"))
    return f"{path.parent.name}/{path.name}"


def published_file(section: dict, row: dict) -> str:
    """A link with the file's name, or with that of its host where the name is not known."""
    if "file" not in row:
        return NOTHING
    address = section.get("address", "") + row["file"]
    url = urlsplit(address)
    name = Path(url.path).name
    text = row.get("name") or (name if name.endswith(".pth") else url.netloc)
    password = f", password `{row['password']}`" if "password" in row else ""
    return link(text, address) + password


def render_others(listed: set[str]) -> str:
    """The configs that no row names."""
    others = [name for name in model_zoo.list_configs() if name not in listed]
    return "\n".join(f"- {link(name.removesuffix('.yaml'), f'configs/{name}')}" for name in others)


def or_nothing(value) -> str:
    return NOTHING if value is None else str(value)


def link(text: str, address: str) -> str:
    return f"[{text}]({address})"


def table(head, rows) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
