"""Run a model over images, videos or a camera, and write pictures, COCO JSON, or both.

    anchor-heads predict --config-file quick_start/free_anchor --weights model.pth \\
        images/ "more/*.jpg" clip.mp4 --output pictures --json predictions.json
    anchor-heads predict --config-file quick_start/free_anchor --weights model.pth \\
        --camera 0 --show

Folders are searched with all that is below them. Pictures are named as the images are in their
folder; videos become MP4 files (MPEG-4 Part 2, without sound). What cannot be read is named and
passed over, and the exit code is 1. Ctrl-C (or q in the window) ends the run after the image at
hand; what was predicted until then is kept, and the exit code is 130, or 0 if it was a camera.

The JSON file is a data set in COCO format: images, annotations with scores, categories. With
--annotations it is a list of results for COCO's evaluation, with the image and category ids of that
file; images that it does not list are left out.
"""

from contextlib import ExitStack

from detectron2.data import Metadata, MetadataCatalog

from anchor_heads.cli.arguments import (
    add_config,
    add_force,
    add_weights,
    check_outputs,
    load_config,
)
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.data.coco_json import clean_coco_dict
from anchor_heads.prediction import (
    Camera,
    CocoResults,
    Pictures,
    Window,
    find_sources,
    image_ids,
    load_predictor,
    model_categories,
    number_of_classes,
    output_files,
    predict,
    stop_on_ctrl_c,
)
from anchor_heads.visualization.drawing import SCORE_THRESHOLD

INTERRUPTED = 130  # the exit code of a command that Ctrl-C ended


def add_arguments(parser):
    add_config(parser, "INPUT")
    add_weights(parser, required=True)
    parser.add_argument("--camera", type=int, metavar="N", help="number of a camera, from 0")
    parser.add_argument("--output", metavar="FOLDER", help="folder for pictures and videos")
    parser.add_argument("--json", metavar="FILE", help="COCO JSON file to write")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    add_force(parser)
    parser.add_argument(
        "--score-threshold",
        type=float,
        help="detections with a lower score are left out, of pictures and JSON "
        f"(default: {SCORE_THRESHOLD} for pictures; JSON has all that the model gives, which "
        "MODEL.RETINANET.SCORE_THRESH_TEST or MODEL.ROI_HEADS.SCORE_THRESH_TEST decides)",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO annotation file that has the ids of the images"
    )
    parser.add_argument(
        "--class-names",
        type=lambda names: [name.strip() for name in names.split(",")],
        metavar="NAMES",
        help="names of the model's classes, with commas between (default: those of --annotations "
        "or of the data set in DATASETS.TEST)",
    )


def choose_sources(args):
    """
    Returns:
        tuple: what is predicted on; the content of --annotations and the image ids in it, or None.
    """
    sources = find_sources(args.inputs, args.output)
    if args.camera is not None:
        sources.append(Camera(args.camera))
    if not args.annotations:
        return sources, None, None
    annotations = clean_coco_dict(args.annotations)
    ids = image_ids(sources, annotations, args.annotations)
    if left_out := len(sources) - len(ids):
        print(f"{left_out} of {len(sources)} images are not in {args.annotations}: left out")
    return list(ids), annotations, ids


def report(args, sources, summary) -> int:
    """Print what was done.

    Returns:
        int: the exit code.
    """
    print(f"Predicted {summary.num_images} images and {summary.num_frames} frames of videos")
    is_empty = not summary.num_images + summary.num_frames
    for written in filter(None, (None if is_empty else args.output, args.json)):
        print(f"Wrote {written}")
    if summary.unreadable:
        print(f"{len(summary.unreadable)} of {len(sources)} inputs could not be read:")
        print("\n".join(f"  {label}" for label in summary.unreadable))
    if summary.stopped_at and not isinstance(summary.stopped_at, Camera):
        num_left = len(sources) - 1 - sources.index(summary.stopped_at)
        print(f"Stopped at {summary.stopped_at.label}; {num_left} inputs after it are left out")
        return INTERRUPTED
    return 1 if summary.unreadable else 0


def run(args) -> int:
    if not args.inputs and args.camera is None:
        raise ValueError("name at least one INPUT, or a --camera")
    if not (args.output or args.json or args.show):
        raise ValueError("say what to make: --output FOLDER, --json FILE or --show")
    cfg = load_config(args)
    register_coco_format(cfg)
    sources, annotations, ids = choose_sources(args)
    pictures = output_files(sources, args.output) if args.output else {}
    read = [args.annotations, args.weights, *(source.label for source in sources)]
    written = [*pictures.values(), args.json]
    check_outputs(list(filter(None, written)), filter(None, read), args.force)

    predictor = load_predictor(cfg, args.weights)
    data_set = MetadataCatalog.get(cfg.DATASETS.TEST[0]) if cfg.DATASETS.TEST else Metadata()
    num_classes = number_of_classes(predictor.model)
    categories = model_categories(num_classes, data_set, annotations, args.class_names)
    names = [category["name"] for category in categories]
    metadata = Metadata(**{**data_set.as_dict(), "thing_classes": names})
    threshold = args.score_threshold

    with ExitStack() as stack:
        stop = stack.enter_context(stop_on_ctrl_c())
        outputs = []
        if args.show:
            outputs.append(Window(stop))
        if args.json:
            outputs.append(CocoResults(args.json, categories, ids, threshold or 0.0))
        if args.output:
            outputs.append(Pictures(pictures))
        for output in outputs:
            stack.enter_context(output)
        painted_from = SCORE_THRESHOLD if threshold is None else threshold
        summary = predict(predictor, sources, outputs, metadata, painted_from, stop)
    return report(args, sources, summary)
