"""A Python config, in Detectron2's layout."""

import os
import signal
from pathlib import Path

import pytest
import torch
from detectron2 import model_zoo
from tiny_run import arguments, write_config, write_data_set

from anchor_heads.engine import launch, train_or_evaluate
from anchor_heads.engine.lazy import load_lazy_config
from anchor_heads.engine.train_step import TrainStep
from anchor_heads.errors import is_user_error

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
train = dict(output_dir="{output}", init_checkpoint=None, max_iter=3, amp=dict(enabled=False),
             checkpointer=dict(period=100, max_to_keep=100), eval_period=0, log_period=1,
             device="cpu", seed=4)
"""


def test_train_and_evaluate(tmp_path):
    write_data_set(tmp_path)
    path, output = tmp_path / "lazy.py", tmp_path / "output"
    text = CONFIG.replace("{config}", write_config(tmp_path)).replace("{output}", str(output))
    path.write_text(text)
    launch(train_or_evaluate, arguments(str(path), "train.max_iter=2", "train.seed=null"))
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
    with pytest.raises(ValueError, match="after 3 iterations, .* 2: write a larger train.max_iter"):
        launch(train_or_evaluate, arguments(str(path), "train.max_iter=2", flags=("--resume",)))
    evaluate = arguments(
        str(path), f"train.init_checkpoint={output}/model_final.pth", flags=("--eval-only",)
    )
    config = (output / "config.yaml").read_bytes()
    launch(train_or_evaluate, evaluate)
    assert (output / "config.yaml").read_bytes() == config
    assert (output / "last_checkpoint").read_text() == "model_final.pth"
    overwrite = arguments(str(path), "train.init_checkpoint=none.pth", flags=("--force",))
    with pytest.raises(FileNotFoundError, match="none.pth"):
        launch(train_or_evaluate, overwrite)
    assert not (output / "last_checkpoint").exists()


def test_a_signal_leaves_a_checkpoint(tmp_path, monkeypatch):
    write_data_set(tmp_path)
    path, output = tmp_path / "lazy.py", tmp_path / "output"
    text = CONFIG.replace("{config}", write_config(tmp_path)).replace("{output}", str(output))
    path.write_text(text)
    steps = []

    def run_step(step):
        steps.append((step.iter, step.data_loader.batch_sampler.start))
        if step.iter == 1:
            os.kill(os.getpid(), signal.SIGTERM)
        original(step)

    original = TrainStep.run_step
    monkeypatch.setattr(TrainStep, "run_step", run_step)
    with pytest.raises(SystemExit) as end:
        launch(train_or_evaluate, arguments(str(path)))
    assert end.value.code == 128 + signal.SIGTERM
    assert (output / "last_checkpoint").read_text() == "model_0000001.pth"
    launch(train_or_evaluate, arguments(str(path), flags=("--resume",)))
    assert steps == [(0, 0), (1, 0), (2, 2)]


# What is added to the file, the overrides, and what is said.
WRONG = [
    ("model = (", [], r"config.py is not valid Python: .*line \d"),
    ("model = foo", [], r"cannot be loaded: NameError: name 'foo' is not defined in line \d+"),
    ("import nothing_such", [], "cannot be loaded: ModuleNotFoundError: No module named"),
    ("from .nothing import x", [], "cannot be loaded: ImportError: Cannot import name nothing"),
    ("raise OSError('mine')", [], "cannot be loaded: OSError: mine in line"),
    ("del train", [], "does not define train.$"),
    ("del model, optimizer", [], "does not define model, optimizer.$"),
    ("del train['device'], train['amp']", [], "define train.device, train.amp.enabled.$"),
    ("del dataloader['train']", [], "does not define dataloader.train.$"),
    ("", ["model=null"], "does not define model.$"),
    ("", ["train.max_itr=2"], "There is no config key train.max_itr. Similar keys: train.max_iter"),
    ("", ["trian.max_iter=2"], "There is no config key trian.max_iter. Similar keys: train.max_it"),
    ("", ["train.max_iter"], "Overrides of a Python config are key=value, not train.max_iter"),
    ("", ["=2"], "Overrides of a Python config are key=value, not =2"),
    ("", ["train.max_iter=abc"], "train.max_iter is 'abc'; it must be of the type int"),
    ("", ["train.max_iter=-3"], "train.max_iter is -3; it must be at least 1"),
    ("", ["train.log_period=0"], "train.log_period is 0; it must be at least 1"),
    ("", ["train.checkpointer.period=0"], "checkpointer.period is 0; it must be at least 1"),
    ("", ["train.amp.enabled=maybe"], "train.amp.enabled is 'maybe'; it must be of the type bool"),
    ("", ["train.seed=abc"], "train.seed is 'abc'; it must be of the type int"),
    ("", ["train.device=gpu"], "train.device is 'gpu', and PyTorch cannot use it"),
]


@pytest.mark.parametrize("added, overrides, message", WRONG)
def test_configs_that_are_refused(tmp_path, added, overrides, message):
    path = tmp_path / "config.py"
    path.write_text(f"{CONFIG}\n{added}\n")
    with pytest.raises(ValueError, match=message) as error:
        load_lazy_config(arguments(str(path), *overrides))
    assert is_user_error(error.value) and "\n" not in str(error.value)


def test_arguments_of_calls_may_be_new(tmp_path):
    path = tmp_path / "config.py"
    path.write_text(CONFIG)
    overrides = ["optimizer.momentum=0.5", "train.seed=3"]
    cfg = load_lazy_config(arguments(str(path), *overrides))
    assert (cfg.optimizer.momentum, cfg.train.seed) == (0.5, 3)


@pytest.mark.parametrize("values", [None, "missing"])
def test_optional_keys_may_be_none_or_missing(tmp_path, values):
    names = ["init_checkpoint", "seed", "cudnn_benchmark", "float32_precision"]
    added = [f"train.pop('{x}', None)" if values else f"train['{x}'] = None" for x in names]
    (tmp_path / "config.py").write_text("\n".join([CONFIG, *added]))
    train = load_lazy_config(arguments(str(tmp_path / "config.py"))).train
    assert [train[name] for name in names] == ["", -1, False, ""]


def test_configs_of_detectron2_are_taken():
    configs = [*(Path(model_zoo.__file__).parent / "configs").glob("[!c]*/*.py")]  # not common/
    assert len(configs) > 20
    for path in configs:
        load_lazy_config(arguments(str(path), "train.device=cpu"))
