import pytest
import torch
import torch.nn.functional as F

from gridclip.vild import distillation_loss


def test_is_d_times_the_mean_over_regions_and_dims():
    student, teacher = torch.randn(7, 32), F.normalize(torch.randn(7, 32), dim=1)
    expected = 32 * F.l1_loss(F.normalize(student, dim=1), teacher)
    torch.testing.assert_close(distillation_loss(student, teacher), expected)


def test_exact_value():
    # Unit students (1, 0) and (0.6, 0.8), both against (1, 0): 0 and 0.4 + 0.8 over two regions.
    student = torch.tensor([[5.0, 0.0], [3.0, 4.0]])
    loss = distillation_loss(student, torch.tensor([[1.0, 0.0], [1.0, 0.0]]))
    assert loss.item() == pytest.approx(0.6)


def test_is_in_full_precision():
    student, teacher = torch.randn(7, 32).bfloat16(), F.normalize(torch.randn(7, 32), dim=1)
    expected = distillation_loss(student.float(), teacher)
    torch.testing.assert_close(distillation_loss(student, teacher), expected)


def test_no_regions_are_zero_with_a_gradient():
    projection = torch.nn.Linear(4, 8)
    loss = distillation_loss(projection(torch.empty(0, 4)), torch.empty(0, 8))
    loss.backward()
    assert loss == 0
    assert projection.weight.grad.eq(0).all() and projection.bias.grad.eq(0).all()
