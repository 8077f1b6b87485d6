"""Draw the anchors of a model on images: one PNG per image, with these panels.

- The location probability of each level, of models that predict it (Guided Anchoring).
- Anchors. Guided Anchoring: the best that pass its filter. FreeAnchor: each object's bag, coloured
  by likelihood. Dynamic Anchor, RetinaNet and RPN: those assigned to an object by their IoU with
  it, from which class and box are learned.
- The detections, or the best proposals.

The objects are the annotated ones where the image belongs to DATASETS.TEST or DATASETS.TRAIN, else
the model's own detections or best proposals. What cannot be read is named and passed over, and the
exit code is 1.

    anchor-heads visualize --config-file quick_start/free_anchor \\
        --weights output/quick_start/model_final.pth datasets/shapes/val/000002.jpg
"""

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.cli.arguments import (
    add_config,
    add_output,
    add_score_threshold,
    check_outputs,
    load_config,
)
from anchor_heads.cli.inputs import find_images, passed_over, report_unreadable, usable
from anchor_heads.cli.outputs import picture_files
from anchor_heads.data.image_files import read_record_image
from anchor_heads.data.image_records import ImageRecords
from anchor_heads.predictor import load_predictor, metadata_of
from anchor_heads.visualization.anchor_pictures import picture_of_anchors
from anchor_heads.visualization.drawing import write_picture


def add_arguments(parser):
    add_config(parser, "IMAGE")
    add_output(parser, "FOLDER", default="output/anchors")
    add_score_threshold(parser)


def run(args):
    if not args.inputs:
        raise ValueError("name at least one IMAGE")
    cfg = load_config(args)
    images = find_images(args.inputs, args.output)
    outputs = picture_files(images, args.output, ending="_anchors.png")
    read = [args.weights, *(image.label for image in images)]
    check_outputs(list(outputs.values()), filter(None, read), args.force)
    records = ImageRecords(cfg)
    predictor, categories = load_predictor(cfg)
    get_anchor_strategy(predictor.model)  # raises if there are no anchors to show
    metadata = metadata_of(cfg, categories)
    unreadable = []
    for source, output in outputs.items():
        record = records.find(source.label) or {"file_name": source.label}
        objects = record.get("annotations")
        with passed_over(source, unreadable):
            image = read_record_image(record)
            with usable(source, image):
                picture = picture_of_anchors(
                    predictor, image, metadata, objects, args.score_threshold
                )
            write_picture(output, picture)
            print(f"Wrote {output}")
    return report_unreadable(unreadable, len(images))
