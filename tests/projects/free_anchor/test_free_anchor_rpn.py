import math

import pytest
import torch
from detectron2.modeling import build_model
from detectron2.structures import Boxes, Instances
from detectron2.utils.events import EventStorage
from small_models import image_with, zoo_cfg
from tiny_run import finite_gradients

from anchor_heads.projects.free_anchor.strategy import BBOX_REG_WEIGHTS


def tiny_cfg(name="RPN"):
    cfg = zoo_cfg(name, "FreeAnchorRPN")
    cfg.MODEL.RPN.BBOX_REG_WEIGHTS = BBOX_REG_WEIGHTS
    return cfg


@pytest.mark.parametrize("name", ["RPN", "Faster R-CNN", "Mask R-CNN", "Cascade R-CNN"])
@pytest.mark.parametrize("objects", [(2, 3), (0, 2), (0, 0)])
def test_trains_and_predicts_in_every_model_with_a_proposal_generator(name, objects):
    model = build_model(tiny_cfg(name)).train()
    batch = [image_with(n) for n in objects]
    with EventStorage():
        losses = model(batch)
        sum(losses.values()).backward()
    assert {"loss_rpn_positive", "loss_rpn_negative"} <= set(losses)
    assert finite_gradients(model)

    with torch.no_grad():
        output = model.eval()(batch)[0]
    if name == "RPN":
        assert 0 < len(output["proposals"]) <= 1000
        assert output["proposals"].objectness_logits.diff().max() <= 0
    else:
        assert output["instances"].has("pred_masks") == (name in ("Mask R-CNN", "Cascade R-CNN"))


def test_objectness_starts_at_the_prior():
    cfg = tiny_cfg()
    for prior in (cfg.MODEL.FREE_ANCHOR.RPN_PRIOR_PROB, 0.1):
        cfg.MODEL.FREE_ANCHOR.RPN_PRIOR_PROB = prior
        bias = build_model(cfg).proposal_generator.rpn_head.objectness_logits.bias
        torch.testing.assert_close(bias.sigmoid(), torch.full_like(bias, prior))


def test_losses_are_the_one_class_likelihood():
    """One object, one anchor that fits it exactly, all logits 0, by hand."""
    generator = build_model(tiny_cfg()).proposal_generator
    anchors = [Boxes(torch.tensor([[0.0, 0, 8, 8], [40, 40, 48, 48]]))]
    objects = Instances((64, 64), gt_boxes=Boxes(torch.tensor([[0.0, 0, 8, 8]])))
    labels, boxes = generator.label_and_sample_anchors(anchors, [objects])
    with EventStorage():
        losses = generator.losses(
            anchors, [torch.zeros(1, 2)], labels, [torch.zeros(1, 2, 4)], boxes
        )
    # Probabilities 1/2 and 0 in the bag: odds (1 + 0) / 2. One of two anchors is background.
    assert losses["loss_rpn_positive"].item() == pytest.approx(0.5 * math.log(3), rel=1e-4)
    expected = 0.5 * 0.25 * math.log(2) / 50
    assert losses["loss_rpn_negative"].item() == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_step_under_autocast(dtype):
    model = build_model(tiny_cfg()).train()
    batch = [image_with(3), image_with(0)]
    with EventStorage():
        exact = sum(model(batch).values())
        with torch.autocast("cpu", dtype=dtype):
            rounded = sum(model(batch).values())
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)


def test_settings_that_would_have_no_effect_are_refused():
    cfg = tiny_cfg()
    cfg.MODEL.FREE_ANCHOR.LEGACY_BOXES = True
    with pytest.raises(ValueError, match="LEGACY_BOXES is for FreeAnchorRetinaNet"):
        build_model(cfg)
    cfg = tiny_cfg()
    cfg.MODEL.RPN.BBOX_REG_LOSS_TYPE = "giou"
    with pytest.raises(ValueError, match="'giou'.* Write smooth_l1"):
        build_model(cfg)


def test_loss_weight_is_that_of_the_rpn():
    cfg = tiny_cfg()
    cfg.MODEL.RPN.LOSS_WEIGHT = 0.25
    weights = build_model(cfg).proposal_generator.loss_weight
    assert weights == {"loss_rpn_positive": 0.25, "loss_rpn_negative": 0.25}
