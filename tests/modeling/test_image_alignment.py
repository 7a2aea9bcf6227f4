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

WHOLE = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
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
    torch.testing.assert_close(alignment(student, teacher), 0.5 * expected(*unit))
    assert alignment(teacher, teacher).item() == pytest.approx(0, abs=1e-6)


def test_unknown_loss_is_an_error():
    with pytest.raises(KeyError):
        BackboneImageAlignment(loss="hinge")


def test_contrastive_loss_tells_the_batchs_windows_apart():
    alignment = BackboneImageAlignment(loss="contrastive", weight=0.5)
    targets = torch.eye(6).view(2, 3, 6)
    right = math.log(1 + 5 * math.exp(-20))
    assert alignment(7 * targets, targets).item() == pytest.approx(0.5 * right, abs=1e-6)
    mean = targets.mean(dim=(0, 1), keepdim=True).expand_as(targets)
    assert alignment(mean, targets).item() == pytest.approx(0.5 * math.log(6))
    other = targets.flip(0)  # each window's vector is one of the other picture's
    assert alignment(other, targets).item() == pytest.approx(0.5 * (20 + right), abs=1e-4)


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
    windows = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.5, 0.5, 1.0, 1.0]])
    pooled = alignment.pool(Maps(DETECTOR, features, embeddings, centers, windows, [(32, 48)] * 2))
    logits = torch.cat(
        [
            F.conv2d(f, alignment.attention.weight, alignment.attention.bias)[1, 0].flatten()
            for f in features.values()
        ]
    )
    inside = (centers[:, 0] >= 24) & (centers[:, 1] >= 16)
    weights = logits[inside].softmax(dim=0)
    torch.testing.assert_close(pooled[1, 1], weights @ embeddings[1, inside])


def test_grid_pool_teaches_the_grid_embeddings():
    features, centers, embeddings = grid_alignment_inputs()
    embeddings.requires_grad_()
    alignment = GridImageAlignment(in_features=["p3", "p4"], in_channels=4)
    pooled = alignment.pool(
        Maps(DETECTOR, features, embeddings, centers, WHOLE, [(32, 48), (16, 24)])
    )
    alignment(pooled, torch.randn(2, 1, 5)).backward()
    assert embeddings.grad[0].abs().sum(dim=-1).gt(0).all()
    assert alignment.attention.weight.grad.abs().sum() > 0


def test_dense_pool_is_the_mean_of_a_windows_cells_without_padding():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(2, 256, 3, 4, requires_grad=True)
    windows = torch.tensor([[0.0, 0.0, 1.0, 1.0], [0.5, 0.0, 1.0, 0.5]])
    sizes = [(96, 128), (64, 64)]
    pooled = DenseImageAlignment().pool(Maps(detector, {"res5": res5}, None, None, windows, sizes))
    cells = F.normalize(bottom_up.dense_embeddings(res5), dim=1)
    expected = [[cells[0], cells[0, :, :1, 2:]], [cells[1, :, :2, :2], cells[1, :, :1, 1:2]]]
    expected = torch.stack([torch.stack([x.mean(dim=(1, 2)) for x in row]) for row in expected])
    torch.testing.assert_close(pooled, expected)
    pooled.sum().backward()
    assert res5.grad[1, :, 2:].abs().max() == 0 < res5.grad[1, :, :2, :2].abs().min()


def test_a_window_without_the_middle_of_a_cell_teaches_nothing():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(1, 256, 1, 1, requires_grad=True)
    windows = torch.tensor([[0.0, 0.0, 0.5, 0.5]])
    alignment = DenseImageAlignment()
    pooled = alignment.pool(Maps(detector, {"res5": res5}, None, None, windows, [(32, 32)]))
    alignment(pooled, torch.randn(1, 1, 16)).backward()
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


def test_backbone_pool_takes_windows():
    bottom_up = CLIPResNet(layers=(1, 1, 1, 1), width=8, embed_dim=16, input_resolution=64).eval()
    detector = SimpleNamespace(backbone=SimpleNamespace(bottom_up=bottom_up))
    res5 = torch.randn(1, 256, 4, 4)
    windows = torch.tensor([[0.0, 0.0, 0.5, 0.5], [0.5, 0.0, 1.0, 1.0]])
    pooled = BackboneImageAlignment().pool(
        Maps(detector, {"res5": res5}, None, None, windows, [(128, 128)])
    )
    torch.testing.assert_close(pooled[0, 0], bottom_up.image_embedding(res5[:, :, :2, :2])[0])
    torch.testing.assert_close(pooled[0, 1], bottom_up.image_embedding(res5[:, :, :, 2:])[0])
