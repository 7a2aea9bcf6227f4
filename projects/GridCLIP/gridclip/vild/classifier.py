"""ViLD's classifier over text embeddings and a background vector, and the ensemble's scores."""

import math
import os
from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridclip.modeling import TextClassifier
from gridclip.text import TextEmbeddings


class ViLDClassifier(TextClassifier):
    """logits = temperature * cos(region embedding, text embedding of a category or background).

    The background vector is learned, the temperature is fixed, and there is no bias (ViLD-text, in
    ViLD's section 3.3), so there is one logit more than categories, the last, of the background.
    Novel categories take no part in training.
    """

    def __init__(
        self,
        text_embeddings: TextEmbeddings | str | os.PathLike,
        *,
        embed_dim: int,
        novel_classes: Iterable[int],
        temperature: float = 100.0,
    ):
        """
        Args:
            text_embeddings: the training vocabulary, novel categories included, or its file.
            embed_dim: D.
            novel_classes: contiguous ids of the novel categories.
            temperature: factor of the cosines, the inverse of tau in ViLD.

        Raises:
            FileNotFoundError, ValueError: the file is missing, damaged or of another D, or
                ``novel_classes`` are not ids of the vocabulary or leave no base category.
        """
        super().__init__(text_embeddings, embed_dim=embed_dim, novel_classes=novel_classes)
        del self.log_scale, self.bias  # learned by GridCLIP, constants here
        self.register_buffer("log_scale", torch.tensor(math.log(temperature)), persistent=False)
        self.register_buffer("bias", torch.tensor(0.0), persistent=False)
        self.background = nn.Parameter(0.01 * torch.randn(embed_dim))

    def training_logits(self, embeddings: Tensor) -> Tensor:
        """The logits (R, C + 1) of embeddings (R, D) in a loss: of novel categories minus infinity.

        This is as in DetPro. The official code multiplies them by zero, which leaves them in the
        softmax. Here novel text embeddings are not read: not even a NaN in them reaches the loss.
        """
        base = (~self.is_novel).nonzero().squeeze(1)
        logits = self(embeddings, base)
        columns = torch.cat([base, base.new_tensor([self.num_classes])])
        masked = logits.new_full((len(logits), self.num_classes + 1), -math.inf)
        return masked.index_copy(1, columns, logits)

    def _weight(self, classes: Tensor | None) -> Tensor:
        background = F.normalize(self.background, dim=0)
        return torch.cat([super()._weight(classes), background[None]])


def ensemble_scores(
    text_logits: Tensor, image_logits: Tensor, is_novel: Tensor, weight: float = 2 / 3
) -> Tensor:
    """Weighted geometric means of the two heads' probabilities (ViLD, section 3.4, lambda 2/3).

    p_text^weight * p_image^(1 - weight) for a base category; for a novel one the weights are
    swapped. The image head has never seen background, so its softmax is over the categories alone,
    as in the official code. The score of the background is the text head's.

    Args:
        text_logits, image_logits: (R, C + 1), the last of the background.
        is_novel: (C,) bool.
        weight: lambda, the weight of the head that knows a category best.

    Returns:
        (R, C + 1) in 0 to 1; rows do not sum to 1.
    """
    log_text = text_logits.log_softmax(dim=1)
    log_image = image_logits[:, :-1].log_softmax(dim=1)
    text_weight = torch.where(is_novel, 1 - weight, weight)  # (C,)
    scores = (text_weight * log_text[:, :-1] + (1 - text_weight) * log_image).exp()
    return torch.cat([scores, log_text[:, -1:].exp()], dim=1)
