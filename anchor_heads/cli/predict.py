"""Run a model over images, videos or a camera, and write pictures, COCO JSON, or both.

    anchor-heads predict --config-file quick_start/free_anchor --weights model.pth \\
        images/ "more/*.jpg" clip.mp4 --output pictures --json predictions.json
    anchor-heads predict --config-file quick_start/free_anchor --weights model.pth \\
        --camera 0 --show

--weights also takes what anchor-heads export writes, and then needs no config.

Folders are searched with all that is below them. Pictures are named as the images are in their
folder; videos become MP4 files without sound, in H.264 where OpenCV has it. What cannot be read is
named and passed over, and the exit code is 1. Ctrl-C, or q in the window, ends the run; what was
predicted until then is kept, and the exit code is 130, or 0 with a camera.

The JSON file is a data set in COCO format: images, annotations with scores, categories. Boxes are
in pixels of the image, turned as its EXIF tag says. With --annotations it is a list of results for
COCO's evaluation, with the image and category ids and in the frame of that file; images that it
does not list are left out.
"""

import math
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field

from tqdm import tqdm

from anchor_heads.cli.arguments import (
    add_class_names,
    add_config,
    add_output,
    check_file,
    check_outputs,
    load_config,
    score,
)
from anchor_heads.cli.errors import INTERRUPTED
from anchor_heads.cli.inputs import (
    Source,
    find_sources,
    match_images,
    passed_over,
    report_unreadable,
    usable,
)
from anchor_heads.cli.outputs import CocoJson, Pictures, Window, picture_files
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.data.coco_json import clean_coco_dict
from anchor_heads.export import is_exported
from anchor_heads.predictor import annotated_categories, load_predictor, metadata_of, renamed
from anchor_heads.visualization.drawing import (
    MAX_LONG_SIDE,
    MIN_SHORT_SIDE,
    SCORE_THRESHOLD,
    draw_detections,
    readable_scale,
)


def add_arguments(parser):
    add_config(parser, "INPUT", takes_exported=True)
    parser.add_argument("--camera", type=int, metavar="N", help="number of a camera, from 0")
    add_output(parser, "FOLDER", "folder for pictures and videos")
    parser.add_argument("--json", metavar="FILE", help="COCO JSON file to write")
    parser.add_argument("--show", action="store_true", help="show the predictions in a window")
    parser.add_argument(
        "--score-threshold",
        type=score,
        help="detections with a lower score are left out, of pictures and JSON "
        f"(default: {SCORE_THRESHOLD} for pictures; JSON has all that the model gives, which "
        "MODEL.RETINANET.SCORE_THRESH_TEST or MODEL.ROI_HEADS.SCORE_THRESH_TEST decides)",
    )
    parser.add_argument(
        "--annotations", metavar="FILE", help="COCO annotation file that has the ids of the images"
    )
    add_class_names(parser)


def run(args) -> int:
    if not args.inputs and args.camera is None:
        raise ValueError("name at least one INPUT, or a --camera")
    if not (args.output or args.json or args.show):
        raise ValueError("say what to make: --output FOLDER, --json FILE or --show")
    cfg = load_config(args)
    sources = find_sources(args.inputs, args.output)
    if args.camera is not None:
        sources.append(Source(f"camera {args.camera}", f"camera_{args.camera}", args.camera))
    annotations = ids = None
    if args.annotations:
        annotations, ids = read_annotations(args.annotations, sources)
        sources = list(ids)
    files = picture_files(sources, args.output) if args.output else {}
    read = [args.annotations, args.weights, *(source.label for source in sources)]
    check_outputs([*files.values(), *filter(None, [args.json])], filter(None, read), args.force)

    register_coco_format(cfg)
    predictor, categories = load_predictor(cfg)
    if annotations:
        categories = annotated_categories(categories, annotations, args.annotations)
    if args.class_names:
        categories = renamed(categories, args.class_names)
    threshold = SCORE_THRESHOLD if args.score_threshold is None else args.score_threshold
    metadata = metadata_of(cfg, categories)

    def paint(image, instances):
        scale = max(1.0, readable_scale(image))
        return draw_detections(image, instances, metadata, threshold, scale)

    pictures = Pictures(files, paint)
    outputs = [pictures] if args.output else []
    if args.json:
        outputs.append(CocoJson(args.json, categories, ids))
    if args.show:
        outputs.append(Window(paint))
    done = Done()
    try:
        with ExitStack() as stack:
            for output in outputs:
                stack.enter_context(output)
            predict(predictor, sources, outputs, args.score_threshold or 0.0, done)
    except KeyboardInterrupt:
        done.is_stopped = True
    if pictures.codec:
        print(f"The videos are coded in {pictures.codec}")
    report(args, cfg, threshold, done)
    code = report_unreadable(done.unreadable, len(sources))
    if done.is_stopped and args.camera is None:
        print(f"Stopped: the rest of {len(sources)} inputs is left out")
        return INTERRUPTED
    return code


def read_annotations(file, sources) -> tuple[dict, dict[Source, int]]:
    """The content of an annotation file, and the image ids of the sources that it lists."""
    check_file(file, "--annotations")
    annotations = clean_coco_dict(file)
    ids = match_images(sources, annotations, file)
    if left_out := len(sources) - len(ids):
        print(f"{left_out} of {len(sources)} images are not in {file}: left out")
    return annotations, ids


@dataclass
class Done:
    """What was done until a run ended."""

    num_frames: int = 0
    """Of videos."""
    sizes: Counter = field(default_factory=Counter)
    """How many images and frames have which short and long side, in pixels."""
    best_score: float = -math.inf
    """Of all detections."""
    unreadable: list[str] = field(default_factory=list)
    """Labels of sources."""
    is_stopped: bool = False


def predict(predictor, sources, outputs, score_threshold, done) -> None:
    """Run a model over sources and give its predictions to the outputs."""
    numbers = [source.num_frames for source in sources]
    with tqdm(total=None if None in numbers else sum(numbers), unit="image") as progress:
        for source in sources:
            with passed_over(source, done.unreadable):
                for index, image in enumerate(source.frames()):
                    with usable(source, image):
                        instances = run_model(predictor, image, score_threshold)
                    for output in outputs:
                        output.write(source, index if source.is_video else None, image, instances)
                    done.num_frames += source.is_video
                    done.sizes[tuple(sorted(image.shape[:2]))] += 1
                    if instances.has("scores") and len(instances):
                        done.best_score = max(done.best_score, float(instances.scores.max()))
                    progress.update(source.is_video)
            progress.update(not source.is_video)


def run_model(predictor, image, score_threshold):
    """The detections with at least this score, or the proposals, on the CPU."""
    prediction = predictor(image)
    if "proposals" in prediction:
        return prediction["proposals"].to("cpu")
    instances = prediction["instances"].to("cpu")
    return instances[instances.scores >= score_threshold]


def report(args, cfg, threshold, done) -> None:
    """Print how much was predicted, what was enlarged, and where it was written."""
    total = done.sizes.total()
    print(f"Predicted {total - done.num_frames} images and {done.num_frames} frames of videos")
    at_test = cfg.INPUT.MIN_SIZE_TEST, cfg.INPUT.MAX_SIZE_TEST
    unchanged = "INPUT.MIN_SIZE_TEST 0 keeps their size"
    if is_exported(cfg.MODEL.WEIGHTS):
        unchanged = "exported with INPUT.MIN_SIZE_TEST 0, it keeps their size"
    limits = [(*at_test, f"for the model ({unchanged})")]
    if args.output:
        where = f"in their pictures (long side: up to {MAX_LONG_SIDE})"
        limits.append((MIN_SHORT_SIDE, MAX_LONG_SIDE, where))
    for short, long, where in limits:
        enlarged = {size: n for size, n in done.sizes.items() if size[0] < short and size[1] < long}
        if enlarged:
            print(
                f"{sum(enlarged.values())} of {total} images are enlarged {where}: their short "
                f"sides are below {short} pixels, the smallest of {min(enlarged)[0]}"
            )
    if args.output and -math.inf < done.best_score < threshold:
        print(
            f"No detection has a score of {threshold:g}, and none is drawn; the best has "
            f"{done.best_score:.2g}. --score-threshold lowers the limit"
        )
    for written in filter(None, (args.output if total else None, args.json)):
        print(f"Wrote {written}")
