#!/usr/bin/env python
"""Compare detectors in inference and training: time by stage, memory, arithmetic, cost in all.

    python scripts/compare_speed.py --json speed.json
    python scripts/compare_speed.py --quick --json speed.json
    python scripts/compare_speed.py --config-file A.py B.py --weights A.pth B.pth --json speed.json

By default GridCLIP R50 is compared with ViLD and ViLD-ensemble, with detectron2's FCOS of as many
closed-set classes on the same backbone and towers, detectron2's LVIS Faster R-CNN R50 and
torchvision's FCOS; GridCLIP also in half precision, compiled, and with ImageNet-21k's 21,841 names.
All see the same pictures by turns, with the same batch size, precision, device and threads. The
JSON has the ratios and all that they follow from; a picture of the stages is written beside it.

Two post-processings: *official*, each detector's own, and *matched*, in which ViLD has GridCLIP's
score threshold; about as many pairs then go to NMS in both.

Without checkpoints weights are random and calibrated: norms to the pictures, and biases so that as
many pairs pass the score threshold in every detector. Times of NMS depend on that.

--quick: small pictures and few runs, in minutes on two cores. Its ratios are not those of
800 x 1333: the cost of proposals does not shrink with the picture.
"""

import argparse
import copy
from pathlib import Path

import torch
from detectron2.config import LazyConfig
from torch import nn

import measure_lvis_evaluation
import measure_teacher_passes
from gridclip.benchmark import ratios, report
from gridclip.benchmark.arithmetic import count_arithmetic
from gridclip.benchmark.contestants import (
    Contestant,
    fcos_like,
    from_config,
    load_config,
    lvis_faster_rcnn,
    post_processing,
    random_text_embeddings,
    torchvision_fcos,
)
from gridclip.benchmark.cost import training_costs
from gridclip.benchmark.environment import environment
from gridclip.benchmark.inference import InferenceRuns, measure_inference
from gridclip.benchmark.inputs import REGIONS, inference_batches, random_pictures, read_pictures
from gridclip.benchmark.memory import measure_memory
from gridclip.benchmark.random_weights import calibrate_scores
from gridclip.benchmark.training import TrainingStep, autocast, measure_training
from gridclip.files import write_json
from gridclip.modeling import optimize_for_inference

CONFIGS = Path(__file__).resolve().parents[1] / "projects/GridCLIP/configs/lvis"
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
            record["lvis_evaluation"] = measure_lvis_evaluation.measure(LVIS_IMAGES)
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
    record = measure_teacher_passes.measure(source, args.device, 1, regions)
    record["per_image"] = {
        name: {"seconds": measured["seconds"] * (REGIONS / regions if name == "regions" else 1)}
        for name, measured in record["per_image"].items()
    }
    return {**record, "regions_measured": regions, "regions": REGIONS}


def parse_args(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", type=Path, nargs="+", metavar="C", help="compare these, at least two")
    add("--weights", nargs="+", metavar="W", help="checkpoints of --config-file, in its order")
    add("--image-dir", type=Path, metavar="DIR", help="pictures; else random ones")
    add("--size", type=int, nargs=2, metavar=("H", "W"), help="of a picture (800 1333)")
    add("--batch-size", type=int, default=1, metavar="N")
    add("--runs", type=int, metavar="N", help="counted ones (10); of training half as many")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    add("--dtype", default="float32", choices=["float32", "bfloat16", "float16"])
    add("--compile", action="store_true", help="torch.compile in inference")
    add("--threads", type=int, metavar="N", help="of PyTorch's operators")
    add("--quick", action="store_true", help="smaller, in minutes")
    add("--json", type=Path, required=True, metavar="FILE")
    args = parser.parse_args(argv)
    configs = args.config_file or []
    if missing := [path for path in configs if not path.is_file()]:
        parser.error(f"--config-file: there is no {missing[0]}")
    if len(configs) == 1 or len({path.stem for path in configs}) < len(configs):
        parser.error("--config-file: give at least two, of different names")
    if args.weights and len(args.weights) != len(configs):
        parser.error("--weights: give one for each of --config-file")
    args.size = args.size or ((256, 416) if args.quick else (800, 1333))
    args.runs = args.runs or (2 if args.quick else 10)
    return args


def main(argv: list[str] | None = None) -> None:
    args = parse_args(argv)
    if args.threads:
        torch.set_num_threads(args.threads)
    record = compare(args)
    write_json(args.json, record, indent=1)
    report.draw(record, args.json.with_suffix(".png"))
    print(report.tables(record))
    print(f"\n{args.json}, {args.json.with_suffix('.png')}")


if __name__ == "__main__":
    main()
