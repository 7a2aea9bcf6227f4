"""The training step in any precision. One that is not finite changes nothing and is counted."""

import logging
import math
import time
from collections import deque
from collections.abc import Iterable

import torch
import torch.distributed as dist
from detectron2.engine import SimpleTrainer
from detectron2.utils import comm
from torch import Tensor, nn
from torch.nn.utils import clip_grad_norm_

from .failures import Fault, SkippedSteps, bad_weights, describe_fault, explain, is_of_numbers

# Another batch is other data: numbers that are not finite in so many of them have one reason.
MOST_IN_A_ROW = 5
_REMEMBERED = 100  # total losses, by which a divergence is told

logger = logging.getLogger("detectron2.gridclip")


class Trainer(SimpleTrainer):
    """detectron2's trainer, also in mixed precision; it skips steps that are not finite.

    Where a loss or the gradient is not finite on any rank, all ranks skip the step: weights,
    buffers and optimizer stay as they were. Iteration and schedule go on, so that a resumed run
    does not meet the batch again. More than ``MOST_IN_A_ROW`` such steps in a row, or weights that
    are not finite or huge, end the run with FloatingPointError, which names the reason.

    In float16 gradients are scaled. A step whose scaled gradient overflows is skipped, too, and the
    scale is halved: that is normal, and counted apart, as long as the scale is above 1.

    Scalars: "skipped_steps" and "overflows" count both since the start of the training;
    "grad_norm", before clipping and without the scale; in float16 "loss_scale".

    Attributes:
        precision: of autocast; float32 is without.
        grad_scaler: enabled in float16 alone.
        skipped: whether the last step was skipped; averages of the weights leave it out.
        skipped_steps: the file of them.
    """

    def __init__(
        self,
        model: nn.Module,
        data_loader: Iterable,
        optimizer: torch.optim.Optimizer,
        *,
        precision: torch.dtype = torch.float32,
        clip_grad_norm: float | None = None,
        lr: float | None = None,
        output_dir: str = ".",
    ):
        """
        Args:
            model: returns its losses, scalars by name.
            clip_grad_norm: the largest norm of the gradient over all parameters; None: any.
            lr: the setting ``optimizer.lr``, for messages.
            output_dir: where skipped steps are written down.
        """
        super().__init__(model, data_loader, optimizer)
        self.device = next(model.parameters()).device
        self.precision, self.clip_grad_norm, self.lr = precision, clip_grad_norm, lr
        scaled = precision is torch.float16
        self.grad_scaler = torch.amp.GradScaler(self.device.type, enabled=scaled)
        self.skipped = False
        self.skipped_steps = SkippedSteps(output_dir)
        self._counts = {"skipped_steps": 0, "overflows": 0}
        self._in_a_row: list[Fault] = []
        self._steps_in_a_row = 0
        self._totals: deque[float] = deque(maxlen=_REMEMBERED)
        self._buffers: list[Tensor] = []
        self._kept: list[Tensor] = []

    def run_step(self) -> None:
        start = time.perf_counter()
        batch = next(self._data_loader_iter)
        data_time = time.perf_counter() - start
        self._keep_buffers()
        losses, wrong = self._forward(batch)
        values = _values(losses)
        wrong += [f"{k} is {value}" for k, value in values.items() if not math.isfinite(value)]
        self.skipped = _on_any_rank(bool(wrong), self.device)
        if self.skipped:
            self._skip(batch, values, ", ".join(wrong))
            return
        self.optimizer.zero_grad()
        total = sum(losses.values(), torch.zeros((), device=self.device))
        self.grad_scaler.scale(total).backward()
        self.after_backward()
        self._write_metrics(losses, data_time)
        self._totals.append(sum(values.values()))
        self._update(batch, values)

    def _forward(self, batch: list[dict]) -> tuple[dict[str, Tensor], list[str]]:
        """The losses, or what has kept them from being computed."""
        lower = self.precision is not torch.float32
        try:
            with torch.autocast(self.device.type, self.precision, enabled=lower):
                return self.model(batch), []
        except (AssertionError, FloatingPointError) as error:
            if is_of_numbers(error) or bad_weights(self.model):
                return {}, ["predictions are not finite"]
            raise

    def _update(self, batch: list[dict], values: dict[str, float]) -> None:
        """The optimizer's step, if the gradient is finite."""
        # Before clipping: the norm of scaled gradients would be clipped to next to nothing.
        self.grad_scaler.unscale_(self.optimizer)
        norm = float(clip_gradients(self.optimizer, self.clip_grad_norm))
        scale = self.grad_scaler.get_scale()
        # DistributedDataParallel's mean is the same on all ranks, so they agree.
        self.skipped = not math.isfinite(norm)
        if not self.skipped:
            self.grad_scaler.step(self.optimizer)
            self.storage.put_scalar("grad_norm", norm)
            self._in_a_row.clear()
            self._steps_in_a_row = 0
        self.grad_scaler.update()
        if self.grad_scaler.is_enabled():
            self.storage.put_scalar("loss_scale", scale, smoothing_hint=False)
        if not self.skipped:
            self._write_counts()
        elif scale > 1 and self.grad_scaler.get_scale() < scale:
            self._restore("overflows")
        else:
            self._skip(batch, values, f"the gradient's norm is {norm}")

    def _skip(self, batch: list[dict], values: dict[str, float], wrong: str) -> None:
        """Note a step that is not finite; ``wrong`` is empty on a rank that is not to blame.

        Raises:
            FloatingPointError: on all ranks, if there is no use in going on.
        """
        self._restore("skipped_steps")
        fault = (
            describe_fault(self.iter, comm.get_rank(), wrong, values, batch, self.model)
            if wrong
            else None
        )
        faults = [other for other in comm.all_gather(fault) if other is not None]
        self._in_a_row += faults
        self._steps_in_a_row += 1
        if comm.is_main_process():
            self.skipped_steps.add(faults)
            count = self._counts["skipped_steps"]
            logger.warning(f"Step {self.iter} is skipped, the {count}. so far: {faults[0].what}")
        if self._steps_in_a_row > MOST_IN_A_ROW or any(x.bad_weights for x in faults):
            raise FloatingPointError(
                explain(
                    self._in_a_row,
                    list(self._totals),
                    precision=self.precision,
                    lr=self.lr,
                    path=self.skipped_steps.path,
                )
            )

    @torch.no_grad()
    def _keep_buffers(self) -> None:
        """The forward pass changes some, such as a batch norm's statistics."""
        if not self._kept:
            self._buffers = list(self.model.buffers())
            self._kept = [torch.empty_like(buffer) for buffer in self._buffers]
        if self._kept:
            torch._foreach_copy_(self._kept, self._buffers)

    @torch.no_grad()
    def _restore(self, counted_as: str) -> None:
        if self._kept:
            torch._foreach_copy_(self._buffers, self._kept)
        self._counts[counted_as] += 1
        self._write_counts()

    def _write_counts(self) -> None:
        for name, count in self._counts.items():
            if name == "skipped_steps" or self.grad_scaler.is_enabled():
                self.storage.put_scalar(name, count, smoothing_hint=False)

    def state_dict(self) -> dict:
        scaler = {"grad_scaler": self.grad_scaler.state_dict()}
        return {**super().state_dict(), **scaler, "counts": dict(self._counts)}

    def load_state_dict(self, state_dict: dict) -> None:
        """Also of detectron2's trainers, and of a training in another precision."""
        super().load_state_dict(state_dict)
        if self.grad_scaler.is_enabled() and state_dict.get("grad_scaler"):
            self.grad_scaler.load_state_dict(state_dict["grad_scaler"])
        self._counts.update(state_dict.get("counts", {}))


def _values(losses: dict[str, Tensor]) -> dict[str, float]:
    """All at once: a GPU is waited for one time."""
    if not losses:
        return {}
    numbers = torch.stack([loss.detach().float() for loss in losses.values()]).tolist()
    return dict(zip(losses, numbers, strict=True))


def clip_gradients(optimizer: torch.optim.Optimizer, largest: float | None) -> Tensor:
    """Scale an optimizer's gradients, if their norm over all parameters is above ``largest``.

    Returns:
        The norm before that, a scalar.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    return clip_grad_norm_(parameters, largest or math.inf)


def _on_any_rank(flag: bool, device: torch.device) -> bool:
    """Whether it is true on one rank at least; before the backward pass, where ranks would wait."""
    if comm.get_world_size() == 1:
        return flag
    shared = torch.tensor(float(flag), device=device)
    dist.all_reduce(shared, dist.ReduceOp.MAX)
    return bool(shared)
