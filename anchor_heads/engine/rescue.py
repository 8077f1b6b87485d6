"""What an interrupted or failed training leaves to go on from."""

import logging
import math
import os
import statistics
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

from detectron2.engine import TrainerBase
from detectron2.utils import comm

from anchor_heads.engine.checkpoint import AtomicCheckpointer, training_checkpoints
from anchor_heads.engine.hooks import AverageBatchNorms, EndOfStep, EndOfTraining
from anchor_heads.engine.train_step import StepError, TrainStep

logger = logging.getLogger(__name__)

# A loss this many times the median of a run's losses means that the training has diverged.
DIVERGENCE_FACTOR = 100


class Rescue:
    """Saves the weights of the last whole step, or if they diverged finds an earlier checkpoint.

    Every process must call its methods.
    """

    def __init__(
        self,
        trainer: TrainerBase,
        step: TrainStep,
        checkpointer: AtomicCheckpointer,
        batch_norms: AverageBatchNorms,
    ):
        """
        Args:
            trainer (TrainerBase): whose training ends.
            step (TrainStep): what takes its steps.
            checkpointer (AtomicCheckpointer): of the model and the trainer.
            batch_norms (AverageBatchNorms): the hook of the trainer.
        """
        self.trainer = trainer
        self.step = step
        self.checkpointer = checkpointer
        self.batch_norms = batch_norms
        self.end_of_step = EndOfStep(step, self._save_on_signal)
        """A hook for the trainer to register."""

    @property
    def done(self) -> int:
        """The last iteration that was completed."""
        return self.end_of_step.last_complete

    @contextmanager
    def after_any_end(self) -> Iterator[None]:
        """Context of a training: an error or a signal leaves a checkpoint to go on from."""
        try:
            yield
        except EndOfTraining:
            raise
        except StepError as error:
            raise type(error)(f"{error} {self.keep_good_weights()}") from None
        except BaseException as error:
            reason = "a signal" if isinstance(error, SystemExit) else type(error).__name__
            logger.error(f"Stopped by {reason}. {self.save_last_step()}")
            raise

    def _save_on_signal(self) -> None:
        self.batch_norms.average()
        self.save_last_step()

    def save_last_step(self) -> str:
        """Save the state after the last whole step, if nothing has; says what was done."""
        trainer, done = self.trainer, self.done
        if done < trainer.start_iter or not self.step.is_consistent:
            return "No step was completed, so no checkpoint was written."
        name = "model_final" if done + 1 == trainer.max_iter else f"model_{done:07d}"
        path = self._path(name)
        if comm.is_main_process() and self.checkpointer.get_checkpoint_file() != path:
            trainer.iter = done
            try:
                self.checkpointer.save(name, iteration=done)
            except OSError as error:
                return str(error)
        return f"The checkpoint after iteration {done} is {path}: go on with --resume."

    def keep_good_weights(self) -> str:
        """After a step that failed: save the weights before it unless they have diverged.

        Returns:
            str: what to go on from.
        """
        trainer, done = self.trainer, self.done
        trainer.iter = done
        if done < trainer.start_iter:
            return "It was the first step, so there are no weights of this run to go on from."
        history = trainer.storage.histories().get("total_loss")
        losses = {i: value for value, i in history.values()} if history else {}
        now = comm.all_gather(self.step.loss_of_last_batch())
        if None not in now and total_losses_are_sane(now, losses):
            path = self._save("model_last_good")
            return (
                f"The weights before it are in {path}. --resume goes on from there; a "
                "SOLVER.BASE_LR that is written beside it takes effect."
            )
        healthy = self._go_back_to_healthy(losses)
        to_resume = (
            f"The last healthy checkpoint is {healthy}, from which --resume goes on; a "
            "SOLVER.BASE_LR that is written beside it takes effect."
            if healthy
            else "There is no earlier checkpoint that is known to be healthy."
        )
        if None in now:
            path = self._save(f"model_{done:07d}", tag=not healthy)
            return (
                f"The model fails with the batch of iteration {done}, too, so the weights in "
                f"{path} may be corrupted. {to_resume}"
            )
        return (
            f"The weights before it were corrupted already (the batch of iteration {done} now has "
            f"a loss of {max(now):.3g}), so they were not saved. {to_resume}"
        )

    def _save(self, name: str, tag: bool = True) -> str:
        """Save the present weights; returns the path. ``tag``: to be resumed from."""
        checkpointer = self.checkpointer
        self.batch_norms.average()
        before = checkpointer.get_checkpoint_file()
        checkpointer.save(name, iteration=self.done)
        if not tag and comm.is_main_process():
            checkpointer.tag_last_checkpoint(os.path.basename(before))
        comm.synchronize()  # the first process to end takes the others with it
        return self._path(name)

    def _go_back_to_healthy(self, losses: dict[int, float]) -> str:
        """Let ``last_checkpoint`` name the newest checkpoint that is healthy; returns its path."""
        path = ""
        if comm.is_main_process():
            checkpoints = training_checkpoints(self.checkpointer.save_dir, self.step.run_id)
            path = newest_healthy_checkpoint(checkpoints, losses)
            if path:
                self.checkpointer.tag_last_checkpoint(os.path.basename(path))
        return comm.all_gather(path)[0]

    def _path(self, name: str) -> str:
        return os.path.join(self.checkpointer.save_dir, f"{name}.pth")


def total_losses_are_sane(values: Iterable[float], losses: dict[int, float]) -> bool:
    """Whether losses are finite and of the size of those that a run had.

    Args:
        values (iterable of float): the losses to look at.
        losses (dict[int, float]): iteration -> total loss of the run.
    """
    if not losses:
        return False
    limit = DIVERGENCE_FACTOR * statistics.median(losses.values())
    return all(math.isfinite(value) and value <= limit for value in values)


def newest_healthy_checkpoint(checkpoints: list[tuple[int, str]], losses: dict[int, float]) -> str:
    """The newest checkpoint whose weights gave a sane loss in the iteration after it.

    Args:
        checkpoints (list[tuple[int, str]]): (iteration, path) of those of the run.
        losses (dict[int, float]): iteration -> total loss, since the run was started or resumed.

    Returns:
        str: its path; "" if there is none.
    """
    for iteration, path in sorted(checkpoints, reverse=True):
        is_of_earlier_start = iteration + 1 < min(losses, default=0)
        next_loss = losses.get(iteration + 1, math.nan)
        if is_of_earlier_start or total_losses_are_sane([next_loss], losses):
            return path
    return ""
