"""What the anchor strategies of methods that predict their anchors have in common."""

from detectron2.structures import Boxes, Instances
from detectron2.structures.boxes import matched_pairwise_iou
from torch import Tensor

from anchor_heads.modeling.matching import Match, match_predicted_anchors
from anchor_heads.modeling.proposal_generator import BBOX_REG_WEIGHTS

from .strategy import AnchorStrategy, Assignment, ConfigProblem


class PredictedAnchorStrategy(AnchorStrategy):
    """One anchor of predicted shape per location, so that each image has its own.

    Shape shorthand:

        R: number of anchors of one image, over all levels
    """

    def config_problems(self):
        greatest = max(self.owner.box2box_transform.weights)
        of_deltas = self.owner.box_reg_loss_type == "smooth_l1"
        if not self.one_stage and of_deltas and greatest <= 1:
            return [
                ConfigProblem(
                    f"The box deltas have weights of {greatest:g}, as RPN's have. Predicted "
                    "anchors are closer to the objects, so that their deltas hardly count in the "
                    "loss.",
                    {
                        "MODEL.RPN.BBOX_REG_WEIGHTS": BBOX_REG_WEIGHTS,
                        "MODEL.RPN.SMOOTH_L1_BETA": 1.0,
                    },
                )
            ]
        return []

    def losses(self, images, features, predictions, gt_instances):
        result = super().losses(images, features, predictions, gt_instances)
        return result if self.one_stage else result[1]  # without proposals

    def _class_and_box_assignment(
        self, anchors: Tensor, valid: Tensor, objects: Instances
    ) -> Assignment:
        """The positive anchors of class and box.

        Args:
            anchors (Tensor): (R, 4).
            valid (Tensor): (1, R) bool, the anchors that may be positive.
            objects (Instances): with "gt_boxes".
        """
        matcher = self.owner.anchor_matcher
        match, _ = match_predicted_anchors(matcher, [objects], anchors[None], valid)
        return self._matched("class and box, by IoU", anchors, match, objects)

    def _matched(self, rule: str, anchors: Tensor, match: Match, objects: Instances) -> Assignment:
        """The anchors (R, 4) that are positive in the match of one image, with their IoU."""
        chosen = (match.labels[0] == 1).nonzero()[:, 0]
        boxes, matched_idxs = anchors[chosen], match.matched_idxs[0, chosen]
        return Assignment(
            rule=rule,
            boxes=boxes,
            matched_idxs=matched_idxs,
            scores=matched_pairwise_iou(Boxes(boxes), objects.gt_boxes[matched_idxs]),
            score_name="IoU",
            num_anchors=len(anchors),
        )
