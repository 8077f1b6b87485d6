"""Runs of Detectron2's Python configs (LazyConfig): ``--config-file x.py``.

They have the parts of Detectron2's own, ``model``, ``dataloader``, ``optimizer``,
``lr_multiplier`` and ``train``, and overrides are ``key=value``. Of the rest of this package, they
get its step, its checkpointer, its launcher, and a checkpoint however a run ends.
"""

import difflib
import os
import traceback
from argparse import Namespace

import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.engine import default_setup, default_writers, hooks
from detectron2.evaluation import inference_on_dataset, print_csv_format
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf
from torch import nn

from anchor_heads.engine.checkpoint import AtomicCheckpointer, checkpoint_to_resume, read_entries
from anchor_heads.engine.config_values import check_device
from anchor_heads.engine.hooks import AverageBatchNorms
from anchor_heads.engine.rescue import Rescue
from anchor_heads.engine.resume import check_resumed_state, resume_loader, whole_state
from anchor_heads.engine.run_folder import other_run_kept
from anchor_heads.engine.train_step import TrainStep
from anchor_heads.errors import first_line, said_by_library
from anchor_heads.modeling.distributed import for_all_processes, unwrap

PARTS = ("model", "dataloader", "optimizer", "lr_multiplier", "train")
# Key of ``train`` -> its type.
TRAIN = {
    "output_dir": str,
    "device": str,
    "max_iter": int,
    "log_period": int,
    "eval_period": int,
    "amp.enabled": bool,
    "checkpointer.period": int,
}
# Those that may be missing or None -> what they are then.
OPTIONAL = {
    "init_checkpoint": "",
    "seed": -1,
    "cudnn_benchmark": False,
    "float32_precision": "",
}


def is_lazy(config_file: str) -> bool:
    """Whether a config is a Python file."""
    return config_file.endswith(".py")


def load_lazy_config(args: Namespace) -> DictConfig:
    """The config with its overrides.

    Raises:
        FileNotFoundError: if there is no such file.
        ValueError: if the file cannot be loaded, a part is missing, a value of ``train`` is
            impossible, or an override is not ``key=value`` or its key is not known.
    """
    file = os.path.abspath(args.config_file)
    if not os.path.isfile(file):
        raise FileNotFoundError(f"There is no config file {file}.")
    try:
        cfg = LazyConfig.load(args.config_file)
    except SyntaxError as error:
        raise ValueError(
            f"{args.config_file} is not valid Python: {error.__cause__ or error}."
        ) from None
    except Exception as error:  # it runs, and may raise anything
        lines = [x.lineno for x in traceback.extract_tb(error.__traceback__) if x.filename == file]
        place = f" in line {lines[-1]}" if lines else ""
        reason = f"{type(error).__name__}: {first_line(error).rstrip('.')}"
        raise ValueError(f"{args.config_file} cannot be loaded: {reason}{place}.") from error
    _check_parts(cfg, args.config_file)
    cfg = _with_overrides(cfg, args.opts)
    _check_parts(cfg, args.config_file)
    for key, default in OPTIONAL.items():
        if cfg.train.get(key) is None:
            cfg.train[key] = default
    _check_train(cfg.train)
    return cfg


def _check_parts(cfg: DictConfig, file: str) -> None:
    for keys in PARTS, ("dataloader.train", *(f"train.{key}" for key in TRAIN)):
        if missing := [key for key in keys if OmegaConf.select(cfg, key) is None]:
            raise ValueError(f"{file} does not define {', '.join(missing)}.")


def _with_overrides(cfg: DictConfig, overrides: list[str]) -> DictConfig:
    """Arguments of calls may be new, such as optimizer.momentum; what a run reads may not."""
    for override in overrides:
        key, is_pair, _ = override.partition("=")
        if not (key and is_pair):
            raise ValueError(f"Overrides of a Python config are key=value, not {override}.")
        group, _, name = key.partition(".")
        known = [*TRAIN, *OPTIONAL, *cfg.train] if group == "train" else [name]
        if group not in cfg or (name not in known and OmegaConf.select(cfg, key) is None):
            candidates = {*cfg, *(f"train.{name}" for name in known)}
            similar = difflib.get_close_matches(key, candidates, n=3, cutoff=0.6)
            hint = f" Similar keys: {', '.join(similar)}." if similar else ""
            raise ValueError(f"There is no config key {key}.{hint}")
    try:
        return LazyConfig.apply_overrides(cfg, overrides)
    except Exception as error:  # of the parser of values
        raise ValueError(f"{' '.join(overrides)}: {first_line(error).rstrip('.')}.") from error


def _check_train(train: DictConfig) -> None:
    for key, kind in (TRAIN | {key: type(x) for key, x in OPTIONAL.items()}).items():
        value = OmegaConf.select(train, key)
        if type(value) is not kind:
            raise ValueError(f"train.{key} is {value!r}; it must be of the type {kind.__name__}.")
    for key in ("max_iter", "log_period", "checkpointer.period"):
        if OmegaConf.select(train, key) < 1:
            raise ValueError(
                f"train.{key} is {OmegaConf.select(train, key)}; it must be at least 1."
            )
    check_device("train.device", train.device)
    if train.device.startswith("cuda") and not torch.cuda.is_available():
        raise ValueError(
            f"train.device is {train.device}, but PyTorch finds no GPU. Write train.device=cpu to "
            "run without one."
        )


def _made(cfg: DictConfig, name: str):
    """What a part of the config says, made."""
    try:
        return instantiate(cfg[name])
    except Exception as error:
        if reason := said_by_library(error):
            raise ValueError(f"The {name} of the config cannot be made: {reason}") from error
        raise


def train_or_evaluate_lazy(args: Namespace) -> dict | None:
    """Train, or with ``--eval-only`` evaluate, the model of a Python config in this process."""
    cfg = load_lazy_config(args)
    with other_run_kept(cfg.train.output_dir, args):
        default_setup(cfg, args)
    model = _made(cfg, "model").to(cfg.train.device)
    if args.eval_only:
        checkpointer = AtomicCheckpointer(model, cfg.train.output_dir)
        random_weights = vars(args).get("random_weights", False)
        checkpointer.load_to_evaluate(cfg.train.init_checkpoint, random_weights)
        return _evaluate(cfg, model)
    _train(cfg, model, args.resume)
    return None


def _train(cfg: DictConfig, model: nn.Module, resume: bool) -> None:
    cfg.optimizer.params.model = model
    optimizer = _made(cfg, "optimizer")
    model = for_all_processes(model)
    step = TrainStep(
        model,
        optimizer,
        seed=max(cfg.train.seed, 0),
        mixed_precision=cfg.train.amp.enabled,
    )
    step.data_loader = instantiate(cfg.dataloader.train)
    checkpointer = AtomicCheckpointer(model, cfg.train.output_dir, trainer=step)
    periods = [cfg.train.checkpointer.period, cfg.train.eval_period]
    batch_norms = AverageBatchNorms([unwrap(model)], periods)
    rescue = Rescue(step, step, checkpointer, batch_norms)
    is_main = comm.is_main_process()
    saver = hooks.PeriodicCheckpointer(checkpointer, **cfg.train.checkpointer)
    writers = default_writers(cfg.train.output_dir, cfg.train.max_iter) if is_main else []
    step.register_hooks(
        [
            hooks.IterationTimer(),
            hooks.LRScheduler(scheduler=_made(cfg, "lr_multiplier")),
            rescue.end_of_step,
            batch_norms,
            saver if is_main else None,
            hooks.EvalHook(cfg.train.eval_period, lambda: _evaluate(cfg, model)),
            hooks.PeriodicWriter(writers, period=cfg.train.log_period) if is_main else None,
        ]
    )
    path = checkpoint_to_resume(cfg.train.output_dir) if resume else ""
    if path:
        with whole_state(path):
            state = read_entries(path)["trainer"]
            done = state["iteration"] + 1
        if not 0 < done <= cfg.train.max_iter:
            raise ValueError(
                f"--resume: {path} is from after {done} iterations, and the run has "
                f"{cfg.train.max_iter}: write a larger train.max_iter."
            )
        with whole_state(path):
            check_resumed_state(path, state, optimizer)
            checkpointer.load(path, complete=True)
    else:
        checkpointer.load(cfg.train.init_checkpoint, checkpointables=[])
    start_iter = step.iter + 1 if path else 0
    resume_loader(step.data_loader, start_iter)
    with rescue.after_any_end():
        step.train(start_iter, cfg.train.max_iter)


def _evaluate(cfg: DictConfig, model: nn.Module) -> dict | None:
    if "evaluator" not in cfg.dataloader:
        return None
    results = inference_on_dataset(
        model, instantiate(cfg.dataloader.test), instantiate(cfg.dataloader.evaluator)
    )
    print_csv_format(results)
    return results
