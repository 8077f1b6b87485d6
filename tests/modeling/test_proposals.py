"""Proposal generators with predicted anchors, in Detectron2's models."""

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils.events import EventStorage
from small_models import ZOO, image_with, zoo_cfg
from tiny_run import finite_gradients

RPN_LOSSES = {"loss_rpn_cls", "loss_rpn_loc"}
LOSSES = {
    "GuidedAnchorRPN": RPN_LOSSES | {"loss_anchor_location", "loss_anchor_shape"},
    "DynamicAnchorRPN": RPN_LOSSES | {"loss_anchor_shape"},
}

pytestmark = pytest.mark.parametrize("generator", LOSSES)


@pytest.mark.parametrize("name", ZOO)
def test_trains_and_predicts_in_every_model_with_a_proposal_generator(generator, name):
    model = build_model(zoo_cfg(name, generator)).train()
    with EventStorage():
        losses = model([image_with(2), image_with(0 if name != "Keypoint R-CNN" else 1)])
        sum(losses.values()).backward()
    assert set(losses) >= LOSSES[generator]
    assert losses["loss_anchor_shape"] > 0
    assert finite_gradients(model)

    with torch.no_grad():
        output = model.eval()([image_with(0)])[0]
    if name == "RPN":
        assert 0 < len(output["proposals"]) <= 1000
    else:
        assert output["instances"].has("pred_masks") == (name in ("Mask R-CNN", "Cascade R-CNN"))
        assert output["instances"].has("pred_keypoints") == (name == "Keypoint R-CNN")


def test_a_batch_without_objects_makes_a_step(generator):
    model = build_model(zoo_cfg("RPN", generator)).train()
    with EventStorage() as storage:
        losses = model([image_with(0), image_with(0)])
        sum(losses.values()).backward()
    assert set(losses) == LOSSES[generator]
    assert losses["loss_rpn_loc"] == losses["loss_anchor_shape"] == 0 < losses["loss_rpn_cls"]
    assert finite_gradients(model)
    assert "predicted_anchor/best_iou" not in storage.latest()


def test_images_smaller_than_the_padding(generator):
    model = build_model(zoo_cfg("RPN", generator))
    batch = [image_with(1, 60, 95), image_with(0, 7, 20)]
    with EventStorage():
        sum(model.train()(batch).values()).backward()
    with torch.no_grad():
        outputs = model.eval()(batch)
    for output, (height, width) in zip(outputs, [(60, 95), (7, 20)], strict=True):
        corners = output["proposals"].proposal_boxes.tensor.amax(dim=0)
        assert 0 < corners[2] <= width and 0 < corners[3] <= height


def test_images_of_different_sizes_have_the_proposals_they_have_alone(generator):
    model = build_model(zoo_cfg("RPN", generator)).eval()
    sizes = [(96, 128), (128, 64)]
    batch = torch.randn(2, 3, 128, 128)
    with torch.no_grad():
        features = model.backbone(batch)
        together, _ = model.proposal_generator(ImageList(batch, sizes), features)
        for i, size in enumerate(sizes):
            one = {name: x[i : i + 1] for name, x in features.items()}
            (alone,), _ = model.proposal_generator(ImageList(batch[i : i + 1], [size]), one)
            boxes, expected = together[i].proposal_boxes.tensor, alone.proposal_boxes.tensor
            torch.testing.assert_close(boxes, expected, rtol=1e-5, atol=1e-4)
            torch.testing.assert_close(together[i].objectness_logits, alone.objectness_logits)
            corners = boxes.amax(dim=0)
            assert corners[2] <= size[1] and corners[3] <= size[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_step_under_autocast(generator, dtype):
    model = build_model(zoo_cfg("RPN", generator)).train()
    batch = [image_with(3), image_with(0)]

    def loss():
        torch.manual_seed(0)
        with EventStorage():
            return sum(model(batch).values())

    exact = loss()
    with torch.autocast("cpu", dtype=dtype):
        rounded = loss()
    rounded.backward()
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert finite_gradients(model)


def test_an_object_takes_its_best_anchor_only_from_an_iou_of_0_3_on(generator):
    cfg = zoo_cfg("RPN", generator)
    rpn = build_model(cfg).proposal_generator
    anchors = torch.tensor([[[0.0, 0.0, 10.0, 10.0], [50.0, 50.0, 60.0, 60.0]]])
    for height, expected in ((34.0, [[0, 0]]), (32.0, [[1, 0]])):  # IoU 0.29 and 0.31
        gt = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0.0, 10.0, height]])))
        with EventStorage():
            labels, _ = rpn.label_and_sample_predicted_anchors(
                anchors, [gt], torch.ones(1, 2).bool()
            )
        assert labels.tolist() == expected


def test_weights_of_the_losses(generator):
    def losses(**weights):
        cfg = zoo_cfg("RPN", generator)
        for key, weight in weights.items():
            cfg.merge_from_list([f"MODEL.{key.replace('__', '.')}", weight])
        torch.manual_seed(0)
        model = build_model(cfg).train()
        with EventStorage():
            return model([image_with(2)])

    method = "GUIDED_ANCHOR" if generator == "GuidedAnchorRPN" else "DYNAMIC_ANCHOR"
    shape = {f"{method}__SHAPE_LOSS_WEIGHT": 3.0}
    before, after = losses(), losses(RPN__LOSS_WEIGHT=2.0, **shape)
    factors = {name: (after[name] / before[name]).item() for name in before if before[name] > 0}
    expected = {"loss_anchor_shape": 3.0, "loss_rpn_cls": 2.0, "loss_rpn_loc": 2.0}
    assert factors == pytest.approx({name: expected.get(name, 1.0) for name in factors})
    assert {"loss_anchor_shape", "loss_rpn_cls"} <= set(factors)


@pytest.mark.parametrize(
    "key,value,message",
    [
        ("IOU_LABELS", [0, 1, 1], r"two that ascend with \[0, -1, 1\]"),
        ("BOUNDARY_THRESH", 0, "anchor_boundary_thresh is 0"),
    ],
)
def test_wrong_settings_are_explained(generator, key, value, message):
    cfg = zoo_cfg("RPN", generator)
    cfg.MODEL.RPN[key] = value
    with pytest.raises(ValueError, match=message):
        build_model(cfg)
