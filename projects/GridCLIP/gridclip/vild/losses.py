"""ViLD-image: region embeddings of the student pulled to those of CLIP's image encoder."""

import torch.nn.functional as F
from torch import Tensor


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """D times the mean absolute difference (ViLD, section 3.3, with the official code's scale).

    Args:
        student: (M, D), the M regions of all images; of any length.
        teacher: (M, D) float32, unit norm.

    Returns:
        A scalar; zero, but with a gradient, if M is 0.
    """
    difference = F.normalize(student.float(), dim=-1) - teacher
    # D * mean over (M, D) is the sum over M; a mean over nothing would be NaN.
    return difference.abs().sum() / max(len(teacher), 1)
