"""One step of training, on every device, in full or mixed precision."""

import time

import torch
import torch.distributed
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from anchor_heads.data.loader import seed_rng
from anchor_heads.modeling.distributed import unwrap


class NonFiniteError(FloatingPointError):
    """A loss or a gradient is infinite or not a number; the model is as before the step."""


class TrainStep(SimpleTrainer):
    """Detectron2's step, made reproducible and stopped before it can spoil the weights.

    - The random numbers of a step follow from seed, iteration and process alone, so that a resumed
      run draws what an uninterrupted one would have drawn.
    - A loss or gradient that is not finite stops all processes together, before the weights change.
    - Mixed precision is float16 with a gradient scaler on a GPU, bfloat16 on the CPU.

    Its state adds the seed, and the keys of Detectron2's AMPTrainer, to those of SimpleTrainer.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        *,
        seed: int,
        mixed_precision: bool,
    ):
        """
        Args:
            model (nn.Module): maybe wrapped for distributed training.
            optimizer (Optimizer): of the model's parameters.
            seed (int): not negative, the same in every process.
            mixed_precision (bool): whether to run the forward pass under autocast.
        """
        super().__init__(model, data_loader=None, optimizer=optimizer)
        self.seed = seed
        self.batch: list[dict] = []
        self.device = next(model.parameters()).device
        is_cuda = self.device.type == "cuda"
        self.autocast = torch.autocast(
            self.device.type,
            dtype=torch.float16 if is_cuda else torch.bfloat16,
            enabled=mixed_precision,
        )
        self.scaler = torch.amp.GradScaler(self.device.type, enabled=mixed_precision and is_cuda)
        self._loss_normalizers: list[float] = []

    def run_step(self):
        """Take one step.

        Raises:
            NonFiniteError: in every process, if a loss or a gradient of one of them is not finite.
        """
        start = time.perf_counter()
        self.batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        # After loading, which draws random numbers in this process if it has no workers.
        seed_rng(self.seed, self.iter, comm.get_rank())

        buffers = [buffer.clone() for buffer in self.model.buffers()]
        losses = self._forward()
        bad = {name: loss.item() for name, loss in losses.items() if not loss.isfinite()}
        if self._in_any_process(bool(bad)):
            self._stop("loss", [f"{name} = {value}" for name, value in bad.items()], buffers)

        self.optimizer.zero_grad()
        self.scaler.scale(sum(losses.values())).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        if not self.scaler.is_enabled():  # which leaves such a step out, and lowers its scale
            bad = self._bad_gradients()
            if bad:  # the same in every process: gradients are averaged
                self._stop("gradient", bad, buffers)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        self._collect_loss_normalizers()

    def _forward(self) -> dict[str, Tensor]:
        """The losses. Proposal generators raise an error of their own where one is not finite."""
        try:
            with self.autocast:
                return self.model(self.batch)
        except FloatingPointError as error:
            return {str(error): torch.tensor(torch.nan)}

    def _in_any_process(self, flag: bool) -> bool:
        if comm.get_world_size() == 1:
            return flag
        count = torch.tensor(float(flag), device=self.device)
        torch.distributed.all_reduce(count)
        return count.item() > 0

    def _bad_gradients(self) -> list[str]:
        """The names of the parameters whose gradient is not finite."""
        gradients = {
            name: parameter.grad
            for name, parameter in unwrap(self.model).named_parameters()
            if parameter.grad is not None
        }
        # The largest absolute value of all, in few operations.
        if get_total_norm(list(gradients.values()), torch.inf).isfinite():
            return []
        return [name for name, gradient in gradients.items() if not gradient.isfinite().all()]

    def _stop(self, what: str, bad: list[str], buffers: list[Tensor]):
        """Undo what the forward pass did to the model's buffers, and say what happened where."""
        for buffer, before in zip(self.model.buffers(), buffers, strict=True):
            buffer.copy_(before)
        files = [image.get("file_name", "?") for image in self.batch]
        found = [(bad, files) for bad, files in comm.all_gather((bad, files)) if bad]
        names = list(dict.fromkeys(name for bad, _ in found for name in bad))
        files = [file for _, files in found for file in files]
        raise NonFiniteError(
            f"At iteration {self.iter} the {what} is not finite: {_enumerate(names)}. "
            f"Images of that batch: {', '.join(files)}. What usually helps: a lower "
            "SOLVER.BASE_LR, SOLVER.CLIP_GRADIENTS.ENABLED True, and a look at these images and "
            "their annotations."
        )

    def _collect_loss_normalizers(self):
        """Keep the running mean that Detectron2's RetinaNet divides its losses by, of each process.

        It is a plain attribute of the model, which the model's own state lacks.
        """
        model = unwrap(self.model)
        if hasattr(model, "loss_normalizer"):
            self._loss_normalizers = comm.all_gather(model.loss_normalizer)

    def state_dict(self) -> dict:
        return {
            **super().state_dict(),
            "grad_scaler": self.scaler.state_dict(),
            "seed": self.seed,
            "loss_normalizers": self._loss_normalizers,
        }

    def load_state_dict(self, state: dict) -> None:
        """Take up a state; the keys that Detectron2's trainers do not save may be missing."""
        super().load_state_dict(state)
        if state.get("grad_scaler"):
            self.scaler.load_state_dict(state["grad_scaler"])
        self.seed = state.get("seed", self.seed)
        self._loss_normalizers = state.get("loss_normalizers", [])
        if self._loss_normalizers:
            rank = comm.get_rank() % len(self._loss_normalizers)
            unwrap(self.model).loss_normalizer = self._loss_normalizers[rank]


def _enumerate(names: list[str], limit: int = 5) -> str:
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
