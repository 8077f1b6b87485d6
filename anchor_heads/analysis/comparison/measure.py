"""What one model does with one image, in numbers.

Shape shorthand in this module:

    G: number of objects of the image
    R: number of anchors of the image, over all levels
"""

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from types import SimpleNamespace
from typing import NamedTuple

import numpy as np
import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.modeling import build_model
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, BoxMode, Instances, pairwise_iou
from torch import Tensor
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.analysis.comparison.definitions import NMS_THRESHOLD, RANKS
from anchor_heads.anchor_generation.strategy import LevelAnchors, get_anchor_strategy
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.evaluation.nms_recall import best_overlaps
from anchor_heads.evaluation.proposal_recall import matched_overlaps
from anchor_heads.modeling.matching import pairwise_iou_chunks
from anchor_heads.modeling.one_stage import candidates_before_nms


class AnnotatedImage(NamedTuple):
    """An image of a data set."""

    record: dict
    """In Detectron2's format, without annotations."""
    objects: Instances
    """With "gt_boxes" and "gt_classes", in the frame of the original image, without crowds."""


def annotated_images(dataset_name: str) -> list[AnnotatedImage]:
    """All images of a registered data set."""
    return [_annotated_image(dict(record)) for record in DatasetCatalog.get(dataset_name)]


def _annotated_image(record: dict) -> AnnotatedImage:
    annotations = [x for x in record.pop("annotations", ()) if not x.get("iscrowd", 0)]
    boxes = [BoxMode.convert(x["bbox"], x["bbox_mode"], BoxMode.XYXY_ABS) for x in annotations]
    objects = Instances(
        (record["height"], record["width"]),
        gt_boxes=Boxes(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
        gt_classes=torch.tensor([x["category_id"] for x in annotations], dtype=torch.int64),
    )
    return AnnotatedImage(record, objects[objects.gt_boxes.nonempty()])


class Seen(NamedTuple):
    """What a model has and finds in one image."""

    seconds: float
    levels: list[LevelAnchors]
    found: dict[str, Boxes]
    """By kind, the best first, in the frame of the original image."""
    candidates: Instances | None
    """Of a one-stage model: what NMS chooses from, in the frame of the original image."""

    @property
    def anchors(self) -> Tensor:
        """(R, 4) of all levels, in pixels of the network's input."""
        return torch.cat([x.boxes for x in self.levels])


class ComparedModel:
    """A model, and how it wants its images.

    Attributes:
        name (str): what it is called in the comparison.
        cfg (CfgNode): its config.
        head_is_trained (bool): False if its weights have nothing for the head of the anchors.
    """

    def __init__(self, name: str, cfg: CfgNode):
        """
        Args:
            name (str): what it is called in the comparison.
            cfg (CfgNode): its config; the weights are those of ``MODEL.WEIGHTS``, if any.

        Raises:
            TypeError: if the model has no anchors that are upright boxes.
            FileNotFoundError, ValueError: if there are no such weights, or nothing in them fits.
        """
        self.name = name
        self.cfg = cfg
        torch.manual_seed(0)
        self.model = build_model(cfg).eval()
        self._strategy = get_anchor_strategy(self.model)
        self._mapper = DatasetMapper(cfg, is_train=False)
        head = self._strategy.head
        before = [x.clone() for x in head.parameters()]
        if cfg.MODEL.WEIGHTS:
            AtomicCheckpointer(self.model).load(cfg.MODEL.WEIGHTS)
        self.head_is_trained = not all(map(torch.equal, before, head.parameters()))

    def load(self, image: AnnotatedImage) -> dict:
        """An image as the model takes it: resized, with "height" and "width" of the original.

        Raises:
            OSError: if the file cannot be read.
        """
        file = image.record["file_name"]
        try:
            return self._mapper(image.record)
        except (OSError, SyntaxError) as error:  # the latter from broken PNG files
            raise OSError(f"Cannot read the image {file}: {error}") from None

    @torch.no_grad()
    def run(self, model_input: dict) -> Seen:
        """Let the model find what it finds in what :meth:`load` returns."""
        with _watched(self._strategy) as watched:
            start = timer()
            (output,) = self.model([model_input])
            seconds = timer() - start - watched.seconds
        image_size = tuple(model_input["image"].shape[1:])
        levels = self._strategy.level_anchors(watched.features, watched.predictions, image_size)
        found = {"anchors": _best_anchors(levels, model_input)}
        if watched.proposals is not None:
            found["proposals"] = _resized(watched.proposals, model_input).proposal_boxes
        if "instances" in output:
            found["detections"] = _best_first(output["instances"]).pred_boxes
        candidates = None
        if isinstance(self.model, DenseDetector):
            images = self._strategy.preprocess(model_input["image"])
            with candidates_before_nms(self.model):
                (candidates,) = self.model.forward_inference(
                    images, watched.features, watched.predictions
                )
            candidates = _resized(candidates, model_input)
        return Seen(seconds, levels, found, candidates)

    def measure(self, image: AnnotatedImage) -> dict:
        """The numbers of one image, ready for JSON.

        Returns:
            dict: "image_id"; "seconds"; "levels", by name [anchors, locations, locations kept];
            "objects", by name a list with one number per object: its "area", its "best_iou" with
            any anchor, the IoU of its match among the k best of a kind as "kind@k", and of
            one-stage models its best IoU "before_nms" and "after_nms".
        """
        model_input = self.load(image)
        seen = self.run(model_input)
        gt = image.objects.gt_boxes.to(seen.anchors.device)
        iou, _ = best_anchors(seen.anchors, to_input(gt, model_input).tensor)
        objects = {"area": gt.area(), "best_iou": iou}
        for kind, boxes in seen.found.items():
            iou = pairwise_iou(boxes[: max(RANKS)], gt).cpu().numpy()
            objects |= {f"{kind}@{k}": matched_overlaps(iou[:k]) for k in RANKS}
        if seen.candidates is not None:
            overlaps = best_overlaps(gt, seen.candidates, [NMS_THRESHOLD])
            objects["before_nms"], objects["after_nms"] = overlaps.unbind(dim=1)
        return {
            "image_id": image.record["image_id"],
            "seconds": seen.seconds,
            "levels": {x.level: [len(x.boxes), x.num_locations, x.num_kept] for x in seen.levels},
            "objects": {name: _shortest(values) for name, values in objects.items()},
        }


def best_anchors(anchors: Tensor, objects: Tensor) -> tuple[Tensor, Tensor]:
    """The anchor that overlaps each object most.

    Args:
        anchors (Tensor): (R, 4); R may be 0.
        objects (Tensor): (G, 4) in the same frame.

    Returns:
        Tensor: (G,) their IoU; 0 if there are no anchors.
        Tensor: (G,) indices of the anchors; undefined if there are none.
    """
    iou = anchors.new_zeros(len(objects))
    indices = torch.zeros(len(objects), dtype=torch.int64, device=anchors.device)
    if len(anchors):
        for chunk, overlaps in pairwise_iou_chunks(objects, anchors):
            iou[chunk], indices[chunk] = overlaps.max(dim=1)
    return iou, indices


@contextmanager
def _watched(strategy) -> Iterator[SimpleNamespace]:
    """While the model runs: ``features`` and ``predictions``, input and output of the head of its
    anchors, and ``proposals``, Instances of its proposal generator or None. What the model goes on
    to change in place is copied; copying the predictions took ``seconds``."""
    seen = SimpleNamespace(proposals=None)

    def watch_head(module, arguments, output):
        start = timer()
        (seen.features,), seen.predictions = arguments, deepcopy(output)
        seen.seconds = timer() - start

    def watch_proposals(module, arguments, output):
        (proposals,), _ = output
        seen.proposals = Instances(
            proposals.image_size,
            proposal_boxes=proposals.proposal_boxes.clone(),
            objectness_logits=proposals.objectness_logits,
        )

    hooks = [strategy.head.register_forward_hook(watch_head)]
    if not strategy.one_stage:
        hooks.append(strategy.owner.register_forward_hook(watch_proposals))
    try:
        yield seen
    finally:
        for hook in hooks:
            hook.remove()


def _best_anchors(levels, model_input) -> Boxes:
    scores = torch.cat([x.scores for x in levels])
    best = scores.topk(min(max(RANKS), len(scores))).indices
    anchors = Boxes(torch.cat([x.boxes for x in levels])[best])
    height, width = model_input["image"].shape[1:]
    anchors.scale(model_input["width"] / width, model_input["height"] / height)
    return anchors


def _best_first(instances: Instances) -> Instances:
    return instances[instances.scores.argsort(descending=True, stable=True)]


def _resized(instances: Instances, model_input: dict) -> Instances:
    """From the frame of the network's input to that of the original image, as the model does."""
    return detector_postprocess(instances, model_input["height"], model_input["width"])


def to_input(boxes: Boxes, model_input: dict) -> Boxes:
    """From the frame of the original image to that of the network's input."""
    height, width = model_input["image"].shape[1:]
    boxes = boxes.clone()
    boxes.scale(width / model_input["width"], height / model_input["height"])
    return boxes


def _shortest(values: Tensor | np.ndarray) -> list[float]:
    """The shortest decimals that are read as these float32."""
    values = values.cpu().numpy() if isinstance(values, Tensor) else values
    return [float(str(x)) for x in values.astype(np.float32)]
