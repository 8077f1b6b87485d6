import pytest
import torch
from detectron2 import model_zoo as detectron2_zoo
from detectron2.config import get_cfg as get_detectron2_cfg
from detectron2.modeling import build_model
from detectron2.structures import BitMasks, Boxes, ImageList, Instances, Keypoints
from detectron2.utils.events import EventStorage
from guided_published import LEVELS, TOLERANCE, Published, input_shape, published_cfg

from anchor_heads import get_cfg
from anchor_heads.projects.guided_anchoring.rpn import GuidedAnchorRPN

NAMES = ["p2", "p3", "p4", "p5", "p6"]
LOSSES = {
    "loss_rpn_cls": "loss_rpn_cls",
    "loss_rpn_loc": "loss_rpn_bbox",
    "loss_anchor_location": "loss_anchor_loc",
    "loss_anchor_shape": "loss_anchor_shape",
}


@pytest.fixture(scope="module")
def published():
    return Published("ga_rpn")


def generator_of(published, **keys):
    cfg = published_cfg()
    for key, value in keys.items():
        cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", value])
    shapes = dict(zip(NAMES, input_shape(published.strides), strict=True))
    generator = GuidedAnchorRPN(cfg, shapes)
    generator.rpn_head.load_state_dict(published.parameters("state"))
    return generator


def run(generator, published, instances=None):
    features = published.features()
    by_name = dict(zip(NAMES, features, strict=True))
    with EventStorage() as storage:
        proposals, losses = generator(published.images(), by_name, instances)
    return features, proposals, losses, storage


@pytest.mark.parametrize("setup", ["all", "all_locfix", "nogt"])
def test_losses_and_gradients_are_the_published_ones(published, setup):
    inverted = setup != "all_locfix"
    generator = generator_of(published, GUIDED_ANCHOR__INVERTED_LOCATION_LABEL=inverted)
    instances = published.instances(second_without_objects=setup == "nogt")
    features, _, losses, _ = run(generator.train(), published, instances)
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"{setup}/{theirs}").sum()
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)

    sum(losses.values()).backward()
    compared = 0
    for name, expected in published.parameters(f"{setup}/grad_param").items():
        gradient = generator.rpn_head.get_parameter(name).grad
        torch.testing.assert_close(gradient, expected, **TOLERANCE)
        compared += 1
    assert compared == (2 if setup == "all" else 12)
    if setup == "all_locfix":
        for i in range(1, LEVELS):
            expected = published.tensor(f"{setup}/grad_feat{i}")
            torch.testing.assert_close(features[i].grad, expected, **TOLERANCE)


def test_losses_of_the_published_sample_of_256(published):
    """All positives are drawn, so the shape loss does not depend on chance; the negatives that
    were drawn for the classes are given."""
    generator = generator_of(published, GUIDED_ANCHOR__SHAPE_BATCH_SIZE_PER_IMAGE=256)
    drawn = published.levels("s256/cls_label_weights") > 0
    background = published.levels("s256/cls_labels") == 1
    samples = iter(torch.where(drawn, (~background).long(), -1))
    generator._subsample_labels = lambda labels: next(samples)
    features, _, losses, storage = run(generator.train(), published, published.instances())
    for name, theirs in LOSSES.items():
        expected = published.tensor(f"s256/{theirs}").sum()
        torch.testing.assert_close(losses[name].detach(), expected, **TOLERANCE)
    latest = {name: value for name, (value, _) in storage.latest().items()}
    assert latest["guided_anchor/num_pos_shapes"] * 2 == published.arrays["s256/shape_num_pos"]
    assert latest["rpn/num_pos_anchors"] + latest["rpn/num_neg_anchors"] == 256


def assert_same_proposals(proposals, expected):
    torch.testing.assert_close(
        proposals.objectness_logits.sigmoid(), expected[:, 4], rtol=1e-4, atol=1e-5
    )
    torch.testing.assert_close(
        proposals.proposal_boxes.tensor, expected[:, :4], rtol=1e-4, atol=2e-3
    )


def test_proposals_in_training_are_the_published_ones(published):
    """From all locations: the filter works at test time only."""
    _, proposals, _, _ = run(generator_of(published).train(), published, published.instances())
    for i in range(2):
        assert_same_proposals(proposals[i], published.tensor(f"trainprop/dets{i}"))


@pytest.mark.parametrize(
    "name,pre_nms,post_nms", [("dets", 2000, 1000)] + [("dets_faster_test", 1000, 300)]
)
def test_proposals_of_a_batch_are_the_published_ones_of_each_image(
    published, name, pre_nms, post_nms
):
    generator = generator_of(
        published, RPN__PRE_NMS_TOPK_TEST=pre_nms, RPN__POST_NMS_TOPK_TEST=post_nms
    ).eval()
    with torch.no_grad():
        _, proposals, losses, _ = run(generator, published)
    assert losses == {}
    for i in range(2):
        assert_same_proposals(proposals[i], published.tensor(f"eval{i}/{name}"))


def test_predictions_at_the_wanted_locations_are_those_everywhere(published):
    generator = generator_of(published).eval()
    head, anchoring = generator.rpn_head, generator.guided_anchoring
    with torch.no_grad():
        guides = head(published.features())
        images = anchoring.predict_where_wanted(head, guides)
        everywhere = [head.predict(guide) for guide in guides]
        anchors = anchoring.anchors(guides)
    for i, levels in enumerate(images):
        for level, (anchors_i, logits, deltas) in enumerate(levels):
            wanted = published.tensor(f"eval{i}/loc_mask{level}")
            torch.testing.assert_close(anchors_i, anchors[level][i, wanted], **TOLERANCE)
            for ours, dense in zip((logits, deltas), everywhere[level], strict=True):
                torch.testing.assert_close(ours, dense[i, wanted], rtol=0, atol=1e-5)


def test_an_image_without_wanted_locations_has_no_proposals(published):
    generator = generator_of(published).eval()
    features = published.features()
    with torch.no_grad():
        guides = generator.rpn_head(features)
        first = [guide.location[:1] for guide in guides]
        highest = max(x.sigmoid().max().item() for x in first)
    generator.guided_anchoring.location_thresh = highest + 1e-3
    with torch.no_grad():
        _, proposals, _, _ = run(generator, published)
    assert len(proposals[0]) == 0
    generator.guided_anchoring.location_thresh = 1.0
    with torch.no_grad():
        _, proposals, _, _ = run(generator, published)
    assert [len(x) for x in proposals] == [0, 0]
    assert proposals[0].proposal_boxes.tensor.shape == (0, 4)


ZOO = {
    "RPN": "COCO-Detection/rpn_R_50_FPN_1x.yaml",
    "Faster R-CNN": "COCO-Detection/faster_rcnn_R_50_FPN_1x.yaml",
    "Faster R-CNN C4": "COCO-Detection/faster_rcnn_R_50_C4_1x.yaml",
    "Mask R-CNN": "COCO-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml",
    "Keypoint R-CNN": "COCO-Keypoints/keypoint_rcnn_R_50_FPN_1x.yaml",
    "Cascade R-CNN": "Misc/cascade_mask_rcnn_R_50_FPN_1x.yaml",
}


def zoo_cfg(name):
    """A config of Detectron2's zoo with the proposal generator swapped, and fewer channels."""
    cfg = get_cfg()
    cfg.merge_from_file(detectron2_zoo.get_config_file(ZOO[name]))
    cfg.MODEL.PROPOSAL_GENERATOR.NAME = "GuidedAnchorRPN"
    cfg.MODEL.DEVICE, cfg.MODEL.WEIGHTS = "cpu", ""
    cfg.MODEL.PIXEL_STD = [2000.0] * 3  # keeps the output of a deep net without norm small
    cfg.MODEL.RESNETS.STEM_OUT_CHANNELS = cfg.MODEL.RESNETS.RES2_OUT_CHANNELS = 8
    cfg.MODEL.RESNETS.WIDTH_PER_GROUP = 8
    cfg.MODEL.FPN.OUT_CHANNELS = 16
    cfg.MODEL.ROI_BOX_HEAD.FC_DIM = 32
    cfg.MODEL.ROI_MASK_HEAD.CONV_DIM = 16
    cfg.MODEL.ROI_KEYPOINT_HEAD.CONV_DIMS = [16]
    cfg.MODEL.ROI_HEADS.NUM_CLASSES = 1
    return cfg


def image_with(num_objects, height=96, width=128):
    corner = torch.rand(num_objects, 2) * 50
    instances = Instances((height, width), gt_boxes=Boxes(torch.cat([corner, corner + 40], dim=1)))
    instances.gt_classes = torch.zeros(num_objects, dtype=torch.int64)
    instances.gt_masks = BitMasks(torch.ones(num_objects, height, width, dtype=torch.bool))
    keypoints = torch.cat(
        [corner[:, None].expand(-1, 17, 2) + 20, torch.full((num_objects, 17, 1), 2.0)], 2
    )
    instances.gt_keypoints = Keypoints(keypoints)
    return {"image": torch.randint(0, 255, (3, height, width)).float(), "instances": instances}


@pytest.mark.parametrize("name", ZOO)
def test_trains_and_predicts_in_every_model_with_a_proposal_generator(name):
    model = build_model(zoo_cfg(name)).train()
    with EventStorage():
        losses = model([image_with(2), image_with(0 if name != "Keypoint R-CNN" else 1)])
        sum(losses.values()).backward()
    assert set(LOSSES) <= set(losses)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)

    with torch.no_grad():
        output = model.eval()([image_with(0)])[0]
    if name == "RPN":
        assert 0 < len(output["proposals"]) <= 1000
    else:
        assert output["instances"].has("pred_masks") == (name in ("Mask R-CNN", "Cascade R-CNN"))
        assert output["instances"].has("pred_keypoints") == (name == "Keypoint R-CNN")


def test_a_batch_without_objects_makes_a_step():
    model = build_model(zoo_cfg("RPN")).train()
    with EventStorage() as storage:
        losses = model([image_with(0), image_with(0)])
        sum(losses.values()).backward()
    assert losses["loss_rpn_loc"] == losses["loss_anchor_shape"] == 0
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)
    assert "guided_anchor/best_iou" not in storage.latest()


def test_images_of_different_sizes_have_the_proposals_they_have_alone():
    model = build_model(zoo_cfg("RPN")).eval()
    images = [image_with(0, 96, 128), image_with(0, 128, 64)]
    with torch.no_grad():
        together = [x["proposals"] for x in model(images)]
        alone = []
        for image in images:  # padded as in the batch, for the features to be the same
            padded = torch.zeros(3, 128, 128) + model.pixel_mean
            padded[:, : image["image"].shape[1], : image["image"].shape[2]] = image["image"]
            features = model.backbone((padded - model.pixel_mean)[None] / model.pixel_std)
            sizes = ImageList(padded[None], [image["instances"].image_size])
            alone += model.proposal_generator(sizes, features)[0]
    for a, b in zip(together, alone, strict=True):
        torch.testing.assert_close(a.proposal_boxes.tensor, b.proposal_boxes.tensor)
        torch.testing.assert_close(a.objectness_logits, b.objectness_logits)


def test_step_under_bfloat16_autocast():
    model = build_model(zoo_cfg("RPN")).train()
    batch = [image_with(3), image_with(0)]

    def loss():
        torch.manual_seed(0)
        with EventStorage():
            return sum(model(batch).values())

    exact = loss()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rounded = loss()
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert all(p.grad.isfinite().all() for p in model.parameters() if p.requires_grad)


def test_detectron2s_own_default_config_is_not_touched():
    assert "GUIDED_ANCHOR" not in get_detectron2_cfg().MODEL


def test_wrong_settings_are_explained():
    cfg = zoo_cfg("RPN")
    cfg.MODEL.RPN.IOU_LABELS = [0, 1, 1]
    with pytest.raises(ValueError, match=r"two with \[0, -1, 1\]"):
        build_model(cfg)
