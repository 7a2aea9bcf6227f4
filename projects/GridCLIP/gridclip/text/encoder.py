"""From category names to text embeddings, with CLIP's text encoder."""

import logging
import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import clip
import torch
from clip.model import CLIP
from torch import Tensor
from torch.nn import functional as F
from tqdm import tqdm

from gridclip.clip_weights import CLIPCheckpoint, load_clip
from gridclip.text.embeddings import TextEmbeddings, as_strings, quote
from gridclip.text.names import Category, load_categories, make_categories, prompt_phrases
from gridclip.text.prefixes import encode_tokens, sort_prompts
from gridclip.text.templates import get_templates, render_prompts

Vocabulary = TextEmbeddings | str | os.PathLike | Sequence[str]


@torch.no_grad()
def encode_prompts(prompts: Sequence[str], clip_model: CLIP) -> Tensor:
    """Encode P prompts as one batch.

    Returns:
        (P, D) float32 on the model's device, every row of unit norm.

    Raises:
        ValueError: a prompt has more tokens than CLIP reads, 77 with those of its start and end.
    """
    return _encode_tokens(_tokenize(prompts, clip_model.context_length), clip_model)


@torch.no_grad()
def build_text_embeddings(
    categories: Sequence[Category],
    clip_model: CLIP,
    templates: str | Sequence[str] = "imagenet",
    *,
    use_synonyms: bool = False,
    batch_size: int = 256,
    progress: bool = True,
) -> Tensor:
    """One embedding a category: the mean of its prompts' unit embeddings, scaled to unit norm.

    Args:
        templates: a set's name in ``TEMPLATES``, or the templates themselves.
        use_synonyms: put the synonyms into the templates too; each word has the same weight.
        batch_size: prompts encoded at a time.

    Returns:
        (C, D) float32 on the CPU, every row of unit norm, of C categories.

    Raises:
        ValueError: a prompt is too long (the message names its category), or the templates are
            not valid.
    """
    templates = get_templates(templates)
    embed_dim = clip_model.text_projection.shape[1]
    if not categories:
        return torch.zeros(0, embed_dim)
    tokens, rows = _tokenize_categories(
        categories, templates, use_synonyms, clip_model.context_length, progress
    )
    sums = torch.zeros(len(categories), embed_dim)
    with tqdm(total=len(rows), desc="Encoding", unit="prompt", disable=not progress) as bar:
        for batch in sort_prompts(tokens).split(batch_size):
            sums.index_add_(0, rows[batch], _encode_tokens(tokens[batch], clip_model).cpu())
            bar.update(len(batch))
    return F.normalize(sums, dim=1)  # cancels the number of prompts: the mean is not needed


def as_text_embeddings(
    vocabulary: Vocabulary,
    clip_source: str | os.PathLike,
    templates: str | Sequence[str] = "imagenet",
    *,
    use_synonyms: bool = False,
    device: str | torch.device = "cpu",
    progress: bool | None = None,
) -> TextEmbeddings:
    """The text embeddings of a vocabulary. Warns of names in other scripts than the Latin one.

    Args:
        vocabulary: C category names; what ``load_categories`` takes: "lvis_v1", "coco", ..., or
            a file of names; text embeddings or their ``.safetensors`` file, which are returned
            as they are.
        clip_source: the CLIP model that embeds names, as ``load_clip`` takes it: a file, or
            ``clip://RN50``.
        templates, use_synonyms: as in ``build_text_embeddings``.
        device: where CLIP runs.
        progress: show a progress bar; None shows it for more than 100 names.

    Raises:
        FileNotFoundError, ValueError: a file, the weights or the templates are not usable, there
            are no names, or two are the same.
    """
    if isinstance(found := find_names(vocabulary), TextEmbeddings):
        return found
    templates = get_templates(templates)  # an error in them shows before CLIP is loaded
    return embed_names(
        found,
        *load_clip(clip_source, device),
        templates,
        use_synonyms=use_synonyms,
        progress=progress,
    )


def find_names(vocabulary: Vocabulary) -> TextEmbeddings | list[Category]:
    """What a vocabulary names: text embeddings, of a ``.safetensors`` file too, or categories that
    have to be embedded. Raises as :func:`as_text_embeddings`, and warns as it does."""
    if isinstance(vocabulary, TextEmbeddings):
        return vocabulary
    if not isinstance(vocabulary, str | os.PathLike):
        categories = make_categories(as_strings(vocabulary, "names"))
    elif Path(vocabulary).suffix == ".safetensors":
        return TextEmbeddings.load(vocabulary)
    else:
        categories = load_categories(vocabulary)
    if foreign := [category.name for category in categories if not _is_latin(category.name)]:
        logging.getLogger(__name__).warning(
            f"OpenAI's CLIP reads English: next to nothing is found by {quote(foreign, 3)}. "
            "Give English words."
        )
    return categories


def embed_names(
    categories: Sequence[Category],
    clip_model: CLIP,
    checkpoint: CLIPCheckpoint,
    templates: Sequence[str],
    *,
    use_synonyms: bool = False,
    progress: bool | None = None,
) -> TextEmbeddings:
    """The text embeddings of categories, by a CLIP that ``load_clip`` returned; the rest as in
    :func:`as_text_embeddings`."""
    if progress is None:
        progress = len(categories) > 100  # fewer are embedded in seconds
    options = dict(use_synonyms=use_synonyms, progress=progress)
    return TextEmbeddings(
        names=tuple(category.name for category in categories),
        embeddings=build_text_embeddings(categories, clip_model, templates, **options),
        templates=tuple(templates),
        clip_model=checkpoint.model_id,
        clip_sha256=checkpoint.sha256,
    )


def _is_latin(name: str) -> bool:
    return all("LATIN" in unicodedata.name(x, "") for x in name if x.isalpha())


def _tokenize_categories(
    categories: Sequence[Category],
    templates: Sequence[str],
    use_synonyms: bool,
    context_length: int,
    progress: bool,
) -> tuple[Tensor, Tensor]:
    """All P prompts' tokens (P, context_length) and the categories they are for (P,)."""
    tokens, rows = [], []
    phrases_of = prompt_phrases(categories, use_synonyms)
    for row, phrases in enumerate(tqdm(phrases_of, "Tokenising", disable=not progress)):
        prompts = [prompt for phrase in phrases for prompt in render_prompts(phrase, templates)]
        try:
            tokens.append(_tokenize(prompts, context_length))
        except ValueError as error:
            raise ValueError(f"Category '{categories[row].name}': {error}") from error
        rows += [row] * len(prompts)
    return torch.cat(tokens), torch.tensor(rows)


def _tokenize(prompts: Sequence[str], context_length: int) -> Tensor:
    try:
        return clip.tokenize(list(prompts), context_length)
    except RuntimeError as error:  # it quotes the prompt
        raise ValueError(f"{error}; give a shorter name.") from error


def _encode_tokens(tokens: Tensor, clip_model: CLIP) -> Tensor:
    return F.normalize(encode_tokens(tokens, clip_model).float(), dim=-1)
