"""Say what in a config will hurt with its training data: no training, no weights, no GPU.

    python tools/diagnose.py quick_start/ga_retinanet
    python tools/diagnose.py free_anchor/free_anchor_R_50_FPN_1x --json diagnosis.json \\
        DATASETS.COCO_FORMAT '[("cells", "cells/train.json", "cells/images")]' \\
        DATASETS.TRAIN '("cells",)'

Looks at objects that no anchor reaches, levels, classes and images without objects, limits per
image, learning rate and schedule. Each finding is an error, a warning or a note, with its number
and the config keys to change; values behind a key can be pasted behind a command.
"""

import argparse
import json
import os

from anchor_heads.analysis.diagnosis import diagnose
from anchor_heads.engine import load_config


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("config_file", metavar="CONFIG", help="path or name of a config")
    parser.add_argument("--json", metavar="FILE", help="write the findings to this file too")
    parser.add_argument("opts", nargs="*", help="config keys and values in turn")
    return parser.parse_intermixed_args()


def main():
    args = parse_arguments()
    diagnosis = diagnose(load_config(args))
    print(diagnosis)
    if args.json:
        os.makedirs(os.path.dirname(os.path.abspath(args.json)), exist_ok=True)
        with open(args.json, "w", encoding="utf-8") as file:
            json.dump(diagnosis.to_json(), file, indent=2)
        print(f"Wrote {args.json}")


if __name__ == "__main__":
    main()
