"""Running a model over images, videos and a camera."""

import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from detectron2.config import CfgNode
from detectron2.data import Metadata
from detectron2.engine import DefaultPredictor
from detectron2.modeling import ProposalNetwork
from detectron2.structures import Instances
from torch import nn
from tqdm import tqdm

from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.prediction.frame import PredictedFrame
from anchor_heads.prediction.sources import ImageFile, Source, UnreadableError
from anchor_heads.visualization.drawing import SCORE_THRESHOLD


def load_predictor(cfg: CfgNode, weights: str) -> DefaultPredictor:
    """Detectron2's predictor with a checkpoint.

    Raises:
        FileNotFoundError: if there is no such checkpoint.
        ValueError: if nothing in it fits the model, or the model needs precomputed proposals.
    """
    cfg = cfg.clone()
    cfg.defrost()
    cfg.MODEL.WEIGHTS = ""  # loaded below, where it is an error if nothing fits
    predictor = DefaultPredictor(cfg)
    if getattr(predictor.model, "proposal_generator", True) is None:
        raise ValueError("The model needs precomputed proposals, and images come without them")
    AtomicCheckpointer(predictor.model).load(weights)
    return predictor


def number_of_classes(model: nn.Module) -> int | None:
    """The number of a model's classes; None if it makes proposals.

    Raises:
        TypeError: if the model neither detects nor proposes.
    """
    if isinstance(model, ProposalNetwork):
        return None
    for part in (model, getattr(model, "roi_heads", None)):
        if hasattr(part, "num_classes"):
            return part.num_classes
    raise TypeError(f"A {type(model).__name__} neither detects objects nor proposes boxes")


@dataclass
class Summary:
    """What became of a run.

    Attributes:
        num_images, num_frames (int): images, and frames of videos and cameras, that were predicted.
        unreadable (list[str]): labels of the sources that could not be read.
        stopped_at (Source or None): what the run was at when it was stopped.
    """

    num_images: int = 0
    num_frames: int = 0
    unreadable: list[str] = field(default_factory=list)
    stopped_at: Source | None = None


def predict(
    predictor: Callable,
    sources: Sequence[Source],
    outputs: Sequence,
    metadata: Metadata,
    score_threshold: float = SCORE_THRESHOLD,
    stop: threading.Event | None = None,
) -> Summary:
    """Run a model over sources, with a progress bar. What cannot be read is named and passed over.

    Args:
        predictor (callable): takes a BGR image and returns {"instances": Instances} or
            {"proposals": Instances}, such as Detectron2's DefaultPredictor.
        sources (sequence of Source): images, videos, cameras.
        outputs (sequence): each with a method ``write`` that takes a PredictedFrame.
        metadata (Metadata): its "thing_classes" name the classes in pictures.
        score_threshold (float): detections with a lower score are not painted.
        stop (Event or None): ends the run after the image at hand when it is set.
    """
    summary = Summary()
    with tqdm(total=_num_frames(sources), unit="image") as progress:
        for source in sources:
            is_image = isinstance(source, ImageFile)
            try:
                for index, image in enumerate(source.frames()):
                    instances = _predict(predictor, image, source)
                    index = None if is_image else index
                    frame = PredictedFrame(
                        source, index, image, instances, metadata, score_threshold
                    )
                    for output in outputs:
                        output.write(frame)
                    summary.num_images += is_image
                    summary.num_frames += not is_image
                    progress.update()
                    if stop is not None and stop.is_set():
                        summary.stopped_at = source
                        return summary
            except UnreadableError as error:
                summary.unreadable.append(source.label)
                progress.write(str(error), file=sys.stderr)
                progress.update(is_image)
    return summary


@contextmanager
def stop_on_ctrl_c() -> Iterator[threading.Event]:
    """Let what is being done be finished after Ctrl-C; pressed again, it interrupts at once.

    Yields:
        Event: is set when it is pressed.
    """
    stop = threading.Event()

    def set_and_give_back(*_):
        stop.set()
        signal.signal(signal.SIGINT, signal.default_int_handler)

    before = signal.signal(signal.SIGINT, set_and_give_back)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGINT, before)


def _num_frames(sources: Sequence[Source]) -> int | None:
    """Of all sources together; None without an end."""
    numbers = [source.num_frames for source in sources]
    return None if None in numbers else sum(numbers)


def _predict(predictor: Callable, image, source: Source) -> Instances:
    try:
        prediction = predictor(image)
    except ValueError as error:  # of a size that cannot be resized, such as one row of pixels
        height, width = image.shape[:2]
        raise UnreadableError(
            f"Cannot use {source.label}, of {height}x{width} pixels: {error}"
        ) from error
    instances = prediction["instances"] if "instances" in prediction else prediction["proposals"]
    return instances.to("cpu")
