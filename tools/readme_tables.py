"""Put benchmarks into Markdown files, between <!-- benchmark NAME --> and <!-- end -->.

python tools/benchmark.py --output docs/benchmarks/NAME.json
python tools/readme_tables.py
python tools/readme_tables.py --check    # changes nothing, and fails if it would
"""

import argparse
from pathlib import Path

from anchor_heads.analysis.benchmark.readme_tables import fill_in_benchmarks

REPOSITORY = Path(__file__).parent.parent


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "files",
        metavar="FILE",
        nargs="*",
        type=Path,
        default=[REPOSITORY / "README.md", *sorted(REPOSITORY.glob("projects/*/README.md"))],
        help="(default: the README.md of the repository and of each method)",
    )
    parser.add_argument(
        "--results",
        type=Path,
        default=REPOSITORY / "docs/benchmarks",
        help="folder of the JSON files (default: docs/benchmarks)",
    )
    parser.add_argument("--check", action="store_true", help="only say which files would change")
    return parser.parse_args()


def main():
    args = parse_arguments()
    changed = []
    for file in args.files:
        before = file.read_text(encoding="utf-8")
        after = fill_in_benchmarks(before, args.results)
        if after != before:
            changed.append(file)
            if not args.check:
                file.write_text(after, encoding="utf-8")
                print(f"Wrote {file}")
    if args.check and changed:
        raise SystemExit(
            "These differ from their benchmarks; python tools/readme_tables.py writes them: "
            + ", ".join(map(str, changed))
        )


if __name__ == "__main__":
    main()
