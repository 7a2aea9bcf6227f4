"""The whole comparison of detectors: what is measured, in order, and the record of it."""

import copy
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from detectron2.config import LazyConfig
from torch import Tensor, nn

from gridclip.modeling import optimize_for_inference

from . import lvis_evaluation, ratios, teacher_passes
from .arithmetic import count_arithmetic
from .contestants import Contestant, load_config, post_processing, random_text_embeddings
from .cost import training_costs
from .environment import environment
from .inference import InferenceRuns, measure_inference
from .inputs import REGIONS, inference_batches, random_pictures, read_pictures
from .memory import measure_memory
from .random_weights import calibrate_scores
from .roster import default_roster, roster_of
from .training import TrainingStep, autocast, measure_training

# ViLD's own is 0, and GridCLIP's too, which suppresses 1000 pairs of each level at most. With this
# one about as many of ViLD's go to NMS.
MATCHED_THRESHOLD = 0.01
LARGE_VOCABULARY = 21_841  # categories of ImageNet-21k
LVIS_IMAGES = 2000  # in the comparison of the evaluators
# Each is measured on GridCLIP beside plain inference.
INFERENCE_OPTIONS = {
    "bfloat16": dict(dtype=torch.bfloat16),
    "float16": dict(dtype=torch.float16),
    "compiled": dict(compile=True),
}


@dataclass(frozen=True)
class Settings:
    """What to compare, and how.

    Attributes:
        configs: the detectors; empty: the default ones.
        weights: a checkpoint for each config; None: random weights.
        image_dir: a folder of pictures; None: random pictures.
        size: height and width of a picture in pixels.
        batch_size: pictures in a batch, in inference and in training.
        runs: counted runs of inference; of training there are half as many.
        device, dtype: as torch names them, for instance "cpu" and "float32".
        compile: use torch.compile in inference.
        quick: compare fewer detectors and measure less.
    """

    configs: list[Path]
    weights: list[str] | None
    image_dir: Path | None
    size: tuple[int, int]
    batch_size: int
    runs: int
    device: str
    dtype: str
    compile: bool
    quick: bool


def compare(settings: Settings) -> dict:
    """Measure everything; returns the record that is written as JSON."""
    if settings.configs:
        chosen = roster_of(settings.configs, settings.weights, settings.dtype)
    else:
        chosen = default_roster(settings.dtype, settings.quick)
    contestants = chosen.contestants
    pictures = (
        read_pictures(settings.image_dir, *settings.size)
        if settings.image_dir
        else random_pictures(4, *settings.size)
    )
    batches = inference_batches(pictures, settings.batch_size)
    training_pictures = [x["image"] for x in batches[0]]
    record = {
        "setup": describe_setup(settings),
        "memory": measure_memory(
            chosen.in_memory, training_pictures, settings.device, settings.dtype
        ),
    }
    models = {c.key: c.build(batches[0], settings.device) for c in contestants}
    record["contestants"] = {c.key: describe(c, models[c.key]) for c in contestants}
    record["arithmetic"] = {k: count_arithmetic(m, batches[0][0]) for k, m in models.items()}
    record["inference"] = run_inference(settings, contestants, models, batches)
    record["training"] = run_training(settings, chosen.to_train, models, training_pictures)
    record["teacher_passes"] = measure_teacher(chosen.to_train[0].config, settings)
    record["training_cost"] = training_costs(
        chosen.schedules, record["training"], record["teacher_passes"]["per_image"]
    )
    record["lvis_evaluation"] = None
    if settings.configs:
        names = ratios.over_first([c.key for c in contestants])
        record["ratios"] = {name: ratios.evaluate(record, ratio) for name, ratio in names.items()}
    else:
        if not settings.quick:
            record["lvis_evaluation"] = lvis_evaluation.measure(LVIS_IMAGES)
        names = ratios.DEFAULT
        record["ratios"] = ratios.default_ratios(record)
    record["arithmetic_ratios"] = ratios.arithmetic_ratios(record, names)
    return record


def describe_setup(settings: Settings) -> dict:
    return {
        "size": list(settings.size),
        "pictures": str(settings.image_dir or "random"),
        "batch_size": settings.batch_size,
        "runs": settings.runs,
        "dtype": settings.dtype,
        "compile": settings.compile,
        "quick": settings.quick,
        **environment(settings.device),
    }


def describe(contestant: Contestant, model: nn.Module) -> dict:
    """The facts that a detector's figures depend on."""
    facts = {
        "title": contestant.title,
        "weights": contestant.weights or "random, calibrated",
        "post_processing": post_processing(model),
    }
    if contestant.config is not None:
        facts["config"] = contestant.config.name
        file = Path(load_config(contestant.config).model.classifier.text_embeddings)
        facts["text_embeddings"] = file.name if file.is_file() else "random"
    return facts


class Variant(NamedTuple):
    """A model and the options of ``optimize_for_inference`` that it runs with."""

    title: str
    model: nn.Module
    options: dict


def inference_variants(
    settings: Settings,
    contestants: list[Contestant],
    models: dict[str, nn.Module],
    inputs: list[dict],
) -> dict[str, Variant]:
    """All detectors; in the default comparison also GridCLIP with more categories and options."""
    plain = {"dtype": getattr(torch, settings.dtype), "compile": settings.compile}
    variants = {c.key: Variant(c.title, models[c.key], plain) for c in contestants}
    if settings.configs:
        return variants
    gridclip = models["gridclip"]
    title = f"GridCLIP R50, {LARGE_VOCABULARY:,} categories"
    variants["gridclip_21k"] = Variant(title, with_large_vocabulary(gridclip, inputs), plain)
    if not settings.quick:
        for name, option in INFERENCE_OPTIONS.items():
            variant = Variant(f"GridCLIP R50, {name}", gridclip, plain | option)
            variants[f"gridclip_{name}"] = variant
    return variants


def with_large_vocabulary(gridclip: nn.Module, inputs: list[dict]) -> nn.Module:
    """A copy with ``LARGE_VOCABULARY`` random categories, calibrated to ``inputs``."""
    model = copy.deepcopy(gridclip)
    model.set_vocabulary(random_text_embeddings(LARGE_VOCABULARY, model.classifier.embed_dim))
    calibrate_scores(model, inputs)
    return model


def run_inference(
    settings: Settings,
    contestants: list[Contestant],
    models: dict[str, nn.Module],
    batches: list[list[dict]],
) -> dict[str, dict]:
    variants = inference_variants(settings, contestants, models, batches[0])
    runs = {
        key: InferenceRuns(
            optimize_for_inference(variant.model, **variant.options),
            settings.device,
            MATCHED_THRESHOLD,
        )
        for key, variant in variants.items()
    }
    measure_inference(runs, batches, settings.runs)
    return {key: {"title": variants[key].title, **run.summary()} for key, run in runs.items()}


def run_training(
    settings: Settings,
    contestants: list[Contestant],
    models: dict[str, nn.Module],
    pictures: list[Tensor],
) -> dict[str, dict]:
    amp = autocast(settings.device, settings.dtype)
    steps = {c.key: TrainingStep(models[c.key], c.config, pictures, amp) for c in contestants}
    gridclip = "gridclip" if "gridclip" in steps else None
    runs = max(1, settings.runs // 2)
    return measure_training(steps, runs, settings.device, image_level_of=gridclip)


def measure_teacher(config: Path, settings: Settings) -> dict:
    """Seconds that the teacher's passes take for one picture.

    Its sizes are those of the config; its weights may be random, as time does not depend on them.
    Fewer regions than ``REGIONS`` are measured and extrapolated.
    """
    clip = LazyConfig.load(str(config)).clip.weights
    source = f"random-{clip}" if clip.startswith("clip://") else clip
    regions = 8 if settings.quick else 64
    record = teacher_passes.measure(source, settings.device, 1, regions)
    record["per_image"] = {
        name: {"seconds": measured["seconds"] * (REGIONS / regions if name == "regions" else 1)}
        for name, measured in record["per_image"].items()
    }
    return {**record, "regions_measured": regions, "regions": REGIONS}
