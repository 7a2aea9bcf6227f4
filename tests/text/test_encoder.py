import clip
import open_clip
import pytest
import torch
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from gridclip.clip_weights import load_clip
from gridclip.text import (
    Category,
    TextEmbeddings,
    as_text_embeddings,
    build_text_embeddings,
    encode_prompts,
)

DIM = 32


@pytest.fixture(scope="module")
def archive(make_clip):
    return make_clip(embed_dim=DIM, image_resolution=32, transformer_layers=2)


@pytest.fixture(scope="module")
def model(archive):
    return load_clip(archive)[0]


CATEGORIES = [Category("cat"), Category("fire hydrant"), Category("8-ball"), Category("Bible")]


def test_zero_shot_classifier_of_open_clip(archive, model):
    reference_model = open_clip.load_openai_model(str(archive), precision="fp32", device="cpu")
    expected = open_clip.build_zero_shot_classifier(
        reference_model.eval(),
        open_clip.tokenize,
        [category.name for category in CATEGORIES],
        OPENAI_IMAGENET_TEMPLATES,
    )
    embeddings = build_text_embeddings(CATEGORIES, model, "imagenet", progress=False)
    assert embeddings.shape == (4, DIM) and embeddings.dtype == torch.float32
    torch.testing.assert_close(embeddings, expected.T, rtol=1e-4, atol=1e-5)
    # Random weights tell the categories apart by far more than the tolerance.
    assert (expected.T - expected.T.roll(1, 0)).abs().max(dim=1).values.min() > 1e-2


def test_trimmed_padding_changes_nothing(model):
    prompts = ["a cat", "a photo of a very large fire hydrant in the scene.", ""]
    expected = model.encode_text(clip.tokenize(prompts))
    expected = expected / expected.norm(dim=-1, keepdim=True)
    torch.testing.assert_close(encode_prompts(prompts, model), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_batch_size_changes_nothing(model, batch_size):
    # Prompts of a category fall into different batches and are trimmed to different lengths.
    templates = ("a {}", "a photo of the {} in the scene.", "itap of my {}.", "{}")
    options = dict(templates=templates, progress=False)
    expected = build_text_embeddings(CATEGORIES, model, **options)
    embeddings = build_text_embeddings(CATEGORIES, model, batch_size=batch_size, **options)
    torch.testing.assert_close(embeddings, expected, rtol=1e-4, atol=1e-5)


def test_synonyms_are_averaged_and_off_by_default(model):
    categories = [Category("cat", ("kitty", "house cat"))]
    words = encode_prompts(["a cat", "a kitty", "a house cat"], model)
    plain = build_text_embeddings(categories, model, "name", progress=False)
    torch.testing.assert_close(plain, words[:1], rtol=1e-4, atol=1e-5)
    averaged = build_text_embeddings(categories, model, "name", use_synonyms=True, progress=False)
    mean = words.mean(dim=0, keepdim=True)
    torch.testing.assert_close(averaged, mean / mean.norm(), rtol=1e-4, atol=1e-5)


def test_no_categories_and_no_prompts(model):
    embeddings = build_text_embeddings([], model, "single", progress=False)
    assert embeddings.shape == (0, DIM) and embeddings.dtype == torch.float32
    assert encode_prompts([], model).shape == (0, DIM)


def test_embeddings_can_enter_a_graph(model):
    weight = torch.ones(DIM, requires_grad=True)
    (build_text_embeddings(CATEGORIES, model, "single", progress=False) @ weight).sum().backward()
    assert weight.grad.isfinite().all()


def test_too_long_a_name_is_named(model):
    categories = [*CATEGORIES, Category("long one", ("cat " * 90,)), Category("dog")]
    with pytest.raises(
        ValueError, match="Category 'long one'.*cat cat.*too long for context length 77"
    ):
        build_text_embeddings(
            categories, model, "single", use_synonyms=True, batch_size=2, progress=False
        )


def test_a_datasets_text_embeddings_and_their_file(archive, tmp_path):
    output = tmp_path / "new" / "voc.safetensors"
    made = as_text_embeddings("voc", archive, "single", progress=False)
    made.save(output)
    read = TextEmbeddings.load(output)
    assert read.names == made.names and len(read) == 20 and read.dim == DIM
    assert read.clip_model == "tiny" and len(read.clip_sha256) == 64
    assert read.templates == ("a photo of a {}.",)
    torch.testing.assert_close(read.embeddings, made.embeddings, rtol=0, atol=0)


def test_names_are_checked_before_clip_is_loaded(tmp_path):
    with pytest.raises(FileNotFoundError, match="No category names"):
        as_text_embeddings(tmp_path / "names.txt", tmp_path / "no_clip.pt")


def test_names_beyond_the_latin_script_are_warned_of_once_a_call(archive, caplog):
    names = ["犬", "cat", "고양이", "crème brûlée", "лиса", "Ford T", "ネコ", "5 %"]
    for _ in range(2):
        caplog.clear()
        made = as_text_embeddings(names, archive, "single", progress=False)
        assert made.names == tuple(names)
        (warning,) = caplog.messages
        assert "OpenAI's CLIP reads English" in warning
        assert "'犬', '고양이', 'лиса' and 1 more. Give English words" in warning


def test_latin_names_are_not_warned_of(archive, caplog):
    as_text_embeddings(["cat", "crème brûlée", "phở", "½ inch"], archive, "single")
    assert not caplog.messages
