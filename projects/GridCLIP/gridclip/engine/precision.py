"""The type that a detector computes in at inference, as ``train.inference.dtype`` says."""

import logging
import math
import statistics
import time

import torch
from detectron2.config import instantiate
from detectron2.data import transforms as T
from detectron2.utils import comm
from omegaconf import DictConfig
from torch import Tensor

from gridclip.modeling import GridCLIP, optimize_for_inference, set_precision
from gridclip.pictures import coloured_blocks
from gridclip.vild import ViLD

Detector = GridCLIP | ViLD

DTYPES = ("float32", "bfloat16", "float16")
# Of the 100 best scores of a picture. On the laptop world's development data bfloat16 moves scores
# by up to 0.009, and AP by 0.01.
TOLERANCE = 0.02
_COMPARED = 100
_RUNS = 3
_GAIN = 0.9  # of float32's time: what takes longer gains too little to give up exactness

logger = logging.getLogger("detectron2.gridclip")


def build_inference_model(cfg: DictConfig, model: Detector) -> Detector:
    """A copy of a model that is faster, as ``train.inference`` says. Raises ValueError if
    ``train.inference.dtype`` is not a type for inference."""
    fast = optimize_for_inference(model, compile=cfg.train.inference.compile)
    use_configured_precision(cfg, fast)
    return fast


def use_configured_precision(cfg: DictConfig, fast: Detector) -> torch.dtype:
    """Let a model of ``optimize_for_inference`` compute in ``train.inference.dtype``, which is
    returned; of "auto" see :func:`fastest_dtype`. Raises ValueError if it is no such type."""
    name = cfg.train.inference.dtype
    if name not in ("auto", *DTYPES):
        raise ValueError(
            f"train.inference.dtype is '{name}': take one of {', '.join(DTYPES)}, or auto, which "
            "times them."
        )
    if name == "auto":
        augmentations = instantiate(cfg.dataloader.test.mapper.augmentations)
        name = fastest_dtype(fast, _picture(T.AugmentationList(augmentations)))
    dtype = getattr(torch, name)
    set_precision(fast, dtype)
    return dtype


def fastest_dtype(fast: Detector, picture: Tensor) -> str:
    """Of the types that move no score by more than ``TOLERANCE`` the one that takes the least time
    on this machine: the first rank's choice, on all ranks.

    Args:
        fast: in float32, of ``optimize_for_inference``.
        picture: (3, H, W) uint8.
    """
    on_gpu = fast.device.type == "cuda"
    names = DTYPES if on_gpu else DTYPES[:2]  # CPUs only emulate float16
    seconds: dict[str, list[float]] = {name: [] for name in names}
    scores: dict[str, Tensor] = {}
    for _ in range(1 + _RUNS):
        for name in names:
            set_precision(fast, getattr(torch, name))
            start = time.perf_counter()
            (found,) = fast([{"image": picture}])
            if on_gpu:
                torch.cuda.synchronize()
            seconds[name].append(time.perf_counter() - start)
            scores[name] = found["instances"].scores[:_COMPARED].float()
    chosen, report = "float32", []
    # The first run warms up.
    medians = {name: statistics.median(times[1:]) for name, times in seconds.items()}
    for name in names:
        difference = _difference(scores["float32"], scores[name])
        report.append(f"{name} {medians[name]:.3g} s, scores move by {difference:.2g}")
        gains = medians[name] < min(medians[chosen], _GAIN * medians["float32"])
        if gains and difference <= TOLERANCE:
            chosen = name
    chosen = comm.all_gather(chosen)[0]
    logger.info(f"train.inference.dtype=auto takes {chosen}: {'; '.join(report)}")
    return chosen


def _difference(scores: Tensor, others: Tensor) -> float:
    """The largest between scores of the same rank; infinite for nan."""
    count = min(len(scores), len(others))
    if not count:
        return 0.0 if len(scores) == len(others) else math.inf
    largest = float((scores[:count] - others[:count]).abs().max())
    return math.inf if math.isnan(largest) else largest


def _picture(resize: T.AugmentationList) -> Tensor:
    """(3, H, W) uint8, of the size that pictures have in evaluation."""
    picture = T.AugInput(coloured_blocks(480, 640)[0])
    resize(picture)
    return torch.from_numpy(picture.image.copy()).permute(2, 0, 1).contiguous()
