import math

import pytest
import torch
import torch.nn.functional as F

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
