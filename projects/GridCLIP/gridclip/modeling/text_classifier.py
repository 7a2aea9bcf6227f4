"""Classification of embeddings by their cosine to text embeddings of category names."""

import math
import os

import torch
from torch import Tensor, nn

from gridclip.text import TextEmbeddings


class TextClassifier(nn.Module):
    """logits = exp(s) * cos(embedding, text embedding of a category) + b, s and b learned.

    The text embeddings are neither trained nor saved with the weights: they come from a file, and
    :meth:`set_vocabulary` swaps them.
    """

    def __init__(
        self,
        text_embeddings: TextEmbeddings | str | os.PathLike,
        *,
        embed_dim: int,
        scale: float = 20.0,
        prior_prob: float = 0.01,
    ):
        """
        Args:
            text_embeddings: the vocabulary, or the file that
                ``scripts/precompute_text_embeddings.py`` wrote.
            embed_dim: D.
            scale: initial exp(s). CLIP's own 100 saturates a sigmoid whose logits are not
                relative to other categories.
            prior_prob: the probability that a random embedding gets for any category at first;
                sets the initial b as in focal loss (RetinaNet, section 4.1).

        Raises:
            FileNotFoundError, ValueError: the file is missing, damaged or of another D.
        """
        super().__init__()
        self.embed_dim = embed_dim
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(-math.log((1 - prior_prob) / prior_prob)))
        self.register_buffer("text_embeddings", torch.empty(0, embed_dim), persistent=False)
        self.set_vocabulary(text_embeddings)

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def set_vocabulary(self, text_embeddings: TextEmbeddings | str | os.PathLike) -> None:
        """Replace names and embeddings together; on an error nothing has changed."""
        if not isinstance(text_embeddings, TextEmbeddings):
            text_embeddings = TextEmbeddings.load(text_embeddings)
        text_embeddings.check(dim=self.embed_dim)
        self.text_embeddings = text_embeddings.embeddings.to(self.text_embeddings.device)
        self.names = text_embeddings.names

    def forward(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """
        Args:
            embeddings: (..., D), of any length.
            classes: (K,) int64, the categories to score; all if None.

        Returns:
            (..., K) logits, or (..., C).
        """
        text = self._weight() if classes is None else self._weight()[classes]
        # Dividing the products, not the embeddings, keeps one D-wide copy less for backward.
        norm = embeddings.norm(dim=-1, keepdim=True).clamp(min=1e-6)
        return embeddings @ text.to(embeddings.dtype).T / norm * self.log_scale.exp() + self.bias

    def _weight(self) -> Tensor:
        return self.text_embeddings


class ClosedSetClassifier(TextClassifier):
    """The same cosine classifier over learned category vectors: grid-level alignment off.

    It knows the categories it was built with and no others.
    """

    def __init__(self, text_embeddings, **kwargs):
        super().__init__(text_embeddings, **kwargs)
        self.class_embeddings = nn.Parameter(torch.randn_like(self.text_embeddings))

    def set_vocabulary(self, text_embeddings):
        if hasattr(self, "class_embeddings"):
            raise ValueError("A closed-set classifier has no text side: its vocabulary is fixed.")
        super().set_vocabulary(text_embeddings)

    def _weight(self) -> Tensor:
        return nn.functional.normalize(self.class_embeddings, dim=-1)
