"""The whole comparison: every detector in its forms, by turns, and the record of it."""

import gc
import json
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor
from tqdm import tqdm

from gridclip.files import write_json
from gridclip.modeling import optimize_for_inference

from ..environment import environment
from ..inference import InferenceRuns
from ..inputs import random_pictures
from . import hugging_face, picture, yolo
from .detect import BFLOAT16, INT8, PYTORCH, Detect, Ready, Scene
from .ours import GridCLIPForms
from .plan import Block, Plan, blocks
from .record import find, ratios

PICTURES = 8  # also those that NNCF sees
COMPANIONS = (PYTORCH, INT8)  # forms of GridCLIP that take turns with every other detector
WARM_UPS = 2
# What a record that is gone on with has in common with the run.
_SAME = ("size", "names", "wide", "runs", "processor", "threads", "versions")


def compare(plan: Plan, path: Path) -> dict:
    """Measure everything, and write the record to ``path``, and a PNG beside it, after every
    detector. What fails is named in the record with its reason.

    Where the file has a record of the same plan on the same processor, what it lacks is measured
    and added: each figure has the commit and the load of its own.

    Raises:
        ValueError: the file has another record.
    """
    comparison = Comparison(plan, path)
    comparison.resume()
    for block in blocks(plan):
        comparison.run(block)
    comparison.share_of_scores()
    comparison.bar.close()
    return comparison.record


class Comparison:
    def __init__(self, plan: Plan, path: Path):
        self.plan, self.path = plan, path
        self.gridclip = plan.contestants[0]
        self.record: dict[str, Any] = {
            "setup": describe(plan),
            "latency": [],
            "not_run": [],
            "stages": None,
            "ratios": {},
        }
        self.now = self.record["setup"]  # of this process
        total = sum(len(block.forms) for block in blocks(plan)) + 1
        self.bar = tqdm(total=total, desc="detectors in their forms", unit="form")
        self._pictures: dict[tuple[int, int], list[Tensor]] = {}

    def resume(self) -> None:
        """Go on with the record in the file, if there is one."""
        if not self.path.is_file():
            return
        found = json.loads(self.path.read_text(encoding="utf-8"))
        now = {key: self.record["setup"][key] for key in _SAME}
        then = {key: found["setup"].get(key) for key in _SAME}
        if changed := next((key for key in _SAME if now[key] != then[key]), None):
            raise ValueError(
                f"{self.path} has a comparison whose {changed} is {then[changed]}, and now it is "
                f"{now[changed]}: give another --json."
            )
        self.record = {**found, "not_run": []}

    def run(self, block: Block) -> None:
        """Measure a detector in its forms by turns, and GridCLIP in between, unless it is done."""
        where = {"size": list(block.size), "names": block.names}
        if all(find(self.record, block.contestant.key, form, where) for form in block.forms):
            self.bar.update(len(block.forms))
            return
        mine = {"detector": block.contestant.key, **where}
        self.record["latency"] = [
            entry
            for entry in self.record["latency"]
            if any(entry[key] != value for key, value in mine.items())
        ]
        scene = self._scene(block.size, block.names)
        contestant = block.contestant
        self.bar.set_postfix_str(f"{contestant.key} {block.size[0]} px, {block.names} names")
        with self._failures_noted(block, block.forms):
            ready = contestant.prepare(scene)
            about = {
                "detector": contestant.key,
                "title": contestant.title,
                "size": list(scene.size),
                "names": block.names,
                "gmac": ready.gmac,
                "parameters": ready.parameters,
            }
            turns = self._opened(ready, block, block.forms)
            beside: dict[str, Detect] = {}
            if contestant is not self.gridclip and turns:
                beside = self._companions(scene)
            del ready
            gc.collect()
            self._take_turns(turns, beside, about, scene)
        self.bar.update(len(block.forms))
        self._write()
        gc.collect()

    def share_of_scores(self) -> None:
        """Of GridCLIP's time with the most names, by its stages."""
        names = max((self.plan.names, *self.plan.name_counts))
        block = Block(self.gridclip, 2 * (self.plan.side,), names, ("stages",))
        self.bar.set_postfix_str(f"stages of gridclip, {names} names")
        with self._failures_noted(block, block.forms):
            scene = self._scene(block.size, names)
            forms = self.gridclip.prepare(scene)
            assert isinstance(forms, GridCLIPForms)
            runs = InferenceRuns(optimize_for_inference(forms.model), "cpu", 0.0)
            batches = [[{"image": x}] for x in scene.pictures]
            runs.warm_up(batches[0])
            for i in range(self.plan.runs):
                runs.run(batches[i % len(batches)])
            self.record["stages"] = {
                "names": names,
                "size": list(block.size),
                **runs.summary(),
            }
        self.bar.update()
        self._write()

    def _companions(self, scene: Scene) -> dict[str, Detect]:
        """GridCLIP on the same pictures, with as many names."""
        block = Block(self.gridclip, scene.size, scene.names, COMPANIONS)
        with self._failures_noted(block, COMPANIONS):
            return self._opened(self.gridclip.prepare(scene), block, COMPANIONS)
        return {}

    def _opened(self, ready: Ready, block: Block, forms: tuple[str, ...]) -> dict[str, Detect]:
        opened = {}
        for form in forms:
            with self._failures_noted(block, (form,)):
                detect = ready.open(form)
                for picture in self._scene(block.size, block.names).pictures[:WARM_UPS]:
                    detect(picture)
                opened[form] = detect
        return opened

    def _take_turns(
        self, turns: dict[str, Detect], beside: dict[str, Detect], about: dict, scene: Scene
    ) -> None:
        everyone = [*((form, turns) for form in turns), *((form, beside) for form in beside)]
        seconds: dict[tuple[str, bool], list[float]] = {
            (form, whose is turns): [] for form, whose in everyone
        }
        detections: dict[str, list[int]] = {form: [] for form in turns}
        for run in range(self.plan.runs):
            first = run % max(1, len(everyone))
            for form, whose in everyone[first:] + everyone[:first]:
                taken, found = timed(whose[form], scene.pictures[run % len(scene.pictures)])
                seconds[form, whose is turns].append(taken)
                if whose is turns:
                    detections[form].append(found)
        for form in turns:
            self.record["latency"].append(
                {
                    **about,
                    "form": form,
                    "p50": statistics.median(seconds[form, True]),
                    "seconds": seconds[form, True],
                    "detections": statistics.mean(detections[form]),
                    "gridclip_beside": {f: seconds[f, False] for f in beside},
                    "commit": self.now["commit"],
                    "load_average": self.now["load_average"],
                }
            )
        if about["detector"] == self.gridclip.key and BFLOAT16 in turns and PYTORCH in turns:
            self._add_auto(about)

    def _add_auto(self, about: dict) -> None:
        """What "auto" chooses: the faster of float32 and bfloat16."""
        forms = [find(self.record, about["detector"], f, about) for f in (PYTORCH, BFLOAT16)]
        best = min((entry for entry in forms if entry), key=lambda entry: entry["p50"])
        self.record["latency"].append({**best, "form": "auto", "chosen": best["form"]})

    @contextmanager
    def _failures_noted(self, block: Block, forms: tuple[str, ...]) -> Iterator[None]:
        try:
            yield
        except Exception as error:  # of other people's libraries: the rest goes on
            reason = f"{type(error).__name__}: {error}".strip()
            for form in forms:
                self.record["not_run"].append(
                    {
                        "detector": block.contestant.key,
                        "form": form,
                        "size": list(block.size),
                        "names": block.names,
                        "reason": reason[:600],
                    }
                )

    def _scene(self, size: tuple[int, int], names: int) -> Scene:
        if size not in self._pictures:
            self._pictures[size] = random_pictures(PICTURES, *size)
        return Scene(self._pictures[size], names)

    def _write(self) -> None:
        self.record["ratios"] = ratios(self.record)
        write_json(self.path, self.record, indent=1)
        picture.draw(self.record, self.path.with_suffix(".png"))


def timed(detect: Callable[[Tensor], Any], picture: Tensor) -> tuple[float, int]:
    """Seconds, and the number of detections."""
    start = time.perf_counter()
    found = detect(picture)
    return time.perf_counter() - start, len(found.scores)


def describe(plan: Plan) -> dict:
    machine = environment("cpu")
    return {
        "size": [plan.side, plan.side],
        "names": plan.names,
        "wide": list(plan.wide),
        "pictures": "random",
        "weights": "random, calibrated; text embeddings random, made before the clock starts",
        "runs": plan.runs,
        "quantisation": f"NNCF, post-training, preset MIXED, {PICTURES} pictures",
        "post_processing": {c.key: c.post_processing for c in plan.contestants},
        "words_of_grounding_dino": hugging_face.WORDS,
        "yolo_confidence": yolo.CONFIDENCE,
        **machine,
        "versions": {**machine["versions"], **library_versions()},
    }


def library_versions() -> dict[str, str]:
    """Of the packages that are compared; an empty text where one is missing."""
    from importlib.metadata import PackageNotFoundError, version

    found = {}
    for name in ("ultralytics", "transformers", "openvino", "nncf", "timm"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = ""
    return found
