import math
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from gridclip.modeling import (
    BackboneImageAlignment,
    CLIPResNet,
    DenseImageAlignment,
    GridImageAlignment,
)
from gridclip.modeling.image_alignment import Maps

WHOLE = torch.tensor([[[0.0, 0.0, 1.0, 1.0]]] * 2)  # of two pictures
# Its grid features are the embeddings themselves.
DETECTOR = SimpleNamespace(head=SimpleNamespace(grid_embedding=torch.nn.Identity()))


def grid(height, width, stride):
    """Centres (R, 2) of a map's locations."""
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    return torch.stack([x, y], dim=-1).reshape(-1, 2).float() * stride + stride / 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("cosine", lambda s, t: (1 - F.cosine_similarity(s, t, dim=-1)).mean()),
        ("l1", lambda s, t: F.l1_loss(s, t) * s.shape[-1]),
        ("l2", lambda s, t: F.mse_loss(s, t) * s.shape[-1]),
    ],
)
def test_losses_compare_unit_vectors(name, expected):
    alignment = BackboneImageAlignment(loss=name, weight=0.5)
    student, teacher = torch.randn(3, 2, 16), torch.randn(3, 2, 16)
    unit = F.normalize(student, dim=-1), F.normalize(teacher, dim=-1)
    windows = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(3, 2, 4)
    torch.testing.assert_close(alignment(student, teacher, windows), 0.5 * expected(*unit))
    assert alignment(teacher, teacher, windows).item() == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("name", ["cosine", "l1", "l2", "contrastive"])
def test_an_empty_window_counts_for_nothing(name):
    """Whatever its vectors are: the loss is that of the other windows as a batch of their own."""
    alignment = BackboneImageAlignment(loss=name, weight=0.5)
    student, teacher = torch.randn(2, 3, 16, requires_grad=True), torch.randn(2, 3, 16)
    windows = torch.rand(2, 3, 2).repeat(1, 1, 2) + torch.tensor([0.0, 0.0, 0.5, 0.5])
    windows[0, 1], windows[1, 0, 3] = 0, windows[1, 0, 1]  # all zeros; and of no height
    loss = alignment(student, teacher, windows)
    rows = [0, 2, 4, 5]
    alone = [x.detach().flatten(0, 1)[rows][None] for x in (student, teacher)]
    assert loss.item() == alignment(*alone, windows.flatten(0, 1)[rows][None]).item()
    loss.backward()
    assert student.grad.flatten(0, 1).abs().sum(dim=1).gt(0).tolist() == [
        i in rows for i in range(6)
    ]


@pytest.mark.parametrize("name", ["cosine", "contrastive"])
def test_the_loss_is_as_exact_in_mixed_precision(name):
    alignment = BackboneImageAlignment(loss=name)
    student, teacher = torch.randn(2, 3, 16), torch.randn(2, 3, 16)
    windows = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 4)
    plain = alignment(student, teacher, windows)
    with torch.autocast("cpu", torch.bfloat16):
        assert alignment(student, teacher, windows).item() == plain.item()


@pytest.mark.parametrize("name", ["cosine", "contrastive"])
def test_a_batch_without_windows_gives_zero_with_a_gradient(name):
    student = torch.randn(2, 3, 16, requires_grad=True)
    loss = BackboneImageAlignment(loss=name)(student, torch.randn(2, 3, 16), torch.zeros(2, 3, 4))
    loss.backward()
    assert loss.item() == 0 and torch.equal(student.grad, torch.zeros_like(student))


def test_unknown_loss_is_an_error():
    with pytest.raises(KeyError):
        BackboneImageAlignment(loss="hinge")


def test_contrastive_loss_tells_the_batchs_windows_apart():
    alignment = BackboneImageAlignment(loss="contrastive", weight=0.5)
    targets = torch.eye(6).view(2, 3, 6)
    windows = torch.tensor([0.0, 0.0, 1.0, 1.0]).expand(2, 3, 4)
    right = math.log(1 + 5 * math.exp(-20))
    assert alignment(7 * targets, targets, windows).item() == pytest.approx(0.5 * right, abs=1e-6)
    mean = targets.mean(dim=(0, 1), keepdim=True).expand_as(targets)
    assert alignment(mean, targets, windows).item() == pytest.approx(0.5 * math.log(6))
    other = targets.flip(0)  # each window's vector is one of the other picture's
    assert alignment(other, targets, windows).item() == pytest.approx(0.5 * (20 + right), abs=1e-4)


def grid_alignment_inputs():
    features = {"p3": torch.randn(2, 4, 4, 6), "p4": torch.randn(2, 4, 2, 3)}
    centers = torch.cat([grid(4, 6, 8), grid(2, 3, 16)])
    embeddings = torch.randn(2, len(centers), 5)
    return features, centers, embeddings


def test_grid_pool_starts_as_the_mean_over_the_picture_without_padding():
    features, centers, embeddings = grid_alignment_inputs()
    alignment = GridImageAlignment(in_features=["p3", "p4"], in_channels=4)
    sizes = [(32, 48), (16, 24)]  # the second picture fills a quarter of the batch
    pooled = alignment.pool(Maps(DETECTOR, features, embeddings, centers, WHOLE, sizes))
    assert pooled.shape == (2, 1, 5)
    torch.testing.assert_close(pooled[0, 0], embeddings[0].mean(dim=0))
    inside = (centers[:, 0] < 24) & (centers[:, 1] < 16)
    torch.testing.assert_close(pooled[1, 0], embeddings[1, inside].mean(dim=0))


def test_grid_pool_takes_windows_and_attention():
    features, centers, embeddings = grid_alignment_inputs()
    alignment = GridImageAlignment(in_features=["p3", "p4"], in_channels=4)
    torch.nn.init.normal_(alignment.attention.weight)
    windows = torch.tensor([[[0.0, 0.0, 0.5, 1.0]], [[0.5, 0.5, 1.0, 1.0]]])  # one a picture
    pooled = alignment.pool(Maps(DETECTOR, features, embeddings, centers, windows, [(32, 48)] * 2))

    def attention(image):
        weight, bias = alignment.attention.weight, alignment.attention.bias
        return torch.cat([F.conv2d(f, weight, bias)[image, 0].flatten() for f in features.values()])

    inside = (centers[:, 0] >= 24) & (centers[:, 1] >= 16)
    weights = attention(1)[inside].softmax(dim=0)
    torch.testing.assert_close(pooled[1, 0], weights @ embeddings[1, inside])
    left = centers[:, 0] < 24
    weights = attention(0)[left].softmax(dim=0)
    torch.testing.assert_close(pooled[0, 0], weights @ embeddings[0, left])


def test_grid_pool_teaches_the_grid_embeddings():
    features, centers, embeddings = grid_alignment_inputs()
    embeddings.requires_grad_()
    alignment = GridImageAlignment(in_features=["p3", "p4"], in_channels=4)
    pooled = alignment.pool(
        Maps(DETECTOR, features, embeddings, centers, WHOLE, [(32, 48), (16, 24)])
    )
    alignment(pooled, torch.randn(2, 1, 5), WHOLE).backward()
    assert embeddings.grad[0].abs().sum(dim=-1).gt(0).all()
    assert alignment.attention.weight.grad.abs().sum() > 0


def test_grid_pool_of_a_window_without_a_location_is_zero():
    features, centers, embeddings = grid_alignment_inputs()
    alignment = GridImageAlignment(in_features=["p3", "p4"], in_channels=4)
    windows = torch.tensor([[[0.0, 0.0, 1.0, 1.0], [0.0, 0.0, 0.05, 1.0]]] * 2)
    sizes = [(32, 48)] * 2
    pooled = alignment.pool(Maps(DETECTOR, features, embeddings, centers, windows, sizes))
    assert torch.equal(pooled[:, 1], torch.zeros(2, 5)) and pooled[:, 0].abs().min() > 0
    alignment(pooled, torch.randn(2, 2, 5), windows).backward()
    assert alignment.attention.weight.grad.isfinite().all()


def test_dense_pool_is_the_mean_of_a_windows_cells_without_padding():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(2, 256, 3, 4, requires_grad=True)
    windows = torch.tensor(
        [
            [[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]],
            [[0.0, 0.5, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]],
        ]
    )
    sizes = [(96, 128), (64, 64)]
    pooled = DenseImageAlignment().pool(Maps(detector, {"res5": res5}, None, None, windows, sizes))
    cells = F.normalize(bottom_up.dense_embeddings(res5), dim=1)
    expected = [[cells[0], cells[0, :, :1, 2:]], [cells[1, :, 1:2, :2], cells[1, :, :1, 1:2]]]
    expected = torch.stack([torch.stack([x.mean(dim=(1, 2)) for x in row]) for row in expected])
    torch.testing.assert_close(pooled, expected)
    pooled.sum().backward()
    assert res5.grad[1, :, 2:].abs().max() == 0 < res5.grad[1, :, :2, 1].abs().min()


def test_a_window_without_the_middle_of_a_cell_teaches_nothing():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(1, 256, 1, 1, requires_grad=True)
    windows = torch.tensor([[[0.0, 0.0, 0.5, 0.5]]])
    alignment = DenseImageAlignment()
    pooled = alignment.pool(Maps(detector, {"res5": res5}, None, None, windows, [(32, 32)]))
    alignment(pooled, torch.randn(1, 1, 16), windows).backward()
    assert torch.equal(res5.grad, torch.zeros_like(res5))


def test_backbone_pool_of_the_whole_picture_is_clips_embedding():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    images = torch.randn(2, 3, 64, 64)
    res5 = bottom_up(images)["res5"]
    padded = F.pad(res5, (0, 2, 0, 1))  # what batching with a larger picture would add
    sizes = [(64, 64)] * 2
    pooled = BackboneImageAlignment().pool(
        Maps(detector, {"res5": padded}, None, None, WHOLE, sizes)
    )
    torch.testing.assert_close(pooled[:, 0], bottom_up.image_embedding(res5))


def test_backbone_pool_takes_the_windows_of_each_picture():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(2, 256, 4, 4)
    windows = torch.tensor(
        [
            [[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]],
            [[0.0, 0.25, 0.5, 1.0], [0.0, 0.0, 0.0, 0.0]],
        ]
    )
    pooled = BackboneImageAlignment().pool(
        Maps(detector, {"res5": res5}, None, None, windows, [(128, 128)] * 2)
    )
    for (i, j), part in {
        (0, 0): res5[:1, :, :2, :2],
        (0, 1): res5[:1, :, :, 2:],
        (1, 0): res5[1:, :, 1:, :2],
    }.items():
        torch.testing.assert_close(pooled[i, j], bottom_up.image_embedding(part)[0])
    assert pooled.isfinite().all()
