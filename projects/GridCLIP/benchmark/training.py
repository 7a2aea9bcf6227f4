"""Seconds an image of training steps. The detectors take turns: a run goes through all of them."""

import functools
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
import torch.nn.functional as F
from detectron2.utils.events import EventStorage
from torch import Tensor, nn
from tqdm import tqdm

from gridclip.engine.train import build_optimizer
from gridclip.engine.trainer import clip_gradients

from .contestants import load_config
from .inference import median_ratio
from .inputs import training_batch
from .stages import StageClock

PARTS = ("forward", "backward", "optimizer")


class TrainingStep:
    """One step as ``train_net.py`` takes it: forward, backward and the config's optimizer."""

    def __init__(self, model: nn.Module, config: Path, pictures: list[Tensor], amp: Callable):
        """
        Args:
            config: sets the optimizer and the windows.
            pictures: (3, H, W) uint8, the batch; its boxes and embeddings are random.
            amp: makes the autocast context of the losses.
        """
        cfg = load_config(config)
        self.model, self.amp = model.train(), amp
        self.batch = training_batch(model, pictures, cfg.clip.get("windows") or "whole")
        cfg.optimizer.lr = 0.0  # so that all runs are alike and none diverges
        self.optimizer = build_optimizer(cfg, model)
        self.clip_grad_norm = cfg.train.clip_grad_norm
        self.losses = {}

    def __call__(self, clock: StageClock) -> None:
        with clock.stage("forward"), EventStorage(), self.amp():
            self.losses = self.model(self.batch)
        with clock.stage("backward"):
            sum(self.losses.values()).backward()
        with clock.stage("optimizer"):
            if self.clip_grad_norm:
                clip_gradients(self.optimizer, self.clip_grad_norm)
            self.optimizer.step()
            self.optimizer.zero_grad()
        self.losses = {name: loss.detach() for name, loss in self.losses.items()}


class ImageLevelTerm:
    """GridCLIP's image-level loss alone, forward and backward.

    It starts from computed features, and its gradient ends at them, because from there the
    backward pass is part of a step without this loss, too.
    """

    def __init__(self, model: nn.Module, batch: list[dict]):
        self.model = model
        with torch.no_grad():
            images = model.preprocess_image(batch)
            features = model.backbone(images.tensor)
            levels = [features[name] for name in model.head_in_features]
            grid_features = torch.cat(model.head(levels)[0], dim=1)
            anchors = model.anchor_generator(levels)
        for feature in (*features.values(), grid_features):
            feature.requires_grad_()
        self.inputs = images, features, grid_features, anchors, batch

    def __call__(self, clock: StageClock) -> None:
        with clock.stage("forward"):
            self.model.image_alignment_loss(*self.inputs).backward()


class TeacherPass:
    """What a step would do without the embedding store: encode every window by CLIP.

    The backbone stands for CLIP's image encoder, which is the same network.
    """

    def __init__(self, model: nn.Module, batch: list[dict]):
        self.encoder, self.device = model.backbone.bottom_up, model.device
        self.side = round((len(self.encoder.attnpool.positional_embedding) - 1) ** 0.5) * 32
        self.images = [x["image"] for x in batch for _ in x["image_windows"]]

    @torch.no_grad()
    def __call__(self, clock: StageClock) -> None:
        size = (self.side, self.side)
        with clock.stage("forward"):
            squares = [
                F.interpolate(x[None].float(), size, mode="bicubic", antialias=True)
                for x in self.images
            ]
            squares = torch.cat(squares).to(self.device)
            self.encoder.image_embedding(self.encoder(squares)["res5"])


def measure_training(
    steps: dict[str, TrainingStep],
    runs: int,
    device: str,
    *,
    image_level_of: str | None = None,
) -> dict:
    """By detector, the median seconds an image of the parts and of the whole "step", and all runs.

    Args:
        steps: by detector; all have the same batch size.
        runs: counted runs, after one of warm-up.
        image_level_of: the detector whose image-level term is measured too.
    """
    measured, batch_size = dict(steps), len(next(iter(steps.values())).batch)
    if image_level_of is not None:
        step = steps[image_level_of]
        measured["image_level_term"] = ImageLevelTerm(step.model, step.batch)
        measured["teacher_pass"] = TeacherPass(step.model, step.batch)
    clocks = {key: [] for key in measured}
    for run in tqdm(range(runs + 1), desc="training", unit="round"):
        for key, part in measured.items():
            clock = StageClock(device)
            part(clock)
            if run:
                clocks[key].append(clock)
    seconds = {key: [c.seconds.total() / batch_size for c in clocks[key]] for key in measured}
    record = {}
    for key in steps:
        parts = {p: median(clock.seconds[p] for clock in clocks[key]) / batch_size for p in PARTS}
        record[key] = {**parts, "step": median(seconds[key]), "seconds": seconds[key]}
    if image_level_of is not None:
        record[image_level_of]["image_level_term"] = image_level_term(seconds, image_level_of)
    return record


def image_level_term(seconds: dict[str, list[float]], key: str) -> dict:
    """The share that the term adds to a step without it.

    The teacher's embeddings come from the store, or from the teacher in the training loop.
    """
    term, teacher = seconds["image_level_term"], seconds["teacher_pass"]
    rest = [step - part for step, part in zip(seconds[key], term, strict=True)]
    in_the_loop = [a + b for a, b in zip(term, teacher, strict=True)]
    return {
        "seconds": median(term),
        "teacher_seconds": median(teacher),
        "added_by_store": median_ratio(term, rest),
        "added_by_teacher_in_the_loop": median_ratio(in_the_loop, rest),
    }


def autocast(device: str, dtype: str) -> Callable:
    """A function that makes autocast contexts of a precision; float32 turns autocast off."""
    kind = torch.device(device).type
    lower = dtype != "float32"
    return functools.partial(torch.autocast, kind, getattr(torch, dtype), enabled=lower)
