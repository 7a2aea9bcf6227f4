#!/usr/bin/env python
"""GridCLIP in minutes on two CPU cores: data, training, evaluation, pictures and a report.

    python -m laptop_world.demo
    python -m laptop_world.demo --words "red star, green fish"

writes OUTPUT/report.html, a page that stands alone, OUTPUT/results.json, and the detector,
OUTPUT/detector.safetensors. Stages that are complete are left out, and after an interruption the
same command goes on.

The stages are a plain sequence: they are a straight line, most of them share this process, and as
jobs of Snakemake, each with imports of its own, they took half a minute longer.
"""

import argparse
import json
import os
import shutil
import sys
import time
import traceback
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from detectron2.config import instantiate
from omegaconf import DictConfig
from tqdm import tqdm

from gridclip.data import all_records
from gridclip.engine.prepare import prepare_embeddings, prepare_text_embeddings
from gridclip.evaluation import draw_detections, read_results
from gridclip.evaluation.results import nan_to_none
from gridclip.files import sha256_of_file, write_json
from gridclip.predictor import Predictor
from gridclip.settings import load_config
from laptop_world import demo_page
from laptop_world.command import Tail, locked, run_logged
from laptop_world.demo_words import search_pictures
from laptop_world.duration import duration
from laptop_world.identity import run_identity
from laptop_world.losses import plot_losses
from laptop_world.record import ChangedError, TaskRecord

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "projects/GridCLIP/configs/laptop/gridclip.py"
WORDS = "fish, green moon, checkered star"
PICTURES_PER_AXIS = 3


@dataclass(frozen=True)
class Demo:
    """What is asked for, and where it goes."""

    output: Path
    words: tuple[str, ...]
    train_pictures: int
    val_pictures: int
    size: int
    iterations: int
    overrides: tuple[str, ...]
    world: str = "test"

    @property
    def run(self) -> Path:
        return self.output / "run"

    @property
    def detector(self) -> Path:
        return self.output / "detector.safetensors"

    @property
    def datasets(self) -> Path:
        return self.output / "datasets"

    @cached_property
    def config_overrides(self) -> list[str]:
        return [
            f"train.max_iter={self.iterations}",
            f"lr_multiplier.warmup_length={min(1.0, 50 / self.iterations)}",
            "train.checkpointer.period=50",
            *self.overrides,
            f"shapes.world={self.world}",
            f"train.output_dir={self.run}",
        ]

    @property
    def cfg(self) -> DictConfig:
        return load_config(CONFIG, self.config_overrides)


@dataclass(frozen=True)
class Stage:
    """A step of the demo.

    Attributes:
        name: as in results.json's seconds.
        title: for a person.
        run: does it; may return the seconds of its named parts.
        identity: what the outcome depends on.
        makes: paths that are there once it is complete.
        owns: paths that are removed where they were made with other settings.
    """

    name: str
    title: str
    run: Callable[[Demo], dict[str, float] | None]
    identity: Callable[[], dict]
    makes: Sequence[Path]
    owns: Sequence[Path] = ()


class StageError(RuntimeError):
    """A stage failed; names it and its log."""


def run_command(
    demo: Demo, name: str, command: list, follow: Callable[[], None] | None = None
) -> None:
    """Run a script of the project, its output kept in the stage's log.

    Args:
        follow: tells the user how far it is, several times a second; default: prints the output.
    """
    with locked(log_file(demo, name)) as log:
        run_logged(
            [sys.executable, *map(str, command)], log, follow or Tail(log, sys.stdout.buffer)
        )


class LossBar(tqdm):
    """A progress bar that follows the metrics.json of a training."""

    def __init__(self, metrics_json: Path, iterations: int):
        super().__init__(desc="training", total=iterations, unit="step")
        self.metrics_json, self.read = metrics_json, 0

    def follow(self) -> None:
        size = self.metrics_json.stat().st_size if self.metrics_json.is_file() else 0
        if size == self.read:
            return
        self.read = size
        for line in self.metrics_json.read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except ValueError:  # being written
                return
            if "total_loss" in record:
                self.set_postfix(loss=f"{record['total_loss']:.3f}", refresh=False)
                self.update(record["iteration"] + 1 - self.n)


def log_file(demo: Demo, name: str) -> Path:
    return demo.output / "logs" / f"{name}.txt"


def generate_data(demo: Demo) -> None:
    command = ["-m", "laptop_world.generate", "--world", demo.world]
    command += ["--output", demo.datasets / "shapes", "--size", demo.size]
    command += ["--train", demo.train_pictures, "--val", demo.val_pictures]
    run_command(demo, "data", [*command, "--num-workers", len(os.sched_getaffinity(0))])


def train(demo: Demo) -> dict[str, float]:
    start = time.time()
    command = [ROOT / "projects/GridCLIP/train_net.py", "--config-file", CONFIG, "--resume"]
    with LossBar(demo.run / "metrics.json", demo.iterations) as bar:
        run_command(demo, "training", [*command, *demo.config_overrides], bar.follow)
    # train_net.py evaluates once the last checkpoint is written.
    trained = (demo.run / "model_final.pth").stat().st_mtime
    return {"evaluation": time.time() - max(start, trained)}


def draw(demo: Demo) -> None:
    """Draw the first pictures of each novel axis; which they are does not depend on results."""
    data = instantiate(demo.cfg.data.val)
    records, chosen = all_records(data), {}
    for classes in data.groups.values():
        showing = [
            record
            for record in records
            if record["image_id"] not in chosen
            and not set(classes).isdisjoint(a["category_id"] for a in record["annotations"])
        ]
        chosen.update({record["image_id"]: record for record in showing[:PICTURES_PER_AXIS]})
    shutil.rmtree(demo.run / "pictures", ignore_errors=True)
    draw_detections(
        list(chosen.values()),
        data,
        demo_page.read_json(demo.run / "lvis_instances_results.json"),
        demo.run / "pictures",
    )
    plot_losses(demo.run / "metrics.json", demo.run / "losses.png")


def save_detector(demo: Demo) -> None:
    """One file that needs nothing else, for the user's own words and pictures."""
    predictor = Predictor(CONFIG, demo.run / "model_final.pth", overrides=demo.config_overrides)
    predictor.save(demo.detector, with_clip=True)


def search(demo: Demo) -> None:
    search_pictures(
        CONFIG, demo.config_overrides, demo.run / "model_final.pth", demo.words, demo.run / "words"
    )


def stages(demo: Demo) -> list[Stage]:
    """In order. An identity may read what the stages before have made."""
    cfg, speed = demo.cfg, ROOT / "scripts/compare_speed.py"
    text, store = Path(cfg.clip.text_embeddings), cfg.clip.image_embeddings
    pictures = {k: getattr(demo, k) for k in ("world", "train_pictures", "val_pictures", "size")}
    annotations = [
        demo.datasets / f"shapes/shapes_{demo.world}_{split}.json" for split in ("train", "val")
    ]

    def teacher() -> dict:
        identity = run_identity(demo.cfg)
        return {
            "clip": identity["config"]["clip"],
            **{k: identity[k] for k in identity if k != "config"},
        }

    def trained() -> dict:
        return run_identity(demo.cfg)

    listed = [
        Stage("data", "Generate the pictures", generate_data, lambda: pictures, annotations),
        Stage(
            "text_embeddings",
            "Embed the categories' names with CLIP",
            lambda demo: prepare_text_embeddings(demo.cfg, instantiate(demo.cfg.data.train)),
            teacher,
            [text],
            [text],
        ),
        Stage(
            "image_embeddings",
            "Embed the training pictures with CLIP",
            lambda demo: prepare_embeddings(demo.cfg, instantiate(demo.cfg.data.train)),
            teacher,
            [Path(store)] if store else [],
            [Path(store)] if store else [],
        ),
        Stage(
            "training",
            "Train GridCLIP and evaluate it",
            train,
            trained,
            [demo.run / "results.json"],
            [demo.run],
        ),
        Stage("detector", "Save the detector as one file", save_detector, trained, [demo.detector]),
        Stage("pictures", "Draw detections and losses", draw, trained, [demo.run / "losses.png"]),
    ]
    if speed.is_file():
        output = demo.output / "speed.json"
        command = [speed, "--quick", "--json", output]
        listed.append(
            Stage(
                "speed",
                "Compare speeds",
                lambda demo: run_command(demo, "speed", command),
                lambda: {"script_sha256": sha256_of_file(speed)},
                [output, output.with_suffix(".png")],
            )
        )
    listed.append(
        Stage(
            "words",
            f"Look for {', '.join(demo.words)}",
            search,
            lambda: {**trained(), "words": list(demo.words)},
            [demo.run / "words/words.json"],
        )
    )
    return listed


def run_stage(demo: Demo, stage: Stage) -> dict[str, float]:
    """Run a stage if it is not complete; returns its seconds, and those of its parts."""
    path = demo.output / "logs" / f"{stage.name}.json"
    try:
        record = open_record(path, stage)
        if record.complete and all(made.exists() for made in stage.makes):
            print(f"    complete, took {duration(record.seconds)}", flush=True)
        else:
            with record.working():
                record.parts = stage.run(demo) or {}
    except Exception as error:
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(log_file(demo, stage.name), "a", encoding="utf-8") as log:
            traceback.print_exc(file=log)
        raise StageError(
            f"stage '{stage.name}' failed: {error}\nIts log: {log_file(demo, stage.name)}"
        ) from error
    return record.seconds_by_name(stage.name)


def open_record(path: Path, stage: Stage) -> TaskRecord:
    """Of the stage's last start; what was made with other settings is removed."""
    try:
        return TaskRecord(path, stage.identity())
    except ChangedError as error:
        print(f"    made anew: {error}", flush=True)
        for owned in stage.owns:
            if owned.is_dir():
                shutil.rmtree(owned)
            else:
                owned.unlink(missing_ok=True)
        path.unlink()
        return TaskRecord(path, stage.identity())


def parse_args(argv: list[str] | None = None) -> Demo:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--words", default=WORDS, help=f"to look for at the end, between commas ({WORDS})")
    add("--output", type=Path, default=Path("output/demo"), metavar="DIR")
    add("--train", type=int, default=2000, metavar="N", help="training pictures (2000)")
    add("--val", type=int, default=400, metavar="N", help="held-out pictures (400)")
    add("--size", type=int, default=128, metavar="PX", help="side of a picture (128)")
    add("--iterations", type=int, default=400, metavar="N", help="of 16 pictures (400)")
    add("--override", nargs="+", default=[], metavar="KEY=VALUE", help="of the config")
    args = parser.parse_args(argv)
    words = tuple(dict.fromkeys(word.strip() for word in args.words.split(",") if word.strip()))
    if not words:
        parser.error("--words: give at least one")
    if args.iterations < 1:
        parser.error("--iterations: at least 1")
    return Demo(
        args.output, words, args.train, args.val, args.size, args.iterations, tuple(args.override)
    )


def main(argv: list[str] | None = None) -> None:
    demo = parse_args(argv)
    # The configs look for their data below it.
    os.environ["DETECTRON2_DATASETS"] = str(demo.datasets)
    seconds: dict[str, float] = {}
    try:
        listed = stages(demo)
        for i, stage in enumerate(listed, 1):
            print(f"[{i}/{len(listed)}] {stage.title}", flush=True)
            seconds.update(run_stage(demo, stage))
    except StageError as error:
        sys.exit(f"error: {error}\nWhat is done is kept; the same command goes on.")
    write_json(demo.output / "results.json", nan_to_none(results(demo, seconds)), indent=1)
    report = demo_page.write(demo, seconds)
    print(demo_page.metrics_text(demo))
    print(f"{report}: {duration(sum(seconds.values()))} in all")


def results(demo: Demo, seconds: dict[str, float]) -> dict:
    record = read_results(demo.run / "results.json")
    rounded = {name: round(value, 1) for name, value in seconds.items()}
    kept = ("protocol", "iterations", "seed", "device", "commit", "versions", "config")
    return {
        "metrics": record["metrics"]["bbox"],
        "seconds": {**rounded, "total": round(sum(seconds.values()), 1)},
        **{key: record[key] for key in kept},
    }


if __name__ == "__main__":
    main()
