"""Proof that a training's novel categories reach none of its losses.

Training steps are run on the config's own loader, mapper, model and losses, from random weights,
and what goes into the losses is compared with the whole annotation. Pictures of novel objects stay
in the training by the open-vocabulary protocol, without their boxes; they are counted.
"""

import copy
import tempfile
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.structures import BoxMode
from detectron2.utils.events import EventStorage
from numpy.typing import NDArray
from omegaconf import DictConfig, OmegaConf
from tabulate import tabulate
from torch import Tensor
from tqdm import tqdm

from gridclip.data import DatasetDescription
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.store import StoreError
from gridclip.text import TextEmbeddings

from .prepare import check_same_categories, check_text_embeddings, open_data
from .schedule import complete_schedule
from .train import Detector, build_model


@dataclass
class Check:
    """What was looked at, how many of them, and each leak with picture and category."""

    what: str
    count: int = 0
    leaks: list[str] = field(default_factory=list)


@dataclass
class Audit:
    """The result of :func:`audit_split`.

    Attributes:
        source: of the training data.
        novel: names of the novel categories.
        steps: training steps that were run.
        notes: what else one should know, not leaks.
        checks: see :class:`Check`.
    """

    source: str
    novel: list[str]
    steps: int
    notes: list[str]
    checks: list[Check]

    @property
    def clean(self) -> bool:
        return not any(check.leaks for check in self.checks)

    def __str__(self) -> str:
        rows = [
            [c.what, f"{c.count:,}", f"{len(c.leaks):,} LEAKS" if c.leaks else "clean"]
            for c in self.checks
        ]
        first = [f"LEAK, {c.what}: {c.leaks[0]}" for c in self.checks if c.leaks]
        title = f"{self.source}: {len(self.novel)} novel categories, {self.steps} training steps"
        return "\n".join(
            [title, *self.notes, "", tabulate(rows, ["checked", "how many", "result"]), *first]
        )

    def as_json(self) -> dict[str, Any]:
        """All of it, with all leaks."""
        return asdict(self) | {"clean": self.clean}


def audit_split(cfg: DictConfig, steps: int = 20) -> Audit:
    """Audit a config whose ``data.train`` has novel categories. ``cfg`` stays as it is.

    CLIP's weights are not needed. Without the config's text embeddings there are random ones, and
    without its store of image embeddings the loss that reads it is switched off; both is noted.

    Args:
        steps: training steps; the records are checked in full.

    Raises:
        ValueError: there is nothing to audit, or a training would be refused.
    """
    cfg = copy.deepcopy(cfg)
    train, val = open_data(cfg, "train"), instantiate(cfg.data.val)
    if not train.novel_classes:
        raise ValueError(f"nothing to audit: {train.source} has no novel categories (data.novel).")
    check_same_categories(train, val)
    complete_schedule(cfg, train)
    if not torch.cuda.is_available():
        cfg.train.device = "cpu"
    novel = [train.names[i] for i in train.novel_classes]
    watch = _Watch(train)
    watch.compare_names(val)
    watch.look_at_records(instantiate(cfg.dataloader.train.dataset))
    with tempfile.TemporaryDirectory() as folder:
        notes = [watch.count_pictures(), *_replace_missing(cfg, train, Path(folder))]
        torch.manual_seed(cfg.train.seed)
        model = build_model(cfg).train()
    watch.look_at_weights(getattr(model, "federated_weights", None))
    done = watch.run(model, instantiate(cfg.dataloader.train), steps)
    return Audit(train.source, novel, done, notes, watch.checks)


def _replace_missing(cfg: DictConfig, train: DatasetDescription, folder: Path) -> list[str]:
    """Let the config run without what CLIP would have to make; returns what was replaced."""
    notes = []
    if Path(path := cfg.model.classifier.text_embeddings).is_file():
        check_text_embeddings(cfg, names=train.names)
    else:
        notes.append(f"random text embeddings: there are none at {path}")
        random = TextEmbeddings.random(train.names, cfg.model.classifier.embed_dim)
        cfg.model.classifier.text_embeddings = str(folder / "text.safetensors")
        random.save(cfg.model.classifier.text_embeddings)
    if (store := OmegaConf.select(cfg, "dataloader.train.mapper.embeddings")) is not None:
        try:
            EmbeddingStore.open(store)
        except StoreError:
            notes.append(f"no loss of image embeddings: there is no complete store at {store}")
            cfg.dataloader.train.mapper.embeddings = None
            if "roi_heads" in cfg.model:
                cfg.model.roi_heads.update(distillation_weight=0.0, image_head=None)
            else:
                cfg.model.image_alignment = None
    return notes


class _Watch:
    """Compares what a training uses with the whole annotation of its data."""

    def __init__(self, data: DatasetDescription):
        self.data = data
        self.novel = frozenset(data.novel_classes or ())
        self.index = {image_id: i for i, image_id in enumerate(data.annotations.image_ids)}
        self.is_novel = np.isin(data.annotations.classes, list(self.novel))
        self.checks: list[Check] = []

    def compare_names(self, val: DatasetDescription) -> None:
        """What is novel in training is novel in the evaluation, among the names of both."""
        check = self._check("novel names in data.val")
        check.count = len(val.names)
        novel_in_val = {val.names[i] for i in val.novel_classes or ()}
        for i, name in enumerate(self.data.names):
            if name in val.names and (i in self.novel) != (name in novel_in_val):
                here = "data.train" if i in self.novel else "data.val"
                check.leaks.append(f"'{name}' is novel in {here} alone")

    def count_pictures(self) -> str:
        images = np.unique(self.data.annotations.images[self.is_novel])
        return (
            f"{len(images):,} of {len(self.data):,} pictures show a novel object: by the protocol "
            "they stay, without its boxes"
        )

    def look_at_records(self, records: Sequence[dict]) -> None:
        """No record has a box of a novel category, under its own name or another one, or lists one
        as absent."""
        boxes = self._check("boxes of the records")
        negatives = self._check("category lists of the records")
        for record in tqdm(records, "Records", unit="picture"):
            if record["image_id"] not in self.index:
                boxes.leaks.append(f"{record['file_name']} is not of data.train: nothing is known")
                continue
            hidden = self._novel_boxes(record["image_id"])
            for annotation in record["annotations"]:
                boxes.count += 1
                mode = annotation["bbox_mode"]
                box = BoxMode.convert(list(annotation["bbox"]), mode, BoxMode.XYWH_ABS)
                self._note(boxes, record, [annotation["category_id"]])
                if (key := _key(box)) in hidden and annotation["category_id"] not in self.novel:
                    other = self.data.names[annotation["category_id"]]
                    name = self.data.names[hidden[key]]
                    boxes.leaks.append(f"{record['file_name']}: box of '{name}' as '{other}'")
            self._look_at_lists(negatives, record)

    def look_at_weights(self, weights: Tensor | None) -> None:
        check = self._check("federated weights")
        if weights is not None:
            check.count = len(weights)
            sampled = weights.nonzero().flatten().tolist()
            check.leaks += [f"'{self.data.names[i]}'" for i in sampled if i in self.novel]

    def run(self, model: Detector, loader: Iterable[list[dict]], steps: int) -> int:
        """Returns the number of steps that were run: not those on boxes of novel categories."""
        boxes = self._check("boxes of the batches")
        negatives = self._check("category lists of the batches")
        used = self._check("categories of the losses")
        text = self._check("text embeddings, novel ones as NaN")
        poisoned = copy.deepcopy(model)
        poisoned.classifier.text_embeddings[list(self.novel)] = torch.nan
        classes = _spy_on_classes(model)
        done = 0
        shown = tqdm(range(steps), "Steps", unit="step")
        for step, batch in zip(shown, loader, strict=False):
            leaks_before = len(boxes.leaks)
            for item in batch:
                found = item["instances"].gt_classes.tolist()
                boxes.count += len(found)
                self._note(boxes, item, found)
                if len(found) > self._num_base(item["image_id"]):
                    boxes.leaks.append(f"{item['file_name']}: more boxes than of base categories")
                self._look_at_lists(negatives, item)
            if len(boxes.leaks) > leaks_before:  # ViLD refuses them, too
                continue
            classes.clear()
            losses, others = (_losses_and_gradients(m, batch, step) for m in (model, poisoned))
            used.count += len(classes)
            self._note(used, batch[0], classes)
            text.count += len(self.novel)
            text.leaks += [f"step {step}: {fault}" for fault in _differences(losses, others)]
            done += 1
        return done

    def _check(self, what: str) -> Check:
        self.checks.append(Check(what))
        return self.checks[-1]

    def _num_base(self, image_id: int | str) -> int:
        own = self.data.annotations.of_image(self.index.get(image_id, len(self.data)))
        return int((~self.is_novel[own]).sum())

    def _novel_boxes(self, image_id: int | str) -> dict[tuple[float, ...], int]:
        """An image's boxes of novel categories that no base category has there, and whose."""
        annotations, own = (
            self.data.annotations,
            self.data.annotations.of_image(self.index[image_id]),
        )
        rows = list(zip(annotations.boxes[own], annotations.classes[own].tolist(), strict=True))
        base = {_key(box) for box, c in rows if c not in self.novel}
        return {_key(box): c for box, c in rows if c in self.novel and _key(box) not in base}

    def _look_at_lists(self, check: Check, item: dict) -> None:
        for name in ("negative_classes", "not_exhaustive_classes"):
            listed = np.asarray(item.get(name, ())).tolist()
            check.count += len(listed)
            self._note(check, item, listed)

    def _note(self, check: Check, item: dict, classes: Iterable[int]) -> None:
        names = (self.data.names[i] for i in classes if i in self.novel)
        check.leaks += [f"{item['file_name']}: '{name}'" for name in names]


def _key(box: Sequence[float] | NDArray) -> tuple[float, ...]:
    return tuple(round(float(x), 2) for x in box)


def _spy_on_classes(model: Detector) -> list[int]:
    """A list that gets the categories whose text embeddings the model's classifier takes."""
    seen: list[int] = []
    original = model.classifier._weight

    def weight(classes: Tensor | None) -> Tensor:
        seen.extend(range(model.num_classes) if classes is None else classes.tolist())
        return original(classes)

    model.classifier._weight = weight  # type: ignore[method-assign]
    return seen


def _losses_and_gradients(model: Detector, batch: list[dict], step: int) -> dict[str, Tensor]:
    torch.manual_seed(step)  # ViLD samples proposals
    model.zero_grad()
    with EventStorage(step):
        losses = model(batch)
    torch.stack(list(losses.values())).sum().backward()
    gradients = {f"gradient of {k}": p.grad for k, p in model.named_parameters()}
    return {**losses, **{k: grad for k, grad in gradients.items() if grad is not None}}


def _differences(true: dict[str, Tensor], poisoned: dict[str, Tensor]) -> list[str]:
    """What is not finite, or not equal to rounding, when novel text embeddings are NaN."""
    largest = max(float(value.detach().abs().max()) for value in true.values())
    found = []
    for name, value in true.items():
        other = poisoned[name].detach()
        if not other.isfinite().all():
            found.append(f"{name} is not finite")
        elif not torch.allclose(value.detach(), other, rtol=1e-4, atol=1e-6 * largest):
            found.append(f"{name} changes")
    return found
