"""Classification of embeddings by their cosine to text embeddings of category names."""

import math
import os
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridclip.text import TextEmbeddings

from .products import inner_products, largest_products
from .rounded_products import RoundedProducts


class TextClassifier(nn.Module):
    """logits = exp(s) * cos(embedding, text embedding of a category) + b, s and b learned.

    The text embeddings are neither trained nor saved with the weights: they come from a file, and
    :meth:`set_vocabulary` replaces them.

    Attributes:
        vocabulary: in use.
        training_vocabulary: the first one.
        base_names: those of the training vocabulary that are not novel.
    """

    text_embeddings: Tensor
    competitors: Tensor
    is_novel: Tensor

    def __init__(
        self,
        text_embeddings: TextEmbeddings | str | os.PathLike,
        *,
        embed_dim: int,
        novel_classes: Iterable[int] = (),
        scale: float = 20.0,
        prior_prob: float = 0.01,
    ):
        """
        Args:
            text_embeddings: the vocabulary, or the file that
                ``scripts/precompute_text_embeddings.py`` wrote.
            embed_dim: D.
            novel_classes: contiguous ids of the categories that training leaves out.
            scale: initial exp(s). CLIP's own 100 saturates a sigmoid, whose logits are not
                relative to other categories.
            prior_prob: the probability of any category for a random embedding at first. It sets
                the initial b, as in focal loss (RetinaNet, section 4.1).

        Raises:
            FileNotFoundError, ValueError: the file is missing, damaged or of another D, or
                ``novel_classes`` are not ids of the vocabulary or leave no base category.
        """
        super().__init__()
        self.embed_dim = embed_dim
        self.log_scale = nn.Parameter(torch.tensor(math.log(scale)))
        self.bias = nn.Parameter(torch.tensor(-math.log((1 - prior_prob) / prior_prob)))
        for name in ("text_embeddings", "competitors", "is_novel"):
            self.register_buffer(name, torch.empty(0, embed_dim), persistent=False)
        if not isinstance(text_embeddings, TextEmbeddings):
            text_embeddings = TextEmbeddings.load(text_embeddings)
        self.training_vocabulary = text_embeddings
        self.base_names: frozenset[str] | None = None
        self.set_vocabulary(text_embeddings)
        self.base_names = self._base_names(set(novel_classes))
        self._mark_novel()

    @property
    def names(self) -> tuple[str, ...]:
        return self.vocabulary.names

    @property
    def num_classes(self) -> int:
        return len(self.names)

    def set_vocabulary(self, text_embeddings: TextEmbeddings | str | os.PathLike) -> None:
        """Replace names and embeddings together; on an error nothing has changed.

        Names are novel unless they were base categories in training. Names of the training
        vocabulary that are left out stay as ``competitors``.
        """
        if not isinstance(text_embeddings, TextEmbeddings):
            text_embeddings = TextEmbeddings.load(text_embeddings)
        text_embeddings.check(dim=self.embed_dim)
        device = self.text_embeddings.device
        self.vocabulary = text_embeddings
        self.text_embeddings = text_embeddings.embeddings.to(device)
        trained = self.training_vocabulary
        now = set(self.names)
        left_out = [i for i, name in enumerate(trained.names) if name not in now]
        self.competitors = trained.embeddings[left_out].to(device)
        self._mark_novel()

    def _base_names(self, novel: set[int]) -> frozenset[str]:
        if outside := [i for i in novel if not 0 <= i < self.num_classes]:
            raise ValueError(
                f"novel_classes has {outside[0]}, but the vocabulary has {self.num_classes} "
                "categories: give contiguous ids of this vocabulary."
            )
        base = frozenset(name for i, name in enumerate(self.names) if i not in novel)
        if not base:
            raise ValueError("All categories are novel: there is nothing to train on.")
        return base

    def _mark_novel(self) -> None:
        base = self.names if self.base_names is None else self.base_names
        is_novel = torch.tensor([name not in base for name in self.names], dtype=torch.bool)
        self.is_novel = is_novel.to(self.text_embeddings.device)

    def forward(self, embeddings: Tensor, classes: Tensor | None = None) -> Tensor:
        """
        Args:
            embeddings: (..., D), of any length.
            classes: (K,) int64, the categories to score; all if None.

        Returns:
            (..., K) logits, or (..., C), float32.
        """
        # Under automatic mixed precision, too: half precision would round logits to tenths.
        with torch.autocast(embeddings.device.type, enabled=False):
            cosines = F.normalize(embeddings.float(), dim=-1) @ self._weight(classes).T
            return cosines * self.log_scale.exp() + self.bias

    def fold(self, projection: nn.Linear, classes: Tensor | None = None) -> "FoldedClassifier":
        """The classifier of ``projection(features)`` as a function of the features.

        With e = W x and text embeddings T, the products T e are (T W) x. For the length take
        W = Q R: |e| = |R x|, as Q's columns are orthonormal. D-wide embeddings are never made.
        That saves time, and memory in training, where the backward pass would need them.

        Args:
            projection: F to D features, without bias.
            classes: as in :meth:`forward`.
        """
        weight = projection.weight.float()
        embed_dim, num_features = weight.shape
        square = torch.linalg.qr(weight).R if embed_dim > num_features else weight
        with torch.autocast(weight.device.type, enabled=False):
            products = self.log_scale.exp() * (self._weight(classes) @ weight)
        return FoldedClassifier(products, square, self.bias)

    def _weight(self, classes: Tensor | None) -> Tensor:
        return self.text_embeddings if classes is None else self.text_embeddings[classes]


@dataclass(frozen=True)
class FoldedClassifier:
    """Cosine logits straight from features; see :meth:`TextClassifier.fold`.

    Attributes:
        weight: (K, F), exp(s) times text embeddings times projection.
        length: (F, F) or (D, F), a matrix under which features are as long as their embeddings.
        bias: a scalar.
    """

    weight: Tensor
    length: Tensor
    bias: Tensor

    def __call__(self, features: Tensor) -> Tensor:
        """The logits (..., K), float32, of features (..., F)."""
        # Under automatic mixed precision, too: half precision would round logits to tenths.
        with torch.autocast(features.device.type, enabled=False):
            features = features.float()
            return self.logits(inner_products(features, self.weight), self.norm(features))

    def best(self, features: Tensor) -> Tensor:
        """The largest logit of each of the features (R, F): (R,)."""
        # Length and bias do not change which category it is.
        products = largest_products(features, self.weight)
        return self.logits(products, self.norm(features).squeeze(-1))

    def logits(self, products: Tensor, norm: Tensor) -> Tensor:
        """Of products with rows of ``weight``, and the length of the embeddings."""
        return (products / norm).add_(self.bias)

    @cached_property
    def rounded(self) -> RoundedProducts | None:
        """Of the weights; None where it would save no time."""
        return RoundedProducts(self.weight) if RoundedProducts.pays(self.weight) else None

    def norm(self, features: Tensor) -> Tensor:
        """The length of the embeddings: (..., 1), of features (..., F)."""
        rotated = inner_products(features, self.length)
        return rotated.norm(dim=-1, keepdim=True).clamp(min=1e-12)


class ClosedSetClassifier(TextClassifier):
    """Cosines to learned vectors of a fixed vocabulary: grid-level alignment switched off."""

    def __init__(self, text_embeddings: TextEmbeddings | str | os.PathLike, **kwargs: Any):
        super().__init__(text_embeddings, **kwargs)
        self.class_embeddings = nn.Parameter(torch.randn_like(self.text_embeddings))

    def set_vocabulary(self, text_embeddings: TextEmbeddings | str | os.PathLike) -> None:
        if hasattr(self, "class_embeddings"):
            raise ValueError("A closed-set classifier has no text side: its vocabulary is fixed.")
        super().set_vocabulary(text_embeddings)

    def _weight(self, classes: Tensor | None) -> Tensor:
        weight = F.normalize(self.class_embeddings, dim=-1)
        return weight if classes is None else weight[classes]
