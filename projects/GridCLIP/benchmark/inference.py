"""Seconds an image of inference. The detectors take turns: each run goes through all of them."""

import statistics
from collections.abc import Iterator
from contextlib import contextmanager
from unittest.mock import patch

import numpy as np
import torch
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from torch import nn
from torchvision.ops import boxes as box_ops
from tqdm import tqdm

from gridclip.vild import ViLD, roi_heads

from .stages import STAGES, StageClock, timed_stages


class InferenceRuns:
    """The measurements of one detector, run by run.

    The *official* post-processing is the detector's own. ViLD's has no score threshold. Its
    *matched* post-processing has one, and is timed on the outputs of the same forward pass.
    For other detectors the two are the same.

    Attributes:
        seconds, matched: seconds an image with either post-processing, by run.
        stages: seconds an image by stage, by run.
        detections: number an image, by run.
        candidates, matched_candidates: number of (box, category) pairs an image that go to NMS.
        naive_post_processing: seconds an image of detectron2's own function in place of ViLD's
            faster one; None for other detectors.
    """

    def __init__(self, model: nn.Module, device: str, matched_threshold: float):
        """
        Args:
            model: in evaluation mode.
            matched_threshold: the score threshold of the matched post-processing.
        """
        self.model, self.device, self.matched_threshold = model, device, matched_threshold
        self.seconds: list[float] = []
        self.matched: list[float] = []
        self.stages: dict[str, list[float]] = {stage: [] for stage in STAGES}
        self.detections: list[float] = []
        self.candidates = self.matched_candidates = 0.0
        self.naive_post_processing: float | None = None

    @torch.inference_mode()
    def warm_up(self, batch: list[dict]) -> None:
        """One run whose time does not count. It counts candidates and times the naive NMS."""
        clock = StageClock(self.device)
        with self._captured_outputs() as outputs, counted_candidates(clock) as counts:
            self._run(batch, clock)
            self.candidates = self.matched_candidates = sum(counts) / len(batch)
            if outputs:
                counts.clear()
                self._post_process(outputs[0], self.matched_threshold)
                self.matched_candidates = sum(counts) / len(batch)
        if outputs:
            with patch.object(roi_heads, "best_detections", fast_rcnn_inference_single_image):
                seconds = self._post_process(outputs[0])
            self.naive_post_processing = seconds / len(batch)

    @torch.inference_mode()
    def run(self, batch: list[dict]) -> None:
        """One run that counts."""
        clock = StageClock(self.device)
        if clock.on_cuda:  # the clock synchronizes at every stage, so the whole is timed alone
            whole = StageClock(self.device)
            with whole.stage("other"):
                self.model(batch)
        with self._captured_outputs() as outputs:
            results = self._run(batch, clock)
        seconds = (whole if clock.on_cuda else clock).seconds.total()
        self.seconds.append(seconds / len(batch))
        if outputs:
            seconds -= clock.seconds["post-processing"]
            seconds += self._post_process(outputs[0], self.matched_threshold)
        self.matched.append(seconds / len(batch))
        for stage, values in self.stages.items():
            values.append(clock.seconds[stage] / len(batch))
        self.detections.append(sum(len(x["instances"]) for x in results) / len(batch))

    def summary(self) -> dict:
        """What is written as JSON: medians, and the seconds of every run."""
        p50, p90 = np.quantile(self.seconds, [0.5, 0.9]).tolist()
        stages = {stage: statistics.median(values) for stage, values in self.stages.items()}
        return {
            "p50": p50,
            "p90": p90,
            "images_per_second": 1 / p50,
            "matched_p50": statistics.median(self.matched),
            "naive_post_processing": self.naive_post_processing,
            "classifier_share": self.share("classifier", "post-processing"),
            "stages": {stage: seconds for stage, seconds in stages.items() if seconds},
            "detections_per_image": statistics.mean(self.detections),
            "candidates_per_image": self.candidates,
            "matched_candidates_per_image": self.matched_candidates,
            "seconds": self.seconds,
            "matched_seconds": self.matched,
        }

    def share(self, *stages: str) -> float:
        """The median over the runs of the stages' share in the whole time."""
        wholes = [sum(values) for values in zip(*self.stages.values(), strict=True)]
        parts = zip(*(self.stages[stage] for stage in stages), strict=True)
        return median_ratio([sum(values) for values in parts], wholes)

    def _run(self, batch: list[dict], clock: StageClock) -> list[dict]:
        with timed_stages(self.model, clock), clock.stage("other"):
            return self.model(batch)

    @contextmanager
    def _captured_outputs(self) -> Iterator[list[tuple]]:
        """Collects the arguments of ViLD's post-processing; stays empty for other detectors."""
        captured: list[tuple] = []
        if not isinstance(self.model, ViLD):
            yield captured
            return
        predictor = self.model.roi_heads.box_predictor
        inference = predictor.inference

        def capture(*arguments):
            captured.append(arguments)
            return inference(*arguments)

        with patch.object(predictor, "inference", capture):
            yield captured

    def _post_process(self, outputs: tuple, threshold: float | None = None) -> float:
        """Seconds of ViLD's post-processing alone."""
        predictor, clock = self.model.roi_heads.box_predictor, StageClock(self.device)
        threshold = predictor.test_score_thresh if threshold is None else threshold
        with patch.object(predictor, "test_score_thresh", threshold):
            with clock.stage("post-processing"):
                type(predictor).inference(predictor, *outputs)
        return clock.seconds.total()


@contextmanager
def counted_candidates(clock: StageClock) -> Iterator[list[int]]:
    """Collects the number of boxes that each NMS gets, except for that of region proposals."""
    counts: list[int] = []
    batched_nms = box_ops.batched_nms  # detectron2's function of that name calls this one

    def count(boxes, *arguments):
        if clock.current != "proposals":
            counts.append(len(boxes))
        return batched_nms(boxes, *arguments)

    with patch.object(box_ops, "batched_nms", count):
        yield counts


def measure_inference(
    detectors: dict[str, InferenceRuns], batches: list[list[dict]], runs: int
) -> None:
    """Fill ``detectors``: a warm-up of each, then runs by turns, each begun by another detector."""
    order = list(detectors.values())
    with tqdm(total=len(order) * (runs + 1), desc="inference", unit="run") as bar:
        for detector in order:
            detector.warm_up(batches[0])
            bar.update()
        for run in range(runs):
            first = run % len(order)
            for detector in order[first:] + order[:first]:
                detector.run(batches[run % len(batches)])
                bar.update()


def median_ratio(numerators: list[float], denominators: list[float]) -> float:
    """The median of the ratios run by run, in which a drift of the machine's speed cancels."""
    return statistics.median(a / b for a, b in zip(numerators, denominators, strict=True))
