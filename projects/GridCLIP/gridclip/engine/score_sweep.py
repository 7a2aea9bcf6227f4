"""Many settings of the scores after one pass of the network over the pictures."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from detectron2.config import instantiate
from detectron2.evaluation import inference_on_dataset
from omegaconf import DictConfig
from torch import nn

from gridclip.text import TextEmbeddings

from .precision import Detector, build_inference_model
from .train import build_evaluator

# What takes the time, and does not depend on how scores are combined.
_RECORDED = (
    *("backbone", "head", "proposal_generator"),
    *("roi_heads.box_pooler", "roi_heads.box_head", "roi_heads.image_head"),
)


def sweep_scores(
    cfg: DictConfig, model: Detector, settings: Sequence[dict[str, float]]
) -> Iterator[dict[str, float]]:
    """Evaluate a detector with other settings of its dense scores, all by the same network outputs.

    Memory holds what the network says of all pictures: for GridCLIP of LVIS's size about 25 MB a
    picture. ``dataloader.test.dataset`` may be a part of them.

    Args:
        cfg: of the detector and the data to choose on.
        model: has dense scores.
        settings: fields of its dense scores to replace: "scale", "weight", "novel_weight".

    Yields:
        The metrics of each setting, in percent, as ``results.json`` has them.

    Raises:
        ValueError: the model has no dense scores, or a setting does not fit it.
    """
    configured = model.dense_scores
    if configured is None:
        raise ValueError("The model has no dense scores: there is nothing to choose.")

    def use(fast: Detector, setting: dict[str, float]) -> None:
        changed = replace(configured, **setting)
        changed.check(fast.classifier.is_novel)
        fast.dense_scores = changed

    yield from _sweep(cfg, model, [partial(use, setting=setting) for setting in settings])


def sweep_vocabularies(
    cfg: DictConfig, model: Detector, vocabularies: Sequence[TextEmbeddings]
) -> Iterator[dict[str, float]]:
    """As :func:`sweep_scores`, with other text embeddings of the same names."""

    def use(fast: Detector, vocabulary: TextEmbeddings) -> None:
        fast.set_vocabulary(vocabulary)

    yield from _sweep(cfg, model, [partial(use, vocabulary=x) for x in vocabularies])


def _sweep(
    cfg: DictConfig, model: Detector, changes: Sequence[Callable[[Detector], None]]
) -> Iterator[dict[str, float]]:
    """Evaluate after each of the changes to a fast copy of the model."""
    fast = build_inference_model(cfg, model)
    loader = instantiate(cfg.dataloader.test)
    recordings = [_Recording(name, m) for name, m in fast.named_modules() if name in _RECORDED]
    for change in changes:
        change(fast)
        evaluator = build_evaluator(cfg, fast.classifier.names)
        yield inference_on_dataset(fast, loader, evaluator)["bbox"]
        for recording in recordings:
            recording.complete, recording.calls = True, 0


class _Recording:
    """The outputs of a module in the order of its calls: made once, then given again."""

    def __init__(self, name: str, module: nn.Module):
        self.name, self.complete, self.calls = name, False, 0
        self.outputs: list[Any] = []
        self.forward = module.forward
        module.forward = self

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.calls += 1
        if self.complete:
            return self.outputs[self.calls - 1]
        output = self.forward(*args, **kwargs)
        self.outputs.append(self._kept(output))
        return output

    def _kept(self, output: Any) -> Any:
        if self.name == "roi_heads.box_pooler":
            return None  # for the heads alone, which are recorded, too
        if self.name == "backbone":  # of a pyramid only the sizes are used after the heads
            return {
                k: v if k == "res5" else v[:1, :1, :1, :1].expand_as(v) for k, v in output.items()
            }
        return output
