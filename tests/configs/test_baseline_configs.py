"""The configs of Detectron2's own models."""

from pathlib import Path

import detectron2
import pytest
from shipped_configs import ONE_SIZE, changed, load

from anchor_heads import get_cfg

DETECTRON2_CONFIGS = Path(detectron2.__file__).parent / "model_zoo/configs/COCO-Detection"


@pytest.mark.parametrize("name", ["retinanet", "rpn", "faster_rcnn"])
def test_baseline_differs_from_detectron2s_config_in_two_keys(name):
    ours = load(f"baselines/{name}_R_50_FPN_1x.yaml")
    cfg = get_cfg()
    cfg.merge_from_file(str(DETECTRON2_CONFIGS / f"{name}_R_50_FPN_1x.yaml"))
    assert changed(ours, cfg) == {"INPUT.MIN_SIZE_TRAIN", "SOLVER.REFERENCE_WORLD_SIZE"}
    assert ours.INPUT.MIN_SIZE_TRAIN == ONE_SIZE
