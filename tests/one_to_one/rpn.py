import torch
from detectron2.modeling import PROPOSAL_GENERATOR_REGISTRY
from detectron2.modeling.proposal_generator import RPN
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

from .strategy import OneToOneStrategy
from .targets import labels_of


@PROPOSAL_GENERATOR_REGISTRY.register()
class OneToOneRPN(RPN):
    @torch.no_grad()
    def label_and_sample_anchors(self, anchors, gt_instances):
        anchors = Boxes.cat(anchors)
        labels, boxes = [], []
        for gt in gt_instances:
            positive, matched_idxs = labels_of(gt.gt_boxes, anchors)
            labels.append(positive.to(torch.int8))
            boxes.append(gt.gt_boxes.tensor[matched_idxs])
        return labels, boxes


get_anchor_strategy.register(OneToOneRPN, OneToOneStrategy)
