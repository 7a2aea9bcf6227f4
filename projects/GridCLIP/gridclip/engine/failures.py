"""Trainings that can't start or go on, and which settings mend that."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import torch
from omegaconf import DictConfig
from torch import Tensor, nn

SKIPPED_STEPS = "skipped_steps.jsonl"
# CLIP's and a detector's weights stay below a hundred. A loss that has grown so much does not come
# from another batch.
_LARGE_WEIGHT, _GROWTH, _LAST = 1e4, 5.0, 5
_SHOWN = 8  # pictures in a message


def check_device(cfg: DictConfig, *, training: bool) -> None:
    """Raise ValueError if ``train.device`` is not there, or can't train as ``train.amp`` asks."""
    device, amp = cfg.train.device, cfg.train.amp.enabled
    on_gpu, dtype = str(device).startswith("cuda"), cfg.train.amp.get("dtype")
    if dtype not in (None, "bfloat16", "float16"):
        raise ValueError(f"train.amp.dtype is '{dtype}': take bfloat16 or float16.")
    # On a CPU mixed precision is seldom faster: it has to be asked for by its type.
    amp_needs_gpu = training and amp and not on_gpu and dtype is None
    if (on_gpu and not torch.cuda.is_available()) or amp_needs_gpu:
        given, fix = f"train.device={device}", "add train.device=cpu train.amp.enabled=False"
        raise ValueError(f"No CUDA device is available for {given} train.amp.enabled={amp}: {fix}.")


@dataclass(frozen=True)
class Fault:
    """What a rank met in a step that was not finite.

    Attributes:
        iteration, rank: when and where.
        what: for a person.
        losses: by name, as text where they are no JSON; none if the forward pass gave none.
        image_ids: of the rank's batch.
        bad_inputs: of its pictures, what they bring that is not finite or no box.
        bad_weights: of the model, if they tell that the training has diverged: no later step
            would be finite either.
    """

    iteration: int
    rank: int
    what: str
    losses: dict[str, float | str]
    image_ids: list[int | str]
    bad_inputs: list[str]
    bad_weights: str | None


def describe_fault(
    iteration: int,
    rank: int,
    what: str,
    losses: Mapping[str, float],
    batch: Sequence[Mapping[str, Any]],
    model: nn.Module,
) -> Fault:
    written = {k: v if math.isfinite(v) else str(v) for k, v in losses.items()}
    ids = [x.get("image_id", i) for i, x in enumerate(batch)]
    return Fault(iteration, rank, what, written, ids, bad_inputs(batch), bad_weights(model))


def bad_inputs(batch: Sequence[Mapping[str, Any]]) -> list[str]:
    """What is not finite in the model's inputs, and boxes that are none: "a.jpg: gt_boxes"."""
    found = []
    for i, inputs in enumerate(batch):
        tensors = {k: v for k, v in inputs.items() if isinstance(v, Tensor)}
        bad = [k for k, v in tensors.items() if v.is_floating_point() and not v.isfinite().all()]
        if "instances" in inputs:
            boxes = inputs["instances"].gt_boxes.tensor
            # In this form, as no comparison with NaN holds.
            if not (boxes.isfinite().all() and (boxes[:, 2:] >= boxes[:, :2]).all()):
                bad.append("gt_boxes")
        found += [f"{inputs.get('file_name', f'picture {i}')}: {name}" for name in bad]
    return found


@torch.no_grad()
def bad_weights(model: nn.Module) -> str | None:
    """Whether weights are not finite, or far larger than any that a training leaves."""
    largest = torch.stack([p.detach().abs().amax().float() for p in model.parameters()]).amax()
    if not largest.isfinite():
        return "parameters are not finite"
    return f"parameters are as large as {largest:.2g}" if largest > _LARGE_WEIGHT else None


def is_of_numbers(error: Exception) -> bool:
    """Whether an error of the forward pass comes of predictions that are not finite: so do the
    assertions of box losses ("bad box") and of detectron2's Boxes ("NaN")."""
    return isinstance(error, FloatingPointError) or any(
        sign in str(error) for sign in ("bad box", "NaN")
    )


class SkippedSteps:
    """The file of skipped steps: a line of JSON for each rank that met a number not finite."""

    def __init__(self, output_dir: str | Path):
        self.path = Path(output_dir, SKIPPED_STEPS)

    def forget(self, start_iter: int) -> None:
        """Drop the steps that are about to run again, or that were another run's."""
        if self.path.is_file():
            lines = self.path.read_text(encoding="utf-8").splitlines()
            kept = [line for line in lines if json.loads(line)["iteration"] < start_iter]
            self.path.write_text("".join(f"{line}\n" for line in kept), encoding="utf-8")

    def add(self, faults: Iterable[Fault]) -> None:
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with open(self.path, "a", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(asdict(fault))}\n" for fault in faults)


def explain(
    faults: Sequence[Fault],
    totals: Sequence[float],
    *,
    precision: torch.dtype,
    lr: float | None,
    path: Path,
) -> str:
    """Why a run stops.

    Args:
        faults: of the steps in a row that were not finite, of all ranks.
        totals: the last total losses that were finite, in order.
        precision: of the training.
        lr: the setting ``optimizer.lr``.
        path: of the file that has all faults.
    """
    first, last = faults[0].iteration, faults[-1].iteration
    ids = list(dict.fromkeys(str(i) for fault in faults for i in fault.image_ids))
    more = ", ..." if len(ids) > _SHOWN else ""
    met = f"{faults[-1].what} (pictures {', '.join(ids[:_SHOWN])}{more}; all in {path})"
    steps = f"step {first}" if first == last else f"steps {first} to {last}"
    lower = f"lower optimizer.lr (now {lr})"
    if bad := next((fault.bad_inputs for fault in faults if fault.bad_inputs), None):
        fix = "mend the data: scripts/check_dataset.py lists bad boxes, and stores can be made anew"
        return f"training stopped at {steps}: not finite in the data: {bad[0]}; {met}; {fix}"
    why = faults[-1].bad_weights or _growth(totals)
    in_half = precision is torch.float16
    if totals and not in_half:
        why = why or "earlier steps were finite, and now those of no batch are"
    if why:
        return f"training diverged at step {first}: {why}; {met}; {lower}"
    if in_half:
        fix = "train.amp.dtype=bfloat16 where it can be computed, else train.amp.enabled=False"
        return f"training stopped at {steps}: {met}; float16 ends at 65504: try {fix}, or {lower}"
    fix = f"check the weights that it starts from (train.init_checkpoint), and {lower}"
    return f"training stopped at {steps}: no step has been finite: {met}; {fix}"


def _growth(totals: Sequence[float]) -> str | None:
    """That the loss had grown, if it had."""
    if len(totals) <= _LAST:
        lowest, at_last = min(totals, default=0.0), max(totals, default=0.0)
    else:
        lowest, at_last = min(totals), median(totals[-_LAST:])
    if lowest > 0 and at_last > _GROWTH * lowest:
        return f"the total loss had grown from {lowest:.3g} to {at_last:.3g}"
    return None
