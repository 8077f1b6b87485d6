import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch.retinanet import RetinaNet
from detectron2.structures import Boxes

from anchor_heads.anchor_generation.strategy import get_anchor_strategy

from .strategy import OneToOneStrategy
from .targets import labels_of


@META_ARCH_REGISTRY.register()
class OneToOneRetinaNet(RetinaNet):
    @torch.no_grad()
    def label_anchors(self, anchors, gt_instances):
        anchors = Boxes.cat(anchors)
        labels, boxes = [], []
        for gt in gt_instances:
            positive, matched_idxs = labels_of(gt.gt_boxes, anchors)
            labels.append(torch.where(positive, gt.gt_classes[matched_idxs], self.num_classes))
            boxes.append(gt.gt_boxes.tensor[matched_idxs])
        return labels, boxes


get_anchor_strategy.register(OneToOneRetinaNet, OneToOneStrategy)
