"""Write a trained detector to a file that runs without this package.

    anchor-heads export --config-file quick_start/free_anchor --weights model.pth \\
        --format onnx --output model.onnx

The file takes one image, (C, height, width) in the config's INPUT.FORMAT, uint8 and resized to the
test size, and gives boxes (n, 4) in its pixels, scores (n,) and classes (n,) after NMS. Names of
classes, pixel statistics and test size are in the file. ONNX runs with onnxruntime, the others with
torch and torchvision. docs/export.md has examples.
"""

import os
from tempfile import TemporaryDirectory

from anchor_heads.cli.arguments import (
    add_class_names,
    add_config,
    add_output,
    check_outputs,
    load_config,
    positive,
)
from anchor_heads.cli.inputs import find_images
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.export import SUFFIXES, check_format, describe, export_model
from anchor_heads.export.formats import require
from anchor_heads.predictor import load_predictor, renamed


def add_arguments(parser):
    add_config(parser)
    parser.add_argument("--format", required=True, metavar="FORMAT", help=", ".join(SUFFIXES))
    add_output(parser, "FILE", required=True)
    parser.add_argument(
        "--size", type=positive, nargs=2, metavar=("H", "W"), help="take images of this size only"
    )
    parser.add_argument(
        "--image-type",
        choices=("uint8", "float32"),
        default="uint8",
        help="numbers of the image, from 0 to 255 (default: uint8)",
    )
    parser.add_argument(
        "--resize",
        action="store_true",
        help="let the model resize images to the test size; boxes are in pixels of its input",
    )
    parser.add_argument(
        "--plain-operators",
        action="store_true",
        help="for runtimes without deformable convolution: make it of other operators",
    )
    parser.add_argument(
        "--precision",
        choices=("float32", "bfloat16", "int8"),
        default="float32",
        help="bfloat16: for --format torchscript; int8: for --format onnx, with "
        "--calibration-images (default: float32)",
    )
    parser.add_argument(
        "--calibration-images",
        nargs="+",
        default=[],
        metavar="IMAGE",
        help="images or folders that int8 is calibrated on; some dozens like those of the use",
    )
    add_class_names(parser)


def run(args) -> None:
    check_format(args.output, args.format)
    if args.precision == "int8" and not (args.format == "onnx" and args.calibration_images):
        raise ValueError("--precision int8 needs --format onnx and --calibration-images")
    if args.calibration_images and args.precision != "int8":
        raise ValueError("--calibration-images are for --precision int8")
    if args.precision == "int8":
        require("onnxruntime")
    images = find_images(args.calibration_images)
    cfg = load_config(args)
    check_outputs([args.output], filter(None, [args.weights]), args.force)
    cfg.MODEL.DEVICE = "cpu"
    register_coco_format(cfg)
    predictor, categories = load_predictor(cfg)
    if args.class_names:
        categories = renamed(categories, args.class_names)
    folder, name = os.path.split(os.path.abspath(args.output))
    os.makedirs(folder, exist_ok=True)
    with TemporaryDirectory(dir=folder) as scratch:  # for a file that is not complete
        path = os.path.join(scratch, name)
        export_model(
            predictor.model,
            path,
            args.format,
            describe(cfg, categories),
            args.size and tuple(args.size),
            args.image_type,
            args.resize,
            args.plain_operators,
            args.precision == "bfloat16",
        )
        if args.precision == "int8":
            from anchor_heads.export.int8 import quantize

            quantize(path, (x for image in images for x in image.frames()))
        os.replace(path, args.output)
    megabytes = os.path.getsize(args.output) / 1e6
    names = ", ".join(category["name"] for category in categories)
    print(f"Wrote {args.output}: {args.format}, {megabytes:.0f} MB, classes {names}")
