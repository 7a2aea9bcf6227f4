import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from gridclip.modeling import TextClassifier
from gridclip.vild import ViLDClassifier, ensemble_scores

NOVEL = (2, 5)


@pytest.fixture
def classifier(vocabulary):
    return ViLDClassifier(vocabulary(6), embed_dim=32, novel_classes=NOVEL)


def state(classifier):
    return classifier.names, classifier.text_embeddings.tolist(), classifier.is_novel.tolist()


def test_logits_are_cosines_times_100(classifier):
    embeddings = 3 * torch.randn(4, 32)
    logits = classifier(embeddings)
    columns = [*classifier.text_embeddings, classifier.background]
    for i, row in enumerate(embeddings):
        for j, column in enumerate(columns):
            cosine = F.cosine_similarity(row, column, dim=0)
            assert logits[i, j].item() == pytest.approx(100 * cosine.item(), abs=1e-3)
    assert logits.shape == (4, 7)


def test_background_is_random_and_counts_by_its_direction_alone(vocabulary):
    torch.manual_seed(0)
    wide = ViLDClassifier(vocabulary(2, dim=4096), embed_dim=4096, novel_classes=())
    assert wide.background.std().item() == pytest.approx(0.01, rel=0.05)
    assert abs(wide.background.mean().item()) < 0.001
    x = torch.randn(3, 4096)
    before = wide(x)
    wide.background.data.mul_(7)
    torch.testing.assert_close(wide(x), before, atol=1e-3, rtol=0)


def test_only_the_background_is_trained_and_saved(classifier):
    assert isinstance(classifier, TextClassifier)
    assert [name for name, _ in classifier.named_parameters()] == ["background"]
    assert list(classifier.state_dict()) == ["background"]


def test_masked_softmax_is_a_softmax_over_base_and_background(classifier):
    embeddings, labels = torch.randn(5, 32, requires_grad=True), torch.tensor([0, 1, 3, 4, 6])
    loss = F.cross_entropy(classifier.training_logits(embeddings), labels)
    columns = [0, 1, 3, 4, 6]
    reduced = classifier(embeddings)[:, columns]
    expected = F.cross_entropy(reduced, torch.arange(5))
    torch.testing.assert_close(loss, expected)
    (actual,) = torch.autograd.grad(loss, embeddings)
    torch.testing.assert_close(actual, torch.autograd.grad(expected, embeddings)[0])
    probabilities = classifier.training_logits(embeddings).softmax(dim=1)
    assert (probabilities[:, list(NOVEL)] == 0).all()


def test_novel_embeddings_are_neither_read_nor_trained(classifier):
    embeddings, labels = torch.randn(5, 32), torch.tensor([0, 1, 3, 4, 6])

    def run():
        x = embeddings.clone().requires_grad_()
        text = classifier.text_embeddings = classifier.text_embeddings.detach().requires_grad_()
        loss = F.cross_entropy(classifier.training_logits(x), labels)
        return loss, *torch.autograd.grad(loss, (x, text, classifier.background))

    loss, grad, text_grad, background_grad = run()
    assert (text_grad[list(NOVEL)] == 0).all() and text_grad[0].abs().sum() > 0
    with torch.no_grad():
        classifier.text_embeddings[list(NOVEL)] = float("nan")
    again = run()
    assert torch.isfinite(again[0])
    for a, b in zip(again, (loss, grad, text_grad, background_grad), strict=True):
        torch.testing.assert_close(a, b, rtol=0, atol=0)


def test_no_embeddings_and_no_novel_categories(classifier, vocabulary):
    assert classifier.training_logits(torch.empty(0, 32)).shape == (0, 7)
    every = ViLDClassifier(vocabulary(6), embed_dim=32, novel_classes=())
    x = torch.randn(3, 32)
    torch.testing.assert_close(every.training_logits(x), every(x))


def test_full_precision_under_autocast(classifier):
    embeddings = torch.randn(4, 32)
    expected = classifier(embeddings)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        logits = classifier(embeddings)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, expected)


def test_vocabulary_swaps_all_or_nothing(classifier, vocabulary, tmp_path):
    before = state(classifier)
    missing = tmp_path / "missing.safetensors"
    for bad, error in ((vocabulary(3, dim=8), "width"), (missing, "missing.safetensors")):
        with pytest.raises((ValueError, FileNotFoundError), match=error):
            classifier.set_vocabulary(bad)
        assert state(classifier) == before
    vocabulary(3).save(tmp_path / "three.safetensors")
    classifier.set_vocabulary(tmp_path / "three.safetensors")
    assert classifier.num_classes == 3 and classifier(torch.randn(2, 32)).shape == (2, 4)


def test_novel_is_by_default_what_was_no_base_category(classifier, vocabulary):
    classifier.set_vocabulary(vocabulary(8))  # things 0 to 7: 0, 1, 3, 4 were base
    assert classifier.is_novel.tolist() == [False, False, True, False, False, True, True, True]
    classifier.set_vocabulary(vocabulary(2, prefix="other"))
    assert classifier.is_novel.tolist() == [True, True]
    classifier.set_vocabulary(vocabulary(6))
    assert classifier.is_novel.nonzero().flatten().tolist() == list(NOVEL)


def test_refuses_impossible_novel_classes(vocabulary):
    for impossible in (6, -1):
        with pytest.raises(ValueError, match=f"novel_classes has {impossible}"):
            ViLDClassifier(vocabulary(6), embed_dim=32, novel_classes=[impossible])
    with pytest.raises(ValueError, match="All categories are novel"):
        ViLDClassifier(vocabulary(2), embed_dim=32, novel_classes=[0, 1])


def softmax(values):
    total = sum(math.exp(v - max(values)) for v in values)
    return [math.exp(v - max(values)) / total for v in values]


rows = st.lists(st.floats(-30, 30), min_size=8, max_size=8)


@settings(max_examples=50)
@given(text=rows, image=rows, novel=st.sets(st.integers(0, 6)))
def test_ensemble_is_the_weighted_geometric_mean(text, image, novel):
    is_novel = torch.tensor([i in novel for i in range(7)])
    as_rows = [torch.tensor([x], dtype=torch.float64) for x in (text, image)]
    scores = ensemble_scores(*as_rows, is_novel)
    p_text, p_image = softmax(text), softmax(image[:7])  # the image head has no background
    for i in range(7):
        a, b = (1 / 3, 2 / 3) if i in novel else (2 / 3, 1 / 3)
        assert scores[0, i].item() == pytest.approx(p_text[i] ** a * p_image[i] ** b, rel=1e-5)
    assert scores[0, 7].item() == pytest.approx(p_text[7], rel=1e-5)


@settings(max_examples=25)
@given(text=rows, image=rows, novel=st.sets(st.integers(0, 6)))
def test_weight_turned_round_is_base_and_novel_swapped(text, image, novel):
    is_novel = torch.tensor([i in novel for i in range(7)])
    text, image = torch.tensor([text]).double(), torch.tensor([image]).double()
    swapped = ensemble_scores(text, image, ~is_novel)
    torch.testing.assert_close(ensemble_scores(text, image, is_novel, weight=1 / 3), swapped)


def test_ensemble_of_equal_heads_is_either_of_them():
    logits = torch.randn(4, 8)
    logits[:, -1] = -math.inf  # without background both have one softmax
    scores = ensemble_scores(logits, logits, torch.arange(7) % 2 == 0)
    torch.testing.assert_close(scores, logits.softmax(dim=1))


def test_ensemble_without_proposals():
    empty = torch.empty(0, 8)
    assert ensemble_scores(empty, empty, torch.zeros(7, dtype=torch.bool)).shape == (0, 8)
