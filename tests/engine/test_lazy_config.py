"""A Python config, in Detectron2's layout."""

import pytest
import torch
from tiny_run import arguments, write_config, write_data_set

from anchor_heads.engine import launch, train_or_evaluate
from anchor_heads.engine.lazy import load_lazy_config

CONFIG = """
from detectron2.config import LazyCall as L
from detectron2.evaluation import COCOEvaluator
from detectron2.modeling import build_model
from fvcore.common.param_scheduler import MultiStepParamScheduler
from anchor_heads import get_cfg
from anchor_heads.data.coco_format import register_coco_format
from anchor_heads.data.loader import build_train_loader
from detectron2.data import build_detection_test_loader
from detectron2.solver import get_default_optimizer_params
import torch

def config():
    cfg = get_cfg()
    cfg.merge_from_file("{config}")
    register_coco_format(cfg)
    return cfg

def test_loader():
    return build_detection_test_loader(config(), config().DATASETS.TEST[0])

def evaluator():
    return COCOEvaluator(config().DATASETS.TEST[0], output_dir="{output}")

model = L(build_model)(cfg=L(config)())
dataloader = dict(train=L(build_train_loader)(cfg=L(config)()), test=L(test_loader)(),
                  evaluator=L(evaluator)())
optimizer = L(torch.optim.SGD)(params=L(get_default_optimizer_params)(), lr=0.01)
lr_multiplier = L(MultiStepParamScheduler)(values=[1.0, 0.1], milestones=[2], num_updates=3)
train = dict(output_dir="{output}", init_checkpoint="", max_iter=3, amp=dict(enabled=False),
             checkpointer=dict(period=100, max_to_keep=100), eval_period=0, log_period=1,
             device="cpu", seed=4)
"""


def test_train_and_evaluate(tmp_path):
    write_data_set(tmp_path)
    path, output = tmp_path / "lazy.py", tmp_path / "output"
    text = CONFIG.replace("{config}", write_config(tmp_path)).replace("{output}", str(output))
    path.write_text(text)
    launch(train_or_evaluate, arguments(str(path), "train.max_iter=2"))
    assert torch.load(output / "model_final.pth")["iteration"] == 1
    resume = arguments(str(path), "train.max_iter=3", flags=("--resume",))
    whole = (output / "model_final.pth").read_bytes()
    checkpoint = torch.load(output / "model_final.pth")
    checkpoint["trainer"]["seed"] = "abc"
    torch.save(checkpoint, output / "model_final.pth")
    with pytest.raises(ValueError, match="model_final.pth has no state of a training, or not all"):
        launch(train_or_evaluate, resume)
    (output / "model_final.pth").write_bytes(whole)
    launch(train_or_evaluate, resume)
    assert torch.load(output / "model_final.pth")["iteration"] == 2
    evaluate = arguments(
        str(path), f"train.init_checkpoint={output}/model_final.pth", flags=("--eval-only",)
    )
    launch(train_or_evaluate, evaluate)


def test_a_file_that_is_not_python_is_refused_with_its_line(tmp_path):
    path = tmp_path / "config.py"
    path.write_text("model = (\n")
    with pytest.raises(ValueError, match=r"config\.py is not valid Python: .*line 1"):
        load_lazy_config(arguments(str(path)))
