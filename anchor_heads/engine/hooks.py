"""Hooks in addition to Detectron2's."""

import math
import os
import signal
import threading
from collections.abc import Callable, Sequence

import torch
import torch.distributed
from detectron2.data import Metadata
from detectron2.data.detection_utils import convert_image_to_rgb
from detectron2.engine import HookBase, hooks
from detectron2.evaluation import inference_context
from detectron2.modeling.meta_arch.dense_detector import DenseDetector
from detectron2.utils import comm
from fvcore.nn.precise_bn import get_bn_modules
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from anchor_heads.engine.checkpoint import AtomicCheckpointer, read_entries
from anchor_heads.engine.train_step import TrainStep
from anchor_heads.visualization.drawing import ground_truth_beside_detections


class AverageBatchNorms(HookBase):
    """Before a model is saved or evaluated, gives all processes the mean of their statistics.

    Each process keeps statistics of its own images. Running means are linear, so the mean of them
    at the end is what averaging after every step would give.
    """

    def __init__(self, models: list[nn.Module], periods: list[int]):
        """
        Args:
            models (list[nn.Module]): of this process.
            periods (list[int]): after how many iterations something needs the models; 0 = never.
        """
        self.models = models
        self.periods = [period for period in periods if period > 0]

    def after_step(self):
        done = self.trainer.iter + 1
        if done == self.trainer.max_iter or any(done % period == 0 for period in self.periods):
            self.average()

    @torch.no_grad()
    def average(self) -> None:
        """Every process must call it."""
        if comm.get_world_size() == 1:
            return
        norms = [norm for model in self.models for norm in get_bn_modules(model)]
        buffers = [x for norm in norms for x in (norm.running_mean, norm.running_var)]
        if not buffers:
            return
        flat = torch.cat([buffer.flatten() for buffer in buffers])
        torch.distributed.all_reduce(flat)
        flat /= comm.get_world_size()
        for buffer, mean in zip(buffers, flat.split([x.numel() for x in buffers]), strict=True):
            buffer.copy_(mean.view_as(buffer))


class WeightAverage(HookBase):
    """An exponential moving average of the weights and of batch norms' statistics."""

    def __init__(self, model: nn.Module, decay: float):
        """
        Args:
            model (nn.Module): the model in training.
            decay (float): the share that the average keeps of itself in each step.
        """
        self.model = model
        self.average = AveragedModel(
            model, multi_avg_fn=get_ema_multi_avg_fn(decay), use_buffers=True
        )

    def after_step(self):
        self.average.update_parameters(self.model)

    def state_dict(self) -> dict:
        return self.average.state_dict()

    def load_state_dict(self, state: dict) -> None:
        self.average.load_state_dict(state)


class EvalHook(hooks.EvalHook):
    """Detectron2's, which does not evaluate again when a training ends early by an evaluation."""

    def __init__(self, period: int, function: Callable[[], dict]):
        super().__init__(period, self._evaluate)
        self.function = function
        self.last_evaluated = -1

    def _evaluate(self) -> dict:
        self.last_evaluated = self.trainer.iter
        return self.function()

    def after_train(self):
        if self.last_evaluated + 1 != self.trainer.iter:
            super().after_train()
        del self.function  # as Detectron2's: it may hold the trainer, which holds this hook


class BestModel(hooks.BestCheckpointer):
    """Detectron2's BestCheckpointer, which a resumed run goes on with.

    The best value is in ``model_best.pth`` itself: the checkpoint to resume from may be older.
    """

    def __init__(
        self, period: int, checkpointer: AtomicCheckpointer, metric: str, data_sets: Sequence[str]
    ):
        """
        Args:
            period (int): of the evaluation.
            checkpointer (AtomicCheckpointer): of the model that is evaluated.
            metric (str): name in the storage, such as "bbox/AP"; higher is better.
            data_sets (sequence[str]): DATASETS.TEST; values of others cannot be compared.
        """
        super().__init__(period, checkpointer, metric)
        self.data_sets = list(data_sets)

    def before_train(self):
        path = os.path.join(self._checkpointer.save_dir, f"{self._file_prefix}.pth")
        checkpoint = read_entries(path) if os.path.isfile(path) else {}
        best = checkpoint.get("best", {})
        if best.get("of") == self._of():
            self.best_metric, self.best_iter = best["value"], checkpoint["iteration"]

    def _best_checking(self):
        value, _ = self.trainer.storage.latest().get(self._val_metric, (math.nan, 0))
        self._checkpointer.extra["best"] = {"of": self._of(), "value": value}
        super()._best_checking()

    def _of(self) -> dict:
        """What values must have in common to be compared."""
        run = self.trainer.run_id
        return {"metric": self._val_metric, "data_sets": self.data_sets, "run_id": run}


class EndOfTraining(BaseException):
    """Ends a training before its last iteration, which is no error."""


class EarlyStopping(HookBase):
    """Ends the training when evaluations bring no better model; it comes after BestModel."""

    def __init__(self, period: int, metric: str, patience: int, best: BestModel | None):
        """
        Args:
            period (int): of the evaluation.
            metric (str): its name, for the message.
            patience (int): the number of evaluations without a better value.
            best (BestModel or None): the hook, which only the main process has.
        """
        self.period = period
        self.metric = metric
        self.patience = patience
        self.best = best

    def after_step(self):
        done = self.trainer.iter + 1
        if done % self.period or done == self.trainer.max_iter:
            return
        best = (-math.inf, self.trainer.start_iter - 1)
        if self.best and self.best.best_metric is not None:
            best = (self.best.best_metric, self.best.best_iter)
        value, iteration = comm.all_gather(best)[0]
        if done // self.period - (iteration + 1) // self.period >= self.patience:
            raise EndOfTraining(
                f"{self.metric} was not above {value:.3f} in {self.patience} evaluations."
            )


class EndOfStep(HookBase):
    """Notes that a step is complete, and ends the run there if a signal has asked for it.

    It comes after the hook of the learning rate, and before all that take long. A signal outside
    of a step ends the run at once; a second one always does.
    """

    SIGNALS = (signal.SIGINT, signal.SIGTERM)

    def __init__(self, step: TrainStep, on_stop: Callable[[], None]):
        """
        Args:
            step (TrainStep): of the trainer; the processes agree on a signal in it.
            on_stop (callable): called in every process before the run ends.
        """
        self.step = step
        self.on_stop = on_stop
        self.last_complete = -1
        self.is_in_step = False
        self._process = os.getpid()
        self._handlers_before: dict = {}

    def before_train(self):
        if threading.current_thread() is threading.main_thread():
            self._handlers_before = {x: signal.signal(x, self._note_signal) for x in self.SIGNALS}

    def before_step(self):
        self.is_in_step = True

    def after_step(self):
        self.is_in_step = False
        self.last_complete = self.trainer.iter
        if number := self.step.stop_signal:
            self.on_stop()
            raise SystemExit(128 + number)

    def after_train(self):
        for number, handler in self._handlers_before.items():
            signal.signal(number, handler)
        self._handlers_before = {}

    def _note_signal(self, number, frame):
        if os.getpid() != self._process:
            return  # a worker of the data loader, which inherits this
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)  # workers that it ends are no error
        if self.is_in_step and not self.step.requested_signal:
            self.step.requested_signal = number
        else:
            raise SystemExit(128 + number)


class PicturesInTraining(HookBase):
    """Every VIS_PERIOD iterations, ground truth and detections of one training image.

    The picture goes to TensorBoard. GeneralizedRCNN and ProposalNetwork make theirs themselves;
    Detectron2's dense detectors leave VIS_PERIOD unheeded. Training is not touched by it.
    """

    def __init__(self, model: DenseDetector, period: int, image_format: str, metadata: Metadata):
        """
        Args:
            model (DenseDetector): the model in training.
            period (int): the number of iterations between two pictures.
            image_format (str): INPUT.FORMAT, the channel order of the model's input.
            metadata (Metadata): of the training set, for the names of the classes.
        """
        self.model = model
        self.period = period
        self.image_format = image_format
        self.metadata = metadata

    def after_step(self):
        if self.trainer.iter % self.period == 0:
            image = self.trainer.current_batch[0]
            self.trainer.storage.put_image("ground_truth_beside_detections", self.draw(image))

    @torch.no_grad()
    def draw(self, image: dict):
        """The picture of an image as the mapper made it: an array of shape (3, H, W), RGB."""
        with inference_context(self.model):
            detections = self.model([{"image": image["image"]}])[0]["instances"]
        rgb = convert_image_to_rgb(image["image"].permute(1, 2, 0), self.image_format)
        picture = ground_truth_beside_detections(
            rgb[:, :, ::-1], image["instances"], detections.to("cpu"), self.metadata
        )
        return picture[:, :, ::-1].transpose(2, 0, 1)
