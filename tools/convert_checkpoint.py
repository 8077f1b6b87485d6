"""Convert published weights of another framework into a Detectron2 checkpoint.

python tools/convert_checkpoint.py SRC.pth DST.pth

Framework and model are read off the keys of SRC. Every tensor of SRC and every parameter of the
model must find its partner; if one does not, nothing is written. No code in SRC is run.
"""

import argparse
import sys

import yaml

from anchor_heads.checkpoint.convert_file import convert_file


def parse_arguments():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("source", metavar="SRC", help="the published file")
    parser.add_argument("target", metavar="DST", help="the .pth file to write")
    parser.add_argument(
        "--config",
        "--config-file",
        default="",
        help="path or name of the model's config (default: the one that fits)",
    )
    parser.add_argument("--force", action="store_true", help="overwrite DST")
    parser.add_argument("opts", nargs="*", help="config keys and values in turn")
    return parser.parse_intermixed_args()


def main():
    args = parse_arguments()
    try:
        print(convert_file(args.source, args.target, args.config, args.opts, args.force))
    except (OSError, ValueError, yaml.YAMLError) as error:
        sys.exit(f"convert_checkpoint.py: {error}")


if __name__ == "__main__":
    main()
