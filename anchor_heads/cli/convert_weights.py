"""Convert published weights of another framework into a Detectron2 checkpoint.

    anchor-heads convert-weights SRC.pth DST.pth

Framework and model are read off the keys of SRC. Every tensor of SRC and every parameter of the
model must have its partner; otherwise nothing is written. No code in SRC is run.
"""

from anchor_heads.checkpoint.convert_file import convert_file
from anchor_heads.cli.arguments import add_force, check_outputs


def add_arguments(parser):
    parser.add_argument("source", metavar="SRC", help="the published file")
    parser.add_argument("target", metavar="DST", help="the .pth file to write")
    parser.add_argument(
        "--config-file",
        metavar="CONFIG",
        default="",
        help="path or name of the model's config (default: the one that fits)",
    )
    add_force(parser)
    parser.add_argument("opts", nargs="*", metavar="KEY VALUE", help="config keys and values")


def run(args):
    check_outputs([args.target], [args.source], args.force)
    print(convert_file(args.source, args.target, args.config_file, args.opts))
