"""Prompts encoded as a tree of tokens, against CLIP's own encoder, which takes each by itself."""

from collections.abc import Callable

import clip
import pytest
import torch
from clip.model import CLIP, convert_weights
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn import functional as F

from gridclip.clip_weights import load_clip
from gridclip.text import Category, build_text_embeddings, get_templates, render_prompts
from gridclip.text.prefixes import encode_tokens, sort_prompts

DEVICES = ["cpu", *["cuda"] * torch.cuda.is_available()]
CONTEXT = 77


@pytest.fixture(scope="module")
def model(make_clip) -> CLIP:
    path = make_clip(embed_dim=32, transformer_width=128, transformer_heads=2, transformer_layers=3)
    return load_clip(path)[0]


@torch.no_grad()
def expect(tokens: Tensor, model: CLIP) -> Tensor:
    return F.normalize(model.encode_text(tokens), dim=-1)


def check(tokens: Tensor, model: CLIP) -> None:
    with torch.no_grad():
        encoded = F.normalize(encode_tokens(tokens, model), dim=-1)
    torch.testing.assert_close(encoded, expect(tokens, model), rtol=0, atol=1e-5)


def count_rows(module: nn.Module, run: Callable[[], object]) -> int:
    """Rows that a module is given while something runs."""
    rows: list[int] = []
    handle = module.register_forward_hook(
        lambda module, inputs, output: rows.append(output.flatten(0, -2).shape[0])
    )
    run()
    handle.remove()
    return sum(rows)


# Names and templates whose tokens merge over the border: "cats", "of thecat", "un" + "believable".
words = st.sampled_from(
    ["cat", "Cat", "cat's", "s", "fire hydrant", "fire truck", "犬", "🦄 é", "8"]
)
names = st.one_of(
    words,
    st.lists(words, min_size=2, max_size=24).map(" ".join),
    st.text(st.characters(codec="utf-8"), max_size=8),
)
templates = st.sampled_from(
    [
        *["{}", "{}s", "a photo of a {}.", "a photo of the {}.", "a photo of a cool {}."],
        *["a photo of the{}", "the {} in a video game.", "un{}able", "{article} {} and more"],
    ]
)


@given(
    st.lists(names, min_size=1, max_size=6),
    st.lists(templates, min_size=1, max_size=6),
    st.booleans(),
)
@example(["cat"] * 9, ["{}", "{}"], True)  # more prompts of one path than attend in one matrix
@example(["s", "cat"], ["a photo of the{}", "a photo of the{}", "{}s"], False)
@example(["cat " * 40, "cat " * 34], ["{}", "{article} {}"], True)
@example(["cat <|endoftext|> dog", "cat <|endoftext|>", "<|startoftext|>"], ["a {}."], True)
@settings(max_examples=150)
def test_as_clip_encodes_each_prompt(model, names, templates, ordered):
    prompts = [prompt for name in names for prompt in render_prompts(name, templates)]
    tokens = clip.tokenize(prompts, CONTEXT, truncate=True)
    check(tokens[sort_prompts(tokens)] if ordered else tokens, model)


token_paths = st.lists(st.integers(0, 2), max_size=CONTEXT - 2)


@given(st.lists(token_paths, min_size=1, max_size=40))
@settings(max_examples=100)
def test_any_tree(model, paths):
    """Of few different tokens, so that prompts meet, part, end within another, and are the same;
    a 0 within a prompt is no padding."""
    start, end = clip.tokenize("")[0, :2].tolist()
    tokens = torch.zeros(len(paths), CONTEXT, dtype=torch.int32)
    for row, path in zip(tokens, paths, strict=True):
        row[: len(path) + 2] = torch.tensor([start, *path, end])
    check(tokens, model)
    check(tokens[sort_prompts(tokens)], model)


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("has_onednn", [True, False])
def test_devices_and_libraries(make_clip, monkeypatch, device, has_onednn):
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: has_onednn)
    model, _ = load_clip(make_clip(embed_dim=32, transformer_layers=2), device)
    tokens = clip.tokenize(render_prompts("hot dog", "imagenet"))
    encoded = F.normalize(encode_tokens(tokens, model), dim=-1)
    assert encoded.device.type == device
    torch.testing.assert_close(encoded, expect(tokens.to(device), model), rtol=0, atol=1e-5)


@torch.no_grad()
def test_half_precision(make_clip):
    tokens = clip.tokenize(render_prompts("hot dog", "imagenet"))
    half, _ = load_clip(make_clip(embed_dim=32, transformer_layers=2))
    convert_weights(half)  # to float16, as OpenAI's are kept
    encoded = encode_tokens(tokens, half)
    assert encoded.dtype == torch.float16
    torch.testing.assert_close(
        F.normalize(encoded, dim=-1), expect(tokens, half), rtol=0, atol=0.01
    )


def test_what_prompts_have_in_common_is_encoded_once(model):
    tokens = clip.tokenize(["a photo of a cat", "a photo of a cat", "a photo of the dog", "a cat"])
    # start, a, photo, of, a, cat, end; then: the, dog, end; then: cat, end
    assert count_rows(model.token_embedding, lambda: encode_tokens(tokens, model)) == 12
    last = model.transformer.resblocks[-1].ln_2
    assert count_rows(last, lambda: encode_tokens(tokens, model)) == 4  # end tokens alone


def test_two_names_cost_half_of_their_tokens(model):
    categories = [Category("zebra"), Category("fire hydrant")]
    templates = get_templates("imagenet")
    tokens = clip.tokenize([x for c in categories for x in render_prompts(c.name, templates)])
    rows = count_rows(
        model.token_embedding,
        lambda: build_text_embeddings(categories, model, templates, progress=False),
    )
    assert rows < 0.55 * int((tokens > 0).sum())


def test_neighbours_begin_alike():
    prompts = ["a photo of a cat", "the dog", "a photo of the cat", "a photo of a dog", "the cat"]
    order = sort_prompts(clip.tokenize(prompts)).tolist()
    begins = [" ".join(prompts[i].split()[:-1]) for i in order]
    assert begins in (
        ["a photo of a", "a photo of a", "a photo of the", "the", "the"],
        ["a photo of the", "a photo of a", "a photo of a", "the", "the"],
        ["the", "the", "a photo of a", "a photo of a", "a photo of the"],
        ["the", "the", "a photo of the", "a photo of a", "a photo of a"],
    )


def test_the_reference_tells_prompts_apart(model):
    """By far more than the tolerance; so does the order of words."""
    encoded = expect(clip.tokenize(["a cat", "a dog", "the cat", "cat a", "a cat."]), model)
    distances = torch.cdist(encoded, encoded) + torch.eye(5)
    assert distances.min() > 1e-2
