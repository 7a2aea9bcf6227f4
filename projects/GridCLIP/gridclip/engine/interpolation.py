"""Weights between two checkpoints of one model: before and after fine-tuning."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from gridclip import clip_weights
from gridclip.files import replacing

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
    mixed: dict[str, dict[str, Tensor]] = {part: {} for part in first}
    for (part, name), tensor in _flat(first).items():
        mixed[part][name] = _between(tensor, second[part][name], alpha)
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


def _flat(parts: dict[str, dict[str, Tensor]]) -> dict[tuple[str, str], Tensor]:
    return {(part, name): t for part, tensors in parts.items() for name, t in tensors.items()}


def _check_same(first: dict, second: dict, before: Path, after: Path) -> None:
    """Raise ValueError with the first difference."""
    a, b = (
        {key: f"{tuple(t.shape)} {t.dtype}" for key, t in _flat(parts).items()}
        for parts in (first, second)
    )
    if differing := [key for key in a | b if a.get(key) != b.get(key)]:
        has, other = (x.get(differing[0], "nothing") for x in (a, b))
        raise ValueError(
            f"{before} and {after} are not of one model: {len(differing)} of the tensors differ; "
            f"for {'.'.join(differing[0])} the first has {has}, the second {other}. Give a "
            "detector's weights, and the weights of a fine-tuning that started from them."
        )
