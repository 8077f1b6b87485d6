"""Small models, and images for them."""

import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.layers import ShapeSpec
from detectron2.modeling.backbone import Backbone
from detectron2.structures import BitMasks, Boxes, Instances, Keypoints

from anchor_heads import get_cfg

NUM_CLASSES = 5
ZOO = {
    "RPN": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Cascade R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}


def shrink(cfg, fpn_channels=16):
    """Take most channels from a config, which then builds on the CPU without weights."""
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.PIXEL_STD = [2000.0] * 3  # keeps the output of a deep net without norm small
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.OUT_CHANNELS = fpn_channels
    cfg.MODEL.RETINANET.NUM_CLASSES = cfg.MODEL.ROI_HEADS.NUM_CLASSES = NUM_CLASSES
    return cfg


def zoo_cfg(name, proposal_generator):
    """A config of Detectron2's zoo with the proposal generator swapped, and fewer channels."""
    cfg = get_cfg()
    cfg.merge_from_file(detectron2_zoo.get_config_file(ZOO[name]))
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = proposal_generator
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    return shrink(cfg)


def image_with(num_objects, height=96, width=128):
    """Noise, with squares of 40 pixels as objects."""
    corner = torch.rand(num_objects, 2) * 50
    instances = Instances((height, width), gt_boxes=Boxes(torch.cat([corner, corner + 40], dim=1)))
    instances.gt_classes = torch.arange(num_objects) % NUM_CLASSES
    instances.gt_masks = BitMasks(torch.ones(num_objects, height, width, dtype=torch.bool))
    keypoints = torch.cat(
        [corner[:, None].expand(-1, 17, 2) + 20, torch.full((num_objects, 17, 1), 2.0)], 2
    )
    instances.gt_keypoints = Keypoints(keypoints)
    return {"image": torch.randint(0, 255, (3, height, width)).float(), "instances": instances}


class NoBackbone(Backbone):
    """Stands where features are given: five levels from stride 8 on."""

    def __init__(self, channels):
        super().__init__()
        self.channels = channels

    def forward(self, x):
        raise NotImplementedError

    def output_shape(self):
        return {f"p{3 + i}": ShapeSpec(channels=self.channels, stride=8 * 2**i) for i in range(5)}
