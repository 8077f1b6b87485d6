"""One step of training, on every device, in full or mixed precision."""

import logging
import time
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext

import torch
import torch.distributed
from detectron2.engine import SimpleTrainer
from detectron2.layers import FrozenBatchNorm2d
from detectron2.utils import comm
from detectron2.utils.events import EventStorage, get_event_storage
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from anchor_heads.data.loader import seed_rng
from anchor_heads.errors import said_by_library
from anchor_heads.modeling.distributed import unwrap

logger = logging.getLogger(__name__)


class StepError(RuntimeError):
    """A step failed in one of the processes; the model is as before the step."""


class NonFiniteError(StepError, FloatingPointError):
    """A loss or a gradient is infinite or not a number; the model is as before the step."""


class TrainStep(SimpleTrainer):
    """Detectron2's step, made reproducible and stopped before it can spoil the weights.

    - The random numbers of a step follow from seed, iteration and process alone, so that a resumed
      run has those that an uninterrupted one would have had.
    - A loss or gradient that is not finite, and an error in one process, stop all processes
      together, before the weights change.
    - Mixed precision is float16 with a gradient scaler on a GPU, bfloat16 on the CPU.
    - The images of a step may be gone through in several parts, whose gradients are averaged.

    Its state adds the seed, the name of the run, and the keys of Detectron2's AMPTrainer, to those
    of SimpleTrainer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        mixed_precision: bool = False,
        num_parts: int = 1,
    ):
        """
        Args:
            model (nn.Module): maybe wrapped for distributed training.
            optimizer (Optimizer): of the model's parameters.
            seed (int): not negative, the same in every process.
            mixed_precision (bool): whether to run the forward pass under autocast.
            num_parts (int): in how many parts to go through the images of a step.
        """
        super().__init__(model, data_loader=None, optimizer=optimizer)
        self.seed = seed
        self.num_parts = num_parts
        self.batch: list[dict] = []
        self.device = next(model.parameters()).device
        is_cuda = self.device.type == "cuda"
        self.autocast = torch.autocast(
            self.device.type,
            dtype=torch.float16 if is_cuda else torch.bfloat16,
            enabled=mixed_precision,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision and is_cuda)
        self.run_id = uuid.uuid4().hex
        """Names the run that a checkpoint is of; a resumed run keeps its name."""
        self.requested_signal = 0
        """Number of the signal by which this process was asked to end; 0 = none."""
        self.stop_signal = 0
        """The same, agreed upon by all processes: the run ends after the step."""
        self.is_consistent = True
        """Whether the weights and the optimizer's state are those after a whole step."""
        self._good_batch: list[dict] = []
        self._loss_normalizers: list[float] = []

    def run_step(self):
        """Take one step.

        Raises:
            NonFiniteError: in every process, if a loss or a gradient of one of them is not finite.
            StepError: in every process, if loading images or a forward pass fails in one of them.
        """
        with self._buffers_restored_on_error():
            losses, data_time = self._compute_gradients()
            self.after_backward()
            self._check_and_log(losses, data_time)
        self.is_consistent = False
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self.is_consistent = True
        self._good_batch = self.batch

    def _compute_gradients(self) -> tuple[dict[str, Tensor], float]:
        """The losses of this process, averaged over the parts, and the seconds of loading."""
        data_time = self._in_all_processes(self._load)
        # After loading, which draws random numbers in this process if it has no workers.
        seed_rng(self.seed, self.iter, comm.get_rank())
        self.optimizer.zero_grad()
        sums: dict[str, Tensor] = {}
        for i in range(self.num_parts):
            part = self.batch[i :: self.num_parts]
            with nullcontext() if i + 1 == self.num_parts else self._without_exchange():
                losses = self._in_all_processes(lambda part=part: self._forward(part))
                self.scaler.scale(sum(losses.values()) / self.num_parts).backward()
            for name, loss in losses.items():
                sums[name] = sums.get(name, 0) + loss.detach()
        return {name: loss / self.num_parts for name, loss in sums.items()}, data_time

    def _load(self) -> float:
        self.batch = []
        start = time.perf_counter()
        self.batch = next(self._data_loader_iter)
        return time.perf_counter() - start

    def _forward(self, images: list[dict]) -> dict[str, Tensor]:
        with self.autocast:
            return self.model(images)

    def _without_exchange(self):
        """Gradients of all but the last part stay in their process."""
        is_parallel = isinstance(self.model, nn.parallel.DistributedDataParallel)
        return self.model.no_sync() if is_parallel else nullcontext()

    def _in_all_processes(self, function: Callable):
        """``function()``; if it fails in one process, an error in every process.

        Without the exchange the others would wait for the failed process in their backward pass.
        """
        result, error = None, None
        try:
            result = function()
        except Exception as caught:
            error = caught
        failed, self.stop_signal = self._highest(error is not None, self.requested_signal)
        if not failed:
            return result
        if error and not isinstance(error, FloatingPointError):
            logger.error(f"Error in process {comm.get_rank()}:", exc_info=error)
        problem = ""
        if error:
            problem = f"{type(error).__name__}: {str(error) or said_by_library(error)}"
        is_number = isinstance(error, FloatingPointError) or error is None
        found = comm.all_gather((problem, self._files(), is_number))
        problems = [problem for problem, _, _ in found if problem]
        files = [file for problem, files, _ in found if problem for file in files]
        if all(is_number for _, _, is_number in found):
            raise self._not_finite("loss", problems, files) from error
        raise StepError(
            f"Iteration {self.iter} failed: {'; '.join(dict.fromkeys(problems))}. "
            f"Images of that batch: {', '.join(files) or 'not loaded'}."
        ) from error

    def _highest(self, *numbers: int) -> tuple[int, ...]:
        """The highest of each number that a process has."""
        if comm.get_world_size() == 1:
            return tuple(map(int, numbers))
        highest = torch.tensor(numbers, dtype=torch.int32, device=self.device)
        torch.distributed.all_reduce(highest, torch.distributed.ReduceOp.MAX)
        return tuple(highest.tolist())

    def _check_and_log(self, losses: dict[str, Tensor], data_time: float) -> None:
        """Stop at losses and gradients that are not finite, else put the losses into the storage.

        One transfer from the device, after one exchange between the processes.
        """
        gradients = {
            name: parameter.grad
            for name, parameter in unwrap(self.model).named_parameters()
            if parameter.grad is not None
        }
        # The largest absolute value of all, in few operations. A step with gradients that overflow
        # under a gradient scaler is left out by the scaler, which then lowers its scale.
        largest = get_total_norm(gradients.values(), torch.inf)
        scaled = self.scaler.is_enabled()
        values = [*losses.values(), torch.zeros_like(largest) if scaled else largest]
        host = torch.tensor([data_time, self._loss_normalizer()], dtype=torch.float64)
        row = torch.stack([x.double() for x in values])
        rows = self._gather(torch.cat([row, host.to(self.device)]))

        columns = [rows[:, i] for i in range(rows.shape[1])]
        *loss_columns, largest, data_times, normalizers = columns
        bad = [
            f"{name} = {values[~values.isfinite()][0]}"
            for name, values in zip(losses, loss_columns, strict=True)
            if not values.isfinite().all()
        ]
        if bad:
            is_bad = not torch.stack(loss_columns)[:, comm.get_rank()].isfinite().all()
            raise self._not_finite("loss", bad, self._files_where(is_bad))
        if not largest.isfinite().all():  # the same in every process: gradients are averaged
            bad = [name for name, gradient in gradients.items() if not gradient.isfinite().all()]
            raise self._not_finite("gradient", bad, self._files_where(True))
        self._loss_normalizers = normalizers.tolist()
        means = {
            name: values.mean().item() for name, values in zip(losses, loss_columns, strict=True)
        }
        _log(means, data_times.max().item())

    def _gather(self, row: Tensor) -> Tensor:
        """The rows of all processes, on the CPU."""
        if comm.get_world_size() == 1:
            return row[None].cpu()
        rows = [torch.empty_like(row) for _ in range(comm.get_world_size())]
        torch.distributed.all_gather(rows, row)
        return torch.stack(rows).cpu()

    def _files(self) -> list[str]:
        return [image.get("file_name", "?") for image in self.batch]

    def _files_where(self, is_bad: bool) -> list[str]:
        """The images of the processes with ``is_bad``; every process must call it."""
        return [
            file for files in comm.all_gather(self._files() if is_bad else []) for file in files
        ]

    def _not_finite(self, what: str, bad: list[str], files: list[str]) -> NonFiniteError:
        return NonFiniteError(
            f"At iteration {self.iter} the {what} is not finite: {_enumerate(bad)}. "
            f"Images of that batch: {', '.join(files)}. What usually helps: a lower "
            "SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True, and a look at these images and "
            "their annotations."
        )

    def loss_of_last_batch(self) -> float | None:
        """The total loss of the last batch that a step was taken with, by the present weights.

        It tells weights that a step has damaged from images that have no finite loss. The model
        stays as it is. None if the model fails, or if there was no such step.
        """
        if not self._good_batch:
            return None
        seed_rng(self.seed, self.iter, comm.get_rank())
        model = unwrap(self.model)
        try:
            with (
                torch.no_grad(),
                self._buffers_restored_on_error(always=True),
                self.autocast,
                EventStorage(),  # which takes what the model logs, and is thrown away
            ):
                return float(sum(model(self._good_batch).values()))
        except FloatingPointError:
            return float("nan")
        except Exception:
            return None

    @contextmanager
    def _buffers_restored_on_error(self, always: bool = False) -> Iterator[None]:
        """Undo what a forward pass does to the model's buffers, such as batch norms' statistics."""
        buffers = _changing_buffers(unwrap(self.model))
        before = [buffer.clone() for buffer in buffers]

        def restore():
            with torch.no_grad():
                for buffer, value in zip(buffers, before, strict=True):
                    buffer.copy_(value)

        try:
            yield
        except BaseException:
            restore()
            raise
        if always:
            restore()

    def _loss_normalizer(self) -> float:
        """The running mean that Detectron2's RetinaNet divides its losses by, of this process.

        It is a plain attribute, which the model's own state lacks; 0 = the model has none.
        """
        return float(vars(unwrap(self.model)).get("loss_normalizer", 0))

    def state_dict(self) -> dict:
        return {
            **super().state_dict(),
            "grad_scaler": self.scaler.state_dict(),
            "seed": self.seed,
            "run_id": self.run_id,
            "loss_normalizers": self._loss_normalizers,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take up a state; the keys that Detectron2's trainers do not save may be missing."""
        super().load_state_dict(state)
        if state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])
        self.seed = state.get("seed", self.seed)
        self.run_id = state.get("run_id", "")
        self._loss_normalizers = state.get("loss_normalizers", [])
        if any(self._loss_normalizers):
            rank = comm.get_rank() % len(self._loss_normalizers)
            unwrap(self.model).loss_normalizer = self._loss_normalizers[rank]


def _changing_buffers(model: nn.Module) -> list[Tensor]:
    """The buffers that training may change: all but those of frozen batch norms."""
    modules = [x for x in model.modules() if not isinstance(x, FrozenBatchNorm2d)]
    return [buffer for module in modules for buffer in module.buffers(recurse=False)]


def _log(losses: dict[str, float], data_time: float) -> None:
    storage = get_event_storage()
    storage.put_scalar("data_time", data_time)
    storage.put_scalar("total_loss", sum(losses.values()))
    if len(losses) > 1:
        storage.put_scalars(**losses)


def _enumerate(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
