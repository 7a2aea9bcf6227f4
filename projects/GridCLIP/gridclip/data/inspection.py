"""A data set looked through before a training: every picture, and what a trainer should know."""

import hashlib
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import clip
import numpy as np
from detectron2.data import MapDataset
from PIL import Image
from torch.utils.data import DataLoader
from tqdm import tqdm

from gridclip.pictures import read_picture
from gridclip.text import TextEmbeddings, prompt_phrases, render_prompts
from gridclip.text.names import make_categories

from .benchmarks import find_benchmark
from .description import MAX_DETS, DatasetDescription
from .findings import Findings

TEST_SIZE = (800, 1333)  # of LVIS's configs
_SMALL = (16, 32)  # pixels at test size
_FEW_BOXES = 10
_SAME_COSINE = 0.95
_SHOWN = 20


@dataclass(frozen=True)
class Inspection:
    """What was found in a data set.

    Attributes:
        data: the data set.
        findings: its own and those of the inspection. With a fault it can't be trained on.
        pictures: a line for each picture that is missing, unreadable or of another size.
        digests: path to digest of each file that could be read.
    """

    data: DatasetDescription
    findings: Findings
    pictures: list[str]
    digests: dict[str, str]

    @property
    def usable(self) -> bool:
        """Whether a training would take it."""
        return not any(item.is_fault for item in self.findings.items)

    def __str__(self) -> str:
        parts = [self.data.describe()]
        for title, is_fault in (("To know", False), ("Faults", True)):
            found = [f"  {item}" for item in self.findings.items if item.is_fault is is_fault]
            parts += [f"{title}:", *(found or ["  nothing"])]
        if self.pictures:
            parts.append(f"Pictures that can't be used, {len(self.pictures):,}:")
            parts += [f"  {line}" for line in self.pictures[:_SHOWN]]
        if len(self.pictures) > _SHOWN:
            parts.append(f"  and {len(self.pictures) - _SHOWN:,} more")
        return "\n".join(parts)


def inspect_dataset(
    data: DatasetDescription,
    *,
    num_workers: int = 1,
    test_size: tuple[int, int] | None = TEST_SIZE,
    templates: str | Sequence[str] = "imagenet",
    embeddings: TextEmbeddings | None = None,
) -> Inspection:
    """Look through a data set. Shows a progress bar: every picture is decoded.

    Args:
        num_workers: processes that decode; what is found does not depend on it.
        test_size: shorter side and the most of the longer one, in pixels, that pictures are resized
            to at test; None: they stay as they are.
        templates: that names are put into, as in ``get_templates``.
        embeddings: of the names, to tell which ones CLIP can't tell apart; None: not checked.
    """
    found = Findings(data.source, list(data.findings.items))
    _compare_counts(data, found)
    _check_boxes(data, test_size, found)
    _check_prompts(data.names, templates, found)
    _check_cosines(data.names, embeddings, found)
    pictures, digests = _check_pictures(data, num_workers, found)
    return Inspection(data, found, pictures, digests)


def size_at_test(augmentations: Sequence[Mapping]) -> tuple[int, int] | None:
    """``test_size`` of :func:`inspect_dataset`, by the augmentations in a config's test mapper."""
    for augmentation in augmentations:
        if (short := augmentation.get("short_edge_length")) is not None:
            short = short if isinstance(short, int) else min(short)
            return short, augmentation.get("max_size", sys.maxsize)
    return None


def shared_content(train: Inspection, val: Inspection) -> list[str]:
    """Pairs of files of ``train`` and ``val`` with the same bytes."""
    by_digest = {digest: path for path, digest in train.digests.items()}
    pairs = ((by_digest.get(digest), path) for path, digest in val.digests.items())
    return [f"{first} and {second}" for first, second in pairs if first]


def _compare_counts(data: DatasetDescription, found: Findings) -> None:
    known = find_benchmark([data.name])
    if known is None:
        return
    # Boxes that were left out are in the file.
    dropped = sum(item.count for item in data.findings.items if item.action == "left out")
    here = len(data), len(data.annotations.boxes) + dropped, len(data.names)
    published = known.images, known.boxes, known.categories
    pairs = list(zip(here, published, ("pictures", "boxes", "categories"), strict=True))
    differ = [f"{a:,} of {b:,} {what}" for a, b, what in pairs if b not in (None, a)]
    result = "a part of it, or another version" if differ else "complete"
    found.note(f"counts beside those of {known.name}", [", ".join(differ) or "equal"], result)


def _check_boxes(
    data: DatasetDescription, test_size: tuple[int, int] | None, found: Findings
) -> None:
    annotations, total = data.annotations, len(data.annotations.boxes)
    if not annotations.available:
        found.note("no annotations", ["a test set"], "for neither training nor evaluation")
        return
    counts = np.bincount(annotations.classes, minlength=len(data.names))
    rare = np.flatnonzero((counts > 0) & (counts < _FEW_BOXES))
    few = [f"'{data.names[i]}' ({counts[i]})" for i in rare]
    found.note(f"category with fewer than {_FEW_BOXES} boxes", few, "little to learn it from")
    short, long = annotations.sizes.min(axis=1), annotations.sizes.max(axis=1)
    shorter, longest = test_size or (short, long)
    scales = np.minimum(shorter / short, longest / long)
    sides = np.sqrt(annotations.boxes[:, 2:].prod(axis=1)) * scales[annotations.images]
    at = "" if test_size is None else " at {} x {}".format(*test_size)
    for limit in _SMALL:
        small = [
            f"image {annotations.image_ids[annotations.images[i]]!r}, "
            f"'{data.names[annotations.classes[i]]}'"
            for i in np.flatnonzero(sides < limit)
        ]
        what = f"box below {limit} px a side{at}"
        found.note(what, small, f"{len(small) / max(total, 1):.1%} of all boxes, hard to find")
    per_image, limit = np.bincount(annotations.images), MAX_DETS[data.metrics]
    crowded = [
        f"image {annotations.image_ids[i]!r} ({per_image[i]})"
        for i in np.flatnonzero(per_image > limit)
    ]
    action = f"an evaluation counts the {limit} best detections of a picture"
    found.note(f"picture with more than {limit} boxes", crowded, action)


def _check_prompts(names: Sequence[str], templates: str | Sequence[str], found: Findings) -> None:
    long = []
    phrases_of = prompt_phrases(make_categories(names))
    shown = tqdm(phrases_of, "Tokenising", disable=len(names) < 100)
    for name, phrases in zip(names, shown, strict=True):
        try:
            clip.tokenize([p for phrase in phrases for p in render_prompts(phrase, templates)])
        except RuntimeError:  # more tokens than CLIP reads
            long.append(f"'{name}'")
    found.fault("name of more tokens than CLIP's 77 with its prompt", long, "shorten it")


def _check_cosines(
    names: Sequence[str], embeddings: TextEmbeddings | None, found: Findings
) -> None:
    what = f"names that CLIP can't tell apart, a cosine above {_SAME_COSINE}"
    if embeddings is None:
        found.note(what, ["not checked"], "it needs the names' text embeddings, or CLIP's weights")
        return
    rows = {name: row for row, name in enumerate(embeddings.names)}
    if unknown := [name for name in names if name not in rows]:
        reason = f"not checked, the text embeddings lack '{unknown[0]}'"
        found.note(what, [reason], "make them anew")
        return
    vectors = embeddings.embeddings[[rows[name] for name in names]].numpy()
    cosines = np.triu(vectors @ vectors.T, k=1)
    pairs = np.argwhere(cosines > _SAME_COSINE)
    values = cosines[tuple(pairs.T)]
    near = [
        f"'{names[i]}' and '{names[j]}' ({value:.3f})"
        for (i, j), value in sorted(zip(pairs.tolist(), values, strict=True), key=lambda x: -x[1])
    ]
    found.note(what, near, "detections of one will have the other's name")


def _look(path: str) -> tuple[list[int] | None, str]:
    """A picture's width and height, as training reads it, and its digest; or None and the error."""
    try:
        height, width = read_picture(path).shape[:2]  # turned as EXIF says
        return [width, height], hashlib.sha256(Path(path).read_bytes()).hexdigest()
    except (OSError, ValueError) as error:  # they name the file
        return None, str(error)


def _check_pictures(
    data: DatasetDescription, num_workers: int, found: Findings
) -> tuple[list[str], dict[str, str]]:
    missing = set(data.missing_pictures)
    sizes = data.annotations.sizes.tolist()
    there = [i for i in range(len(data)) if data.file_name(i) not in missing]
    paths = [data.file_name(i) for i in there]
    known = find_benchmark([data.name])
    action = known.how_to_get if known else f"put it into {data.root or 'its folder'}"
    found.fault("missing picture", sorted(missing), action)
    loader = DataLoader(
        MapDataset(paths, _look), batch_size=None, num_workers=num_workers if paths else 0
    )
    broken, wrong, digests = [], [], dict[str, str]()
    shown = tqdm(loader, "Reading", unit="picture", total=len(paths))
    for i, path, (size, result) in zip(there, paths, shown, strict=True):
        if size is None:
            broken.append(result)
            continue
        digests[path] = result
        if size != sizes[i]:
            here, given = (" x ".join(map(str, pair)) for pair in (size, sizes[i]))
            wrong.append(f"{path}: it is {here} px, the file says {given}")
    found.fault("unreadable picture", broken, "replace it, or take it out of the file")
    found.fault("picture of another size", wrong, "correct width and height, EXIF's turn included")
    _note_others(paths, digests, found)
    return [*(f"{path}: missing" for path in sorted(missing)), *broken, *wrong], digests


def _note_others(paths: Iterable[str], digests: dict[str, str], found: Findings) -> None:
    """Copies, and pictures beside those of the data set."""
    first: dict[str, str] = {}
    copies = [
        f"{path} and {first[digest]}"
        for path, digest in digests.items()
        if first.setdefault(digest, path) != path
    ]
    found.note("copy of another picture", copies, "each counts")
    listed = set(map(os.path.normpath, paths))
    suffixes = Image.registered_extensions()
    others = [
        str(file)
        for folder in sorted({os.path.dirname(path) for path in listed})
        for file in sorted(Path(folder or ".").iterdir())
        if file.suffix.lower() in suffixes and os.path.normpath(file) not in listed
    ]
    found.note("picture in the folders that the file does not list", others, "not used")
