"""Runs of Detectron2's Python configs (LazyConfig): ``--config-file x.py``.

They have the parts of Detectron2's own, ``model``, ``dataloader``, ``optimizer``,
``lr_multiplier`` and ``train``, and overrides are ``key=value``. Of the rest of this package, they
get its step, its checkpointer and its launcher.
"""

import os
from argparse import Namespace

from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import nn

from anchor_heads.engine.checkpoint import AtomicCheckpointer, read_entries
from anchor_heads.engine.resume import check_resumed_state, whole_state
from anchor_heads.engine.setup import check_is_unused
from anchor_heads.engine.train_step import TrainStep
from anchor_heads.modeling.distributed import for_all_processes

PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")


def is_lazy(config_file: str) -> bool:
    """Whether a config is a Python file."""
    return config_file.endswith(".py")


def load_lazy_config(args: Namespace) -> DictConfig:
    """The config with its overrides.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file is not valid Python, a part is missing, or an override is not
            ``key=value``.
    """
    if not os.path.isfile(args.config_file):
        raise FileNotFoundError(f"There is no config file {os.path.abspath(args.config_file)}.")
    try:
        cfg = LazyConfig.load(args.config_file)
    except SyntaxError as error:
        raise ValueError(
            f"{args.config_file} is not valid Python: {error.__cause__ or error}."
        ) from None
    if wrong := [x for x in args.opts if "=" not in x]:
        raise ValueError(f"Overrides of a Python config are key=value, not {wrong[0]}.")
    cfg = LazyConfig.apply_overrides(cfg, args.opts)
    if missing := [part for part in PARTS if part not in cfg]:
        raise ValueError(f"{args.config_file} does not define {', '.join(missing)}.")
    return cfg


def train_or_evaluate_lazy(args: Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate, the model of a Python config in this process."""
    cfg = load_lazy_config(args)
    if not (args.eval_only or args.resume or vars(args).get("force")):
        check_is_unused(cfg.train.output_dir)
    default_setup(cfg, args)
    model = instantiate(cfg.model).to(cfg.train.device)
    if args.eval_only:
        checkpointer = AtomicCheckpointer(model, cfg.train.output_dir)
        random_weights = vars(args).get("random_weights", False)
        checkpointer.load_to_evaluate(cfg.train.init_checkpoint, random_weights)
        return _evaluate(cfg, model)
    _train(cfg, model, args.resume)
    return None


def _train(cfg: DictConfig, model: nn.Module, resume: bool) -> None:
    cfg.optimizer.params.model = model
    optimizer = instantiate(cfg.optimizer)
    model = for_all_processes(model)
    step = TrainStep(
        model,
        optimizer,
        seed=max(cfg.train.get("seed", -1), 0),
        mixed_precision=cfg.train.amp.enabled,
    )
    step.data_loader = instantiate(cfg.dataloader.train)
    checkpointer = AtomicCheckpointer(model, cfg.train.output_dir, trainer=step)
    is_main = comm.is_main_process()
    saver = hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter) if is_main else []
    step.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=instantiate(cfg.lr_multiplier)),
            saver if is_main else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate(cfg, model)),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period) if is_main else None,
        ]
    )
    path = checkpointer.checkpoint_to_resume() if resume else ""
    if path:
        with whole_state(path):
            check_resumed_state(path, read_entries(path)["trainer"], optimizer)
            checkpointer.load(path, complete=True)
    else:
        checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
    step.train(step.iter + 1 if path else 0, cfg.train.max_iter)


def _evaluate(cfg: DictConfig, model: nn.Module) -> dict | None:
    if "evaluator" not in cfg.dataloader:
        return None
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    print_csv_format(results)
    return results
