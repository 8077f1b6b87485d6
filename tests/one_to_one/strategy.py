import torch
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.dense_anchors import DenseAnchorStrategy
from anchor_heads.anchor_generation.preset_coverage import best_preset_iou
from anchor_heads.anchor_generation.strategy import Assignment, Coverage

from .targets import best_anchor


class OneToOneStrategy(DenseAnchorStrategy):
    """Every object has an anchor, however little they overlap."""

    positive_fractions = {}

    def _assignments(self, features, predictions, image_size, objects):
        anchors = Boxes.cat(self.generator(features))
        indices, iou = best_anchor(objects.gt_boxes, anchors)
        return [
            Assignment(
                rule="class and box, one to one",
                boxes=anchors.tensor[indices],
                matched_idxs=torch.arange(len(indices), device=indices.device),
                scores=iou,
                score_name="IoU",
                num_anchors=len(anchors),
            )
        ]

    def coverage(self, boxes, image_sizes, generator=None):
        iou, centered_iou = best_preset_iou(boxes, image_sizes, generator or self.generator)
        best = iou.amax(dim=1)
        return Coverage(
            iou=best,
            centered_iou=centered_iou,
            levels=iou == best[:, None],
            reached=torch.ones_like(best, dtype=torch.bool),
            threshold=0.0,
        )
