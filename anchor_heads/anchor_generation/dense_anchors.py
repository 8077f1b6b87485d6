"""The anchor strategy of Detectron2's RetinaNet and RPN: preset shapes at all locations, matched
with objects by IoU thresholds."""

from detectron2.modeling.meta_arch.dense_detector import permute_to_N_HWA_K
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes, pairwise_iou

from .preset_coverage import best_preset_iou
from .strategy import AnchorStrategy, Assignment, Coverage, LevelAnchors, get_anchor_strategy


class DenseAnchorStrategy(AnchorStrategy):
    """Anchors that a generator puts at all locations, whatever the image."""

    def _dense_predictions(self, predictions):
        """Logits (N, Ri, K) and deltas (N, Ri, 4) per level."""
        logits, deltas = predictions
        return (
            [permute_to_N_HWA_K(x, self.num_classes) for x in logits],
            [permute_to_N_HWA_K(x, 4) for x in deltas],
        )

    def _level_anchors(self, features, predictions, image_size):
        logits, _ = self._dense_predictions(predictions)
        anchors = self.generator(features)
        return [
            LevelAnchors(
                level=name,
                boxes=boxes.tensor,
                scores=x[0].amax(dim=1).sigmoid(),
                num_locations=feature[0, 0].numel(),
                num_kept=feature[0, 0].numel(),
            )
            for name, boxes, x, feature in zip(
                self.in_features, anchors, logits, features, strict=True
            )
        ]

    def _assignments(self, features, predictions, image_size, objects):
        anchors = Boxes.cat(self.generator(features))
        iou = pairwise_iou(objects.gt_boxes, anchors)
        matched_idxs, labels = self.owner.anchor_matcher(iou)
        positive = labels == 1
        if not self.one_stage and self.owner.anchor_boundary_thresh >= 0:
            positive &= anchors.inside_box(image_size, self.owner.anchor_boundary_thresh)
        chosen = positive.nonzero()[:, 0]
        best = iou.amax(dim=0) if len(objects) else iou.new_zeros(len(anchors))
        return [
            Assignment(
                rule="class and box, by IoU",
                boxes=anchors.tensor[chosen],
                matched_idxs=matched_idxs[chosen],
                scores=best[chosen],
                score_name="IoU",
                num_anchors=len(anchors),
            )
        ]

    def losses(self, images, features, predictions, gt_instances):
        if self.one_stage:
            return super().losses(images, features, predictions, gt_instances)
        # As RPN.forward, which runs the head itself.
        anchors = self.generator(features)
        logits, deltas = self._dense_predictions(predictions)
        labels, boxes = self.owner.label_and_sample_anchors(anchors, gt_instances)
        return self.owner.losses(anchors, [x[..., 0] for x in logits], labels, deltas, boxes)

    def _iou_thresholds(self) -> tuple[float, float]:
        """From the first IoU on an object is reached, from the second on assigned to a level."""
        _, *thresholds, _ = self.owner.anchor_matcher.thresholds  # between -inf and inf
        return thresholds[0], thresholds[-1]

    def coverage(self, boxes, image_sizes, generator=None):
        """An object is assigned to a level if an anchor of it has an IoU with it that is not
        below the upper threshold, or is the highest of all."""
        reached_from, assigned_from = self._iou_thresholds()
        iou, centered_iou = best_preset_iou(boxes, image_sizes, generator or self.generator)
        best = iou.amax(dim=1)
        return Coverage(
            iou=best,
            centered_iou=centered_iou,
            levels=(iou >= assigned_from) | (iou == best[:, None]),
            reached=best >= reached_from,
            threshold=reached_from,
        )


get_anchor_strategy.register(RetinaNet, DenseAnchorStrategy)
get_anchor_strategy.register(RPN, DenseAnchorStrategy)
