"""What a resumed run takes from its checkpoint, and what from its config."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import yaml
from detectron2.config import CfgNode
from detectron2.solver import LRMultiplier
from torch import nn
from torch.utils.data import DataLoader

from anchor_heads.config_files import leaves
from anchor_heads.data.checks import check_class_order
from anchor_heads.data.loader import ResumableBatches
from anchor_heads.engine.checkpoint import read_entries
from anchor_heads.errors import first_line

logger = logging.getLogger(__name__)

# State of SGD and Adam with the shape of its parameter; other optimizers have other shapes, too.
LIKE_PARAMETER = ("momentum_buffer", "exp_avg", "exp_avg_sq", "max_exp_avg_sq")
# Have no effect on the training.
UNIMPORTANT = (
    "OUTPUT_DIR",
    "VIS_PERIOD",
    "MODEL.WEIGHTS",
    "MODEL.DEVICE",
    "DATALOADER.NUM_WORKERS",
)


def check_resumed_config(
    path: str, cfg: CfgNode, model: nn.Module, optimizer: torch.optim.Optimizer
) -> None:
    """Compare a checkpoint with the config and the parts of the run that is to go on from it.

    Settings that differ and take effect are logged.

    Args:
        path (str): the checkpoint.
        cfg (CfgNode): of the resumed run.
        model (nn.Module): made from it, not wrapped.
        optimizer (Optimizer): of the model.

    Raises:
        ValueError: if the checkpoint is of another model or optimizer, of the same classes in
            another order, or of another batch size where epochs are counted; names the keys that
            differ.
    """
    with whole_state(path):
        checkpoint = read_entries(path)
        done = checkpoint["trainer"]["iteration"] + 1
        step = checkpoint["trainer"]["_trainer"]
        saved = step["optimizer"]["param_groups"]
        shapes = {name: x.shape for name, x in checkpoint["model"].items()}
        changed = changed_keys(checkpoint.get("config", ""), cfg)
    if cfg.SOLVER.MAX_EPOCHS and "SOLVER.IMS_PER_BATCH" in changed:
        raise ValueError(
            f"--resume: {_describe(changed, ['SOLVER.IMS_PER_BATCH'])} The iterations of {path} "
            "would count as more or fewer epochs than they were: resume with that batch size, or "
            "write the length in iterations, with SOLVER.MAX_EPOCHS 0 and SOLVER.MAX_ITER."
        )
    if not 0 < done <= cfg.SOLVER.MAX_ITER:
        key = "SOLVER.MAX_EPOCHS" if cfg.SOLVER.MAX_EPOCHS else "SOLVER.MAX_ITER"
        raise ValueError(
            f"--resume: {path} is from after {done} iterations, and the run has "
            f"{cfg.SOLVER.MAX_ITER}: write a larger {key}."
        )
    fits = shapes == {name: x.shape for name, x in model.state_dict().items()}
    kinds = [
        key
        for key in changed
        if key.startswith("MODEL.") and key.endswith(("NAME", "ARCHITECTURE"))
    ]
    if kinds or not fits:
        keys = kinds or [key for key in changed if key.startswith("MODEL.")]
        raise ValueError(
            f"--resume: {path} is a checkpoint of another model. {_describe(changed, keys)} Give "
            "the config of the stopped run, or another OUTPUT_DIR."
        )
    _check_optimizer(path, saved, optimizer, changed)
    check_resumed_state(path, step, optimizer)
    check_class_order(path, checkpoint.get("class_names"), cfg, cfg.DATASETS.TRAIN)
    for key, (old, new) in changed.items():
        effect = "the seed of the stopped run stays" if key == "SEED" else "takes effect now"
        logger.warning(f"{key} was {old} in the checkpoint and is {new}: {effect}.")


def _check_optimizer(path, saved, optimizer, changed) -> None:
    """Raise ValueError if the saved groups of parameters are of another optimizer, or others."""
    keys = [key for key in changed if key.startswith("SOLVER.")]
    if saved[0].keys() - {"initial_lr"} != optimizer.param_groups[0].keys() - {"initial_lr"}:
        raise ValueError(
            f"--resume: {path} has the state of another optimizer. "
            f"{_describe(changed, [key for key in keys if 'OPTIMIZER' in key])} Resume with the "
            "optimizer of the stopped run, or start anew with MODEL.WEIGHTS."
        )
    if [len(x["params"]) for x in saved] != [len(x["params"]) for x in optimizer.param_groups]:
        raise ValueError(
            f"--resume: the optimizer in {path} has the parameters in other groups. "
            f"{_describe(changed, keys)} Resume with the values of the stopped run."
        )


def resume_loader(loader, start_iter: int) -> None:
    """Let a training loader go on with the images of an iteration, or warn that it cannot."""
    if isinstance(loader, DataLoader) and isinstance(loader.batch_sampler, ResumableBatches):
        loader.batch_sampler.start = start_iter
    elif start_iter:
        logger.warning("This data loader cannot be resumed: it starts anew.")


def check_resumed_state(path: str, step: dict, optimizer: torch.optim.Optimizer) -> None:
    """Check the state of a step, see :class:`TrainStep`, in a checkpoint.

    Args:
        path (str): the checkpoint.
        step (dict): the state.
        optimizer (Optimizer): of the run that is to go on from it.

    Raises:
        ValueError: if the optimizer's state or the seed cannot be used.
    """
    with whole_state(path):
        saved = step["optimizer"]
        keeps_state = any(group.get("momentum", 1) for group in saved["param_groups"])
        names = [name for group in saved["param_groups"] for name in group["params"]]
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if keeps_state and not saved["state"]:
            raise KeyError("state of the optimizer")
        if len(names) != len(parameters):
            raise TypeError(
                f"the optimizer is for {len(names)} parameters, and the model has {len(parameters)}"
            )
        for name, parameter in zip(names, parameters, strict=True):
            for key, x in saved["state"].get(name, {}).items():
                has_shape = key in LIKE_PARAMETER and isinstance(x, torch.Tensor)
                if has_shape and x.shape != parameter.shape:
                    raise TypeError(
                        f"{key} of the optimizer is {tuple(x.shape)} for a parameter of "
                        f"{tuple(parameter.shape)}"
                    )
        if not isinstance(seed := step.get("seed", 0), int) or not 0 <= seed < 2**32:
            raise TypeError(f"the seed is {seed!r}")


@contextmanager
def whole_state(path: str) -> Iterator[None]:
    """Context in which the state of a training is taken from a checkpoint.

    Raises:
        ValueError: if a part of it is missing or of another form.
    """
    try:
        yield
    except (AttributeError, KeyError, TypeError, yaml.YAMLError) as error:
        reason = first_line(error)
        raise ValueError(
            f"--resume: {path} has no state of a training, or not all of it "
            f"({type(error).__name__}: {reason}). To start from its weights, name it in "
            "MODEL.WEIGHTS."
        ) from error


def changed_keys(saved: str, cfg: CfgNode) -> dict[str, tuple[Any, Any]]:
    """Key -> (value in the checkpoint, value now), of the keys of both that differ and matter.

    Args:
        saved (str): the config in the checkpoint, as YAML; "" = not known.
        cfg (CfgNode): the config now.
    """
    if not saved:
        return {}
    before, now = (dict(leaves(yaml.safe_load(text))) for text in (saved, cfg.dump()))
    return {
        key: (before[key], value)
        for key, value in now.items()
        if key in before and before[key] != value and key not in UNIMPORTANT
    }


def _describe(changed: dict[str, tuple[Any, Any]], keys: list[str]) -> str:
    pairs = [f"{key} was {changed[key][0]} and is {changed[key][1]}" for key in keys]
    return f"{'; '.join(pairs)}." if pairs else "No key of its config says how it differs."


def optimizer_settings(optimizer: torch.optim.Optimizer, scheduler) -> tuple[list[dict], list]:
    """The settings of the config, before a checkpoint's replace them."""
    groups = [{k: v for k, v in x.items() if k != "params"} for x in optimizer.param_groups]
    return groups, list(scheduler.base_lrs)


def apply_settings(
    settings: tuple[list[dict], list], optimizer: torch.optim.Optimizer, scheduler
) -> None:
    """Let the settings of the config take effect on the state of a checkpoint.

    Learning rates follow from the schedule at the iteration of the checkpoint. Schedulers other
    than Detectron2's keep the checkpoint's learning rates.
    """
    groups, base_lrs = settings
    for group, values in zip(optimizer.param_groups, groups, strict=True):
        lr = group["lr"]
        group.update(values)
        group["lr"] = lr
    if isinstance(scheduler, LRMultiplier):
        scheduler.base_lrs = base_lrs
        for group, lr in zip(optimizer.param_groups, scheduler.get_lr(), strict=True):
            group["lr"] = lr
