"""Convert a Pascal VOC or YOLO data set into annotation files in COCO format.

    anchor-heads convert-dataset VOCdevkit/VOC2007 annotations
    anchor-heads convert-dataset yolo_folder annotations

Which format it is in is seen from its files. Each part of it, such as train and val, becomes a file
in the folder OUTPUT; images stay where they are. What is left out is printed, with the entry for
DATASETS.COCO_FORMAT.
"""

from anchor_heads.cli.arguments import add_force, check_outputs
from anchor_heads.data.convert_dataset import convert_dataset, output_files


def add_arguments(parser):
    parser.add_argument("source", metavar="SOURCE", help="folder of the data set")
    parser.add_argument("output", metavar="OUTPUT", help="folder for the annotation files")
    add_force(parser)


def run(args):
    check_outputs(output_files(args.source, args.output), [], args.force)
    for report in convert_dataset(args.source, args.output):
        print(report)
