import json
from pathlib import Path

import pytest
import torch
from detectron2.modeling import build_model

from anchor_heads import model_zoo
from anchor_heads.checkpoint import convert
from anchor_heads.checkpoint.mmdetection import DA_RETINANET
from anchor_heads.engine.optimizer import build_optimizer

GROUPS = Path(__file__).parent / "data/optimizer_groups_r50.json"


def test_every_parameter_has_the_published_rate_and_decay():
    published = json.loads(GROUPS.read_text())
    weights = {key: torch.tensor(pair) for key, pair in published.items()}
    expected = convert(weights, DA_RETINANET).weights
    cfg = model_zoo.get_config("dynamic_anchor/da_retinanet_R_50_FPN_1x")
    cfg.MODEL.DEVICE = "cpu"
    model = build_model(cfg)
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    assert set(trained) == set(expected) and len(expected) == len(published) == 97
    settings = {
        p: (group["lr"], group["weight_decay"])
        for group in build_optimizer(cfg, model).param_groups
        for p in group["params"]
    }
    for name, parameter in trained.items():
        rate, decay = expected[name].tolist()
        # Published for 8 images, here for 16.
        assert settings[parameter] == pytest.approx((2 * rate, decay), rel=1e-6), name
