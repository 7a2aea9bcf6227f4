"""Weights between two checkpoints of one model: before and after fine-tuning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gridclip import clip_weights
from gridclip.files import replacing

from .checkpoint import difference

_PARTS = ("model", "ema")


def interpolate_weights(before: Path, after: Path, alpha: float, output: Path) -> None:
    """Write a checkpoint whose weights are (1 - alpha) * before + alpha * after.

    This is WiSE-FT (Wortsman et al., "Robust fine-tuning of zero-shot models", arXiv 2109.01903).
    At 0 and 1 the weights are exactly those of one file. Averaged weights (``train.ema``) are
    interpolated, too. Counts, which are integers, are those of the nearer file.

    Raises:
        FileNotFoundError: a file is missing.
        ValueError: alpha is not in [0, 1]; a file is no checkpoint; or the two are not of one
            model: names, shapes or types of tensors differ.
    """
    if not 0 <= alpha <= 1:
        raise ValueError(f"alpha is {alpha}: it goes from 0, before, to 1, after.")
    first, second = (_parts(clip_weights.clip_file(path)) for path in (before, after))
    _check_same(first, second, before, after)
    mixed = {
        part: {name: _between(x, second[part][name], alpha) for name, x in tensors.items()}
        for part, tensors in first.items()
    }
    with replacing(output) as partial:
        torch.save(mixed, partial)


def _between(before: Tensor, after: Tensor, alpha: float) -> Tensor:
    if before.is_floating_point():
        return torch.lerp(before, after, alpha)
    return before if alpha < 0.5 else after


def _parts(path: Path) -> dict[str, dict[str, Tensor]]:
    """A detector's weights and, where there are any, its averaged weights."""
    loaded: Any = clip_weights.read_weights(path)
    if not isinstance(loaded, Mapping) or "model" not in loaded:
        loaded = {"model": loaded}
    return {p: clip_weights.bare_state_dict(loaded[p], path) for p in _PARTS if p in loaded}


def _check_same(first: dict, second: dict, before: Path, after: Path) -> None:
    """Raise ValueError with the first difference."""
    a, b = (
        {f"{part}.{k}": f"{tuple(t.shape)} {t.dtype}" for part in x for k, t in x[part].items()}
        for x in (first, second)
    )
    if differing := difference(a, b):
        count, key, has, other = differing
        raise ValueError(
            f"{before} and {after} are not of one model: {count} of the tensors differ; for {key} "
            f"the first has {has}, the second {other}. Give a detector's weights, and the weights "
            "of a fine-tuning that started from them."
        )
