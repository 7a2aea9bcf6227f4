"""What a user looks for, as one embedding a label: words, and examples in pictures."""

import os
import threading
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from clip.model import CLIP
from torch import Tensor

from gridclip.clip_weights import CLIPCheckpoint, load_clip
from gridclip.data.regions import region_inputs
from gridclip.data.teacher import encode_regions
from gridclip.pictures import Picture, read_picture
from gridclip.text import (
    TextEmbeddings,
    Vocabulary,
    build_text_embeddings,
    embed_names,
    find_names,
    get_templates,
)
from gridclip.text.names import make_categories

Box = Sequence[float]
Example = tuple[Picture, Box]
Query = str | Sequence[str | Example]
Queries = Vocabulary | Mapping[str, Query]


class QueryEncoder:
    """CLIP's two encoders for what a user looks for. Loaded when they are first needed, and kept;
    threads may share them."""

    def __init__(
        self,
        source: str | os.PathLike | tuple[CLIP, CLIPCheckpoint] | None,
        templates: str | Sequence[str],
        device: str | torch.device = "cpu",
    ):
        """
        Args:
            source: of the weights, as ``load_clip`` takes it; or what it returned; or None.
            templates: a set's name in ``TEMPLATES``, or the prompt templates themselves.
            device: where CLIP runs.
        """
        self.templates = get_templates(templates)
        self._source, self._device = source, device
        self._lock = threading.Lock()

    def clip(self) -> tuple[CLIP, CLIPCheckpoint]:
        """Raises FileNotFoundError or ValueError if there are no weights."""
        with self._lock:
            if self._source is None:
                raise ValueError("Names can't be embedded: the detector knows of no CLIP weights.")
            if not isinstance(self._source, tuple):
                try:
                    self._source = load_clip(self._source, self._device)
                except FileNotFoundError as error:
                    raise FileNotFoundError(
                        f"{error} CLIP embeds words and examples: name the file of its weights "
                        "(clip.weights of the config, clip= of Predictor.load)."
                    ) from error
            return self._source

    def embed(self, queries: Queries) -> TextEmbeddings:
        """
        Args:
            queries: a vocabulary; or by label what stands for it: a word, or a list of words and
                of examples, each a picture and a box XYXY in its pixels.

        Raises:
            FileNotFoundError, ValueError: a picture, a box, a word or CLIP's weights are not usable
                (the message names the label), there is no label, or two are the same.
        """
        if isinstance(queries, Mapping):
            return self._embed_labels(queries)
        if isinstance(found := find_names(queries), TextEmbeddings):
            return found
        return embed_names(found, *self.clip(), self.templates)

    def _embed_labels(self, queries: Mapping[str, Query]) -> TextEmbeddings:
        labels = [category.name for category in make_categories(queries)]
        words, examples = zip(*map(_words_and_examples, labels, queries.values()), strict=True)
        # CLIP's tokenizer ignores case.
        unique = list(dict.fromkeys(word.lower() for group in words for word in group))
        categories = find_names(unique) if unique else []
        assert not isinstance(categories, TextEmbeddings)
        clip_model, checkpoint = self.clip()
        embedded = build_text_embeddings(categories, clip_model, self.templates, progress=False)
        by_word = dict(zip(unique, embedded, strict=True))
        rows = []
        for label, own_words, own_examples in zip(labels, words, examples, strict=True):
            by_kind = [[by_word[word.lower()] for word in own_words]]
            try:
                by_kind += [[self.embed_example(*example) for example in own_examples]]
            except (FileNotFoundError, ValueError) as error:
                raise type(error)(f"'{label}': {error}") from error
            # However many there are of each, words and examples have the same weight.
            rows.append(_unit_mean([_unit_mean(kind) for kind in by_kind if kind]))
        return TextEmbeddings(
            names=tuple(labels),
            embeddings=torch.stack(rows),
            templates=self.templates,
            clip_model=checkpoint.model_id,
            clip_sha256=checkpoint.sha256,
        )

    def embed_example(self, picture: Picture, box: Box) -> Tensor:
        """(D,) float32 of unit norm: the mean of what CLIP's image encoder says of the box and of
        1.5 times its size, as in ViLD (section 3.3)."""
        image = read_picture(picture)
        height, width = image.shape[:2]
        x0, y0, x1, y1 = _check_box(box, width, height)
        clip_model, _ = self.clip()
        pixels = torch.from_numpy(image.copy()).permute(2, 0, 1)
        boxes = torch.tensor([[x0, y0, x1, y1]], dtype=torch.float32)
        inputs = region_inputs(pixels, boxes, clip_model.visual.input_resolution)
        return encode_regions(clip_model, inputs)[0].cpu().clone()


def _unit_mean(embeddings: Sequence[Tensor]) -> Tensor:
    return F.normalize(torch.stack(list(embeddings)).mean(dim=0), dim=0)


def _words_and_examples(label: str, query: Query) -> tuple[list[str], list[Example]]:
    parts = [query] if isinstance(query, str) else list(query)
    words = [part for part in parts if isinstance(part, str)]
    examples = [part for part in parts if not isinstance(part, str)]
    if not parts or not all(word.strip() for word in words):
        raise ValueError(f"'{label}' stands for nothing: give words or examples.")
    for example in examples:
        if not isinstance(example, tuple | list) or len(example) != 2:
            raise ValueError(f"'{label}': an example is a picture and a box, not {example!r:.80}.")
    return words, [(picture, box) for picture, box in examples]


def _check_box(box: Box, width: int, height: int) -> list[float]:
    """The part of a box in a picture. Raises ValueError if it is not one, or empty."""
    numbers = [float(x) for x in box]
    if len(numbers) != 4:
        raise ValueError(f"a box is x0, y0, x1, y1 in pixels, not {numbers}.")
    x0, y0, x1, y1 = numbers
    inside = [max(x0, 0.0), max(y0, 0.0), min(x1, width), min(y1, height)]
    if not (inside[0] < inside[2] and inside[1] < inside[3]):  # also for nan
        raise ValueError(
            f"the box {numbers} has no area in its picture of {width} x {height} pixels: a box is "
            "x0, y0, x1, y1 in pixels."
        )
    return inside
