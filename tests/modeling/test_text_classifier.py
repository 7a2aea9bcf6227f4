import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling import ClosedSetClassifier, TextClassifier
from gridclip.text import TextEmbeddings


def vocabulary(count, dim=8, seed=0):
    table = torch.randn(count, dim, generator=torch.Generator().manual_seed(seed))
    return TextEmbeddings(
        tuple(f"thing {i}" for i in range(count)), F.normalize(table, dim=1), (), "RN50", ""
    )


def test_logits_are_scaled_cosines():
    text = vocabulary(5)
    classifier = TextClassifier(text, embed_dim=8, scale=20.0, prior_prob=0.01)
    x = 3 * torch.randn(2, 4, 8)
    expected = 20 * F.cosine_similarity(x[..., None, :], text.embeddings, dim=-1)
    expected = expected + math.log(0.01 / 0.99)
    torch.testing.assert_close(classifier(x), expected)
    classes = torch.tensor([3, 1])
    torch.testing.assert_close(classifier(x, classes), expected[..., classes])


def test_length_of_embedding_does_not_matter_and_zero_is_finite():
    classifier = TextClassifier(vocabulary(5), embed_dim=8)
    x = torch.randn(4, 8)
    torch.testing.assert_close(classifier(x), classifier(100 * x))
    zero = torch.zeros(1, 8, requires_grad=True)
    classifier(zero).sum().backward()
    assert torch.isfinite(zero.grad).all()


def test_folded_logits_are_as_exact_in_mixed_precision():
    classifier, projection = (
        TextClassifier(vocabulary(7), embed_dim=8),
        torch.nn.Linear(6, 8, False),
    )
    x = torch.randn(2, 5, 6).bfloat16()  # as the head's features are
    expected = classifier.fold(projection)(x.float())
    with torch.autocast("cpu", torch.bfloat16):
        logits = classifier.fold(projection)(x)
    assert logits.dtype == torch.float32 and torch.equal(logits, expected)


@pytest.mark.parametrize(("features", "dim"), [(6, 32), (32, 32), (48, 32)])
@settings(max_examples=25)
@given(seed=st.integers(0, 2**16), exponent=st.integers(-3, 3), subset=st.booleans())
def test_folded_equals_plain(features, dim, seed, exponent, subset):
    """Values and gradients, for projections of any shape, scale and near-degenerate columns."""
    generator = torch.Generator().manual_seed(seed)
    classifier = TextClassifier(vocabulary(7, dim), embed_dim=dim)
    projection = torch.nn.Linear(features, dim, bias=False)
    with torch.no_grad():
        projection.weight.copy_(torch.randn(dim, features, generator=generator) * 10.0**exponent)
        projection.weight[:, 0] = projection.weight[:, 1] + 1e-2 * projection.weight[:, 0]
    x = torch.randn(2, 5, features, generator=generator, requires_grad=True)
    classes = torch.tensor([4, 0, 2]) if subset else None

    plain = classifier(projection(x), classes)
    classify = classifier.fold(projection, classes)
    folded = classify(x)
    torch.testing.assert_close(folded, plain, rtol=1e-4, atol=1e-4)
    best = plain.amax(dim=-1).flatten()
    torch.testing.assert_close(classify.best(x.flatten(0, 1)), best, rtol=1e-4, atol=1e-4)

    upstream = torch.randn(plain.shape, generator=generator)
    variables = (x, projection.weight, classifier.log_scale, classifier.bias)
    expected = torch.autograd.grad((plain * upstream).sum(), variables)
    actual = torch.autograd.grad((folded * upstream).sum(), variables)
    for a, b in zip(actual, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-3 * float(b.abs().max()))


def test_folded_takes_zero_features():
    classifier = TextClassifier(vocabulary(5), embed_dim=8)
    projection = torch.nn.Linear(4, 8, bias=False)
    zero = torch.zeros(3, 4, requires_grad=True)
    classify = classifier.fold(projection)
    logits = classify(zero)
    torch.testing.assert_close(logits, classifier.bias.expand(3, 5))
    torch.testing.assert_close(classify.best(zero), classifier.bias.expand(3))
    logits.sum().backward()
    assert torch.isfinite(zero.grad).all() and torch.isfinite(projection.weight.grad).all()


def test_empty_batch():
    classifier = TextClassifier(vocabulary(5), embed_dim=8)
    assert classifier(torch.zeros(0, 8)).shape == (0, 5)
    assert classifier(torch.zeros(3, 8), torch.empty(0, dtype=torch.long)).shape == (3, 0)


def test_text_side_is_neither_trained_nor_saved():
    classifier = TextClassifier(vocabulary(5), embed_dim=8)
    assert {name for name, _ in classifier.named_parameters()} == {"log_scale", "bias"}
    assert set(classifier.state_dict()) == {"log_scale", "bias"}


def test_set_vocabulary_swaps_all_or_nothing(tmp_path):
    classifier = TextClassifier(vocabulary(5), embed_dim=8)
    vocabulary(7, seed=1).save(tmp_path / "seven.safetensors")
    classifier.set_vocabulary(tmp_path / "seven.safetensors")
    assert classifier.num_classes == 7 and classifier(torch.randn(2, 8)).shape == (2, 7)
    before = classifier.text_embeddings.clone()
    for bad in (vocabulary(3, dim=4), tmp_path / "missing.safetensors"):
        with pytest.raises((ValueError, FileNotFoundError)):
            classifier.set_vocabulary(bad)
        assert classifier.num_classes == 7 and len(classifier.names) == 7
        assert torch.equal(classifier.text_embeddings, before)


def test_closed_set_learns_its_vectors_and_keeps_its_vocabulary():
    classifier = ClosedSetClassifier(vocabulary(5), embed_dim=8)
    classifier(torch.randn(4, 8)).square().sum().backward()
    assert classifier.class_embeddings.grad.abs().sum() > 0
    with pytest.raises(ValueError, match="closed-set"):
        classifier.set_vocabulary(vocabulary(7))
