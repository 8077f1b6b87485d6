"""Check a config against its training data: no training, no weights, no GPU.

    anchor-heads diagnose --config-file quick_start/ga_retinanet
    anchor-heads diagnose --config-file free_anchor/free_anchor_R_50_FPN_1x \\
        --output diagnosis.json \\
        DATASETS.COCO_FORMAT '[("cells", "cells/train.json", "cells/images")]' \\
        DATASETS.TRAIN '("cells",)'

Looks at objects that no anchor reaches, levels, classes and images without objects, limits per
image, learning rate and schedule. Each finding is an error, a warning or a note, with its number
and the config keys to change, which can be appended to a command.
"""

import json

from anchor_heads.analysis.diagnosis import diagnose
from anchor_heads.cli.arguments import (
    add_config,
    add_output,
    check_outputs,
    load_config,
    open_output,
)


def add_arguments(parser):
    add_config(parser, weights="")
    add_output(parser, "FILE", "JSON file for the findings", alias="--json")


def run(args):
    if args.output:
        check_outputs([args.output], [args.config_file], args.force)
    diagnosis = diagnose(load_config(args))
    print(diagnosis)
    if args.output:
        with open_output(args.output) as file:
            json.dump(diagnosis.to_json(), file, indent=2)
        print(f"Wrote {args.output}")
