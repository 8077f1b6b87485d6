"""What one model does with one image, in numbers."""

from typing import NamedTuple

import torch
from detectron2.config import CfgNode
from detectron2.data import DatasetCatalog
from detectron2.data.transforms import NoOpTransform
from detectron2.modeling import build_model
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, Instances, pairwise_iou
from torch.utils.benchmark import timer  # waits for the GPU

from anchor_heads.anchor_generation.strategy import get_anchor_strategy
from anchor_heads.data.image_records import annotated_objects
from anchor_heads.data.mapper import DatasetMapper
from anchor_heads.engine.checkpoint import AtomicCheckpointer
from anchor_heads.evaluation.nms_recall import best_overlaps
from anchor_heads.evaluation.proposal_recall import matched_overlaps
from anchor_heads.modeling.matching import anchors_of_highest_iou
from anchor_heads.modeling.one_stage import candidates_before_nms

# The numbers of best boxes that recall is given for.
RANKS = (10, 30, 100, 300, 1000)
# Of NMS recall, as published.
NMS_THRESHOLD = 0.5


class AnnotatedImage(NamedTuple):
    """An image of a data set."""

    record: dict
    """In Detectron2's format, without annotations."""
    objects: Instances
    """With "gt_boxes" and "gt_classes", in the frame of the original image, without crowds."""

    @property
    def id(self) -> int | str:
        return self.record["image_id"]


def annotated_images(dataset_name: str) -> list[AnnotatedImage]:
    """All images of a registered data set."""
    images = []
    for record in map(dict, DatasetCatalog.get(dataset_name)):
        annotations, size = record.pop("annotations", ()), (record["height"], record["width"])
        images.append(AnnotatedImage(record, annotated_objects(annotations, NoOpTransform(), size)))
    return images


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
        return self._mapper(image.record)

    @torch.no_grad()
    def measure(self, image: AnnotatedImage) -> dict:
        """The numbers of one image, ready for JSON.

        The model runs twice: as a whole, for the time, and by part, for what it passes on.

        Returns:
            dict: "image_id"; "seconds"; "levels", by name [anchors, locations, locations kept];
            "objects", by name a list with one number per object: its "area", its "best_iou" with
            any anchor, the IoU of its match among the k best of a kind as "kind@k", and of
            one-stage models its best IoU "before_nms" and "after_nms".
        """
        model_input = self.load(image)
        start = timer()
        (output,) = self.model([model_input])
        seconds = timer() - start
        levels, found, candidates = self._run_by_part(model_input)
        if "instances" in output:
            found["detections"] = output["instances"].pred_boxes
        gt = image.objects.gt_boxes.to(self.model.device)
        input_size = tuple(model_input["image"].shape[1:])
        in_input = resized(gt, image.objects.image_size, input_size).tensor
        iou, _ = anchors_of_highest_iou(in_input, torch.cat([x.boxes for x in levels]))
        objects = {"area": gt.area(), "best_iou": iou}
        for kind, boxes in found.items():
            iou = pairwise_iou(boxes[: max(RANKS)], gt).cpu().numpy()
            objects |= {f"{kind}@{k}": matched_overlaps(iou[:k]) for k in RANKS}
        if candidates is not None:
            overlaps = best_overlaps(gt, candidates, [NMS_THRESHOLD])
            objects["before_nms"], objects["after_nms"] = overlaps.unbind(dim=1)
        return {
            "image_id": image.id,
            "seconds": seconds,
            "levels": {x.level: [len(x.boxes), x.num_locations, x.num_kept] for x in levels},
            "objects": {name: values.tolist() for name, values in objects.items()},
        }

    def _run_by_part(self, model_input):
        """The anchors of each level; the best anchors and proposals by kind; what NMS chooses from,
        or None. The latter two are in the frame of the original image."""
        strategy, image_size = self._strategy, tuple(model_input["image"].shape[1:])
        original_size = model_input["height"], model_input["width"]
        images = strategy.preprocess(model_input["image"])
        features = self.model.backbone(images.tensor)
        head_features = [features[name] for name in strategy.in_features]
        predictions = strategy.head(head_features)
        # First, since RetinaNet changes its predictions in place.
        levels = strategy.level_anchors(head_features, predictions, image_size)
        scores = torch.cat([x.scores for x in levels])
        best = scores.topk(min(max(RANKS), len(scores))).indices
        anchors = Boxes(torch.cat([x.boxes for x in levels])[best])
        found = {"anchors": resized(anchors, image_size, original_size)}
        if strategy.one_stage:
            with candidates_before_nms(self.model):
                (candidates,) = self.model.forward_inference(images, head_features, predictions)
            return levels, found, detector_postprocess(candidates, *original_size)
        (proposals,), _ = strategy.owner(images, features)
        found["proposals"] = detector_postprocess(proposals, *original_size).proposal_boxes
        return levels, found, None


def resized(boxes: Boxes, size: tuple[int, int], new_size: tuple[int, int]) -> Boxes:
    """Boxes of an image of one height and width, in the frame of another."""
    boxes = boxes.clone()
    boxes.scale(new_size[1] / size[1], new_size[0] / size[0])
    return boxes
