"""The whole comparison of detectors: who takes part, what is measured, the record of it."""

import argparse
import copy
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from torch import nn

from benchmark import lvis_evaluation, ratios, teacher_passes
from benchmark.arithmetic import count_arithmetic
from benchmark.contestants import (
    Contestant,
    fcos_like,
    from_config,
    load_config,
    lvis_faster_rcnn,
    post_processing,
    random_text_embeddings,
    torchvision_fcos,
)
from benchmark.cost import training_costs
from benchmark.environment import environment
from benchmark.inference import InferenceRuns, measure_inference
from benchmark.inputs import REGIONS, inference_batches, random_pictures, read_pictures
from benchmark.memory import measure_memory
from benchmark.random_weights import calibrate_scores
from benchmark.training import TrainingStep, autocast, measure_training
from gridclip.modeling import optimize_for_inference

CONFIGS = Path(__file__).resolve().parents[1] / "configs/lvis"
ONE_X = CONFIGS / "gridclip_r50_ov_1x.py"
CONTESTANTS = [
    Contestant("gridclip", "GridCLIP R50", from_config, ONE_X),
    Contestant(
        "gridclip_light",
        "GridCLIP R50, light towers",
        from_config,
        CONFIGS / "gridclip_r50_ov_light_1x.py",
    ),
    Contestant("vild", "ViLD R50", from_config, CONFIGS / "vild_r50_ov.py"),
    Contestant("vild_ensemble", "ViLD-ensemble R50", from_config, CONFIGS / "vild_ens_r50_ov.py"),
    Contestant("fcos", "FCOS, same backbone and towers", fcos_like, ONE_X),
    Contestant("faster_rcnn", "LVIS Faster R-CNN R50", lvis_faster_rcnn),
    Contestant("torchvision_fcos", "torchvision FCOS R50, 91 classes", torchvision_fcos),
]
QUICK_LEAVES_OUT = ("gridclip_light", "torchvision_fcos")
# Whose step each schedule repeats. The first is what the others are compared with.
SCHEDULES = {
    "gridclip_1x": ("gridclip", ONE_X),
    "gridclip_2x": ("gridclip", CONFIGS / "gridclip_r50_ov_2x.py"),
    "vild_official": ("vild", CONFIGS / "vild_r50_ov.py"),
    "vild_20_epochs": ("vild", CONFIGS / "vild_r50_ov_20ep.py"),
}
LARGE_VOCABULARY = 21_841  # ImageNet-21k's
LVIS_IMAGES = 2000  # of the evaluators' job
# Options of inference whose effect on GridCLIP is measured beside the plain one.
INFERENCE_OPTIONS = {
    "bfloat16": dict(dtype=torch.bfloat16),
    "float16": dict(dtype=torch.float16),
    "compiled": dict(compile=True),
}


def choose_contestants(args: argparse.Namespace) -> tuple[list[Contestant], dict]:
    """Who is compared, and the schedules of their trainings."""
    if not args.config_file:
        left_out = QUICK_LEAVES_OUT if args.quick else ()
        return [c for c in CONTESTANTS if c.key not in left_out], SCHEDULES
    weights = args.weights or [None] * len(args.config_file)
    chosen = [
        Contestant(path.stem, path.stem, from_config, path, checkpoint)
        for path, checkpoint in zip(args.config_file, weights, strict=True)
    ]
    return chosen, {c.key: (c.key, c.config) for c in chosen}


def compare(args: argparse.Namespace) -> dict:
    """The record that is written as JSON."""
    contestants, schedules = choose_contestants(args)
    height, width = args.size
    pictures = (
        read_pictures(args.image_dir, height, width)
        if args.image_dir
        else random_pictures(4, height, width)
    )
    batches = inference_batches(pictures, args.batch_size)
    to_train = in_memory = [c for c in contestants if c.config is not None]
    if args.quick and not args.config_file:
        to_train = [c for c in to_train if c.key != "vild_ensemble"]
        in_memory = [c for c in to_train if c.key != "vild"]
    if args.dtype != "float32":  # in which alone detectron2's FCOS can train
        to_train, in_memory = (
            [c for c in part if c.factory is not fcos_like] for part in (to_train, in_memory)
        )
    training_pictures = [x["image"] for x in batches[0]]
    record = {
        "setup": {
            "size": [height, width],
            "pictures": str(args.image_dir or "random"),
            **{k: getattr(args, k) for k in ("batch_size", "runs", "dtype", "compile", "quick")},
            **environment(args.device),
        },
        "memory": measure_memory(in_memory, training_pictures, args.device, args.dtype),
    }
    models = {c.key: c.build(batches[0], args.device) for c in contestants}
    record["contestants"] = {c.key: describe(c, models[c.key]) for c in contestants}
    record["arithmetic"] = {k: count_arithmetic(m, batches[0][0]) for k, m in models.items()}
    record["inference"] = run_inference(args, contestants, models, batches)
    record["training"] = run_training(args, to_train, models, training_pictures)
    record["teacher_passes"] = measure_teacher(to_train[0].config, args)
    record["training_cost"] = training_costs(
        schedules, record["training"], record["teacher_passes"]["per_image"]
    )
    record["lvis_evaluation"] = None
    if args.config_file:
        names = ratios.over_first([c.key for c in contestants])
        record["ratios"] = {name: ratios.evaluate(record, ratio) for name, ratio in names.items()}
    else:
        if not args.quick:
            record["lvis_evaluation"] = lvis_evaluation.measure(LVIS_IMAGES)
        names = ratios.DEFAULT
        record["ratios"] = ratios.default_ratios(record)
    record["arithmetic_ratios"] = ratios.arithmetic_ratios(record, names)
    return record


def describe(contestant: Contestant, model: nn.Module) -> dict:
    """What the figures of a detector depend on."""
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


def run_inference(
    args: argparse.Namespace,
    contestants: list[Contestant],
    models: dict[str, nn.Module],
    batches: list[list[dict]],
) -> dict[str, dict]:
    titles = {c.key: c.title for c in contestants}
    chosen = dict(models)
    options = dict.fromkeys(models, dict(dtype=getattr(torch, args.dtype), compile=args.compile))
    if not args.config_file:
        chosen["gridclip_21k"] = with_large_vocabulary(models["gridclip"], batches[0])
        options["gridclip_21k"] = options["gridclip"]
        titles["gridclip_21k"] = f"GridCLIP R50, {LARGE_VOCABULARY:,} categories"
        for name, option in ({} if args.quick else INFERENCE_OPTIONS).items():
            chosen[f"gridclip_{name}"] = models["gridclip"]
            options[f"gridclip_{name}"] = options["gridclip"] | option
            titles[f"gridclip_{name}"] = f"GridCLIP R50, {name}"
    thresholds = [
        settings["test_score_thresh"]
        for c in contestants
        if c.config and (settings := post_processing(models[c.key]))
    ]
    runs = {
        key: InferenceRuns(
            optimize_for_inference(model, **options[key]), args.device, max(thresholds)
        )
        for key, model in chosen.items()
    }
    measure_inference(runs, batches, args.runs)
    return {key: {"title": titles[key], **run.summary()} for key, run in runs.items()}


def with_large_vocabulary(gridclip: nn.Module, inputs: list[dict]) -> nn.Module:
    model = copy.deepcopy(gridclip)
    model.set_vocabulary(random_text_embeddings(LARGE_VOCABULARY, model.classifier.embed_dim))
    calibrate_scores(model, inputs)
    return model


def run_training(
    args: argparse.Namespace,
    contestants: list[Contestant],
    models: dict[str, nn.Module],
    pictures: list[torch.Tensor],
) -> dict[str, dict]:
    amp = autocast(args.device, args.dtype)
    steps = {c.key: TrainingStep(models[c.key], c.config, pictures, amp) for c in contestants}
    gridclip = "gridclip" if "gridclip" in steps else None
    return measure_training(steps, max(1, args.runs // 2), args.device, image_level_of=gridclip)


def measure_teacher(config: Path, args: argparse.Namespace) -> dict:
    """Seconds a picture of the teacher's passes; its weights do not matter, its sizes do."""
    clip = LazyConfig.load(str(config)).clip.weights
    source = f"random-{clip}" if clip.startswith("clip://") else clip
    regions = 8 if args.quick else 64
    record = teacher_passes.measure(source, args.device, 1, regions)
    record["per_image"] = {
        name: {"seconds": measured["seconds"] * (REGIONS / regions if name == "regions" else 1)}
        for name, measured in record["per_image"].items()
    }
    return {**record, "regions_measured": regions, "regions": REGIONS}
