"""A detector as one graph of tensors, for other engines than PyTorch.

In shapes: N images, R locations of a level, F width of the head's features, D width of CLIP's
space, C names looked for, B names that compete with them, L locations and K pairs of a level.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from gridclip.modeling import GridCLIP
from gridclip.modeling.dense_scores import combine, combine_bound, neighbours
from gridclip.modeling.products import inner_products
from gridclip.modeling.text_classifier import FoldedClassifier


class Words(NamedTuple):
    """A vocabulary as the graph takes it.

    Attributes:
        text_embeddings: (C, D) float32, of unit length.
        competitors: (B, D) float32, names that take part in the dense scores' softmax alone;
            None without dense scores.
        is_novel: (C,) bool; None where all names weigh alike.
    """

    text_embeddings: Tensor
    competitors: Tensor | None
    is_novel: Tensor | None

    @classmethod
    def of(cls, model: GridCLIP) -> "Words":
        """The vocabulary of a detector, as far as its scores depend on it."""
        own, dense = model.classifier, model.dense_scores
        weighs_apart = dense is not None and dense.novel_weight is not None
        return cls(
            own.text_embeddings,
            None if dense is None else own.competitors,
            own.is_novel if weighs_apart else None,
        )

    def cloned(self) -> "Words":
        """Ordinary tensors of what inference mode made."""
        text, *others = (None if x is None else x.clone() for x in self)
        assert text is not None
        return Words(text, *others)

    def given(self) -> dict[str, Tensor]:
        return {name: x for name, x in self._asdict().items() if x is not None}


class DetectorGraph(nn.Module):
    """What :class:`GridCLIP` does in inference, for all images of a batch at once.

    The detector goes through a batch image by image, and drops what is below the threshold: how
    many are left depends on the picture. Here every level gives as many candidates as it may, and
    suppression is left to who runs the graph (``gridclip_runtime``). In the graph it would need
    a matrix of C x K scores, or boxes shifted by category, whose rounding moves their overlaps.
    """

    length: Tensor
    weight: Tensor

    def __init__(self, model: GridCLIP, *, words_as_input: bool, raw: bool):
        """
        Args:
            model: made by ``optimize_for_inference``. It stays as it is.
            words_as_input: False: the vocabulary in use becomes constants.
            raw: give the scores of all locations, and choose none.
        """
        super().__init__()
        self.model = model
        self.raw = raw
        with torch.no_grad():
            # Once, here: other engines have no QR decomposition.
            folded = model.classifier.fold(model.head.grid_embedding)
        self.register_buffer("length", folded.length.clone())
        self.own: Words | None = None
        if not words_as_input:
            self.own = Words.of(model).cloned()
            self.register_buffer("weight", folded.weight.clone())

    def forward(
        self,
        images: Tensor,
        text_embeddings: Tensor | None = None,
        competitors: Tensor | None = None,
        is_novel: Tensor | None = None,
    ) -> tuple[Tensor, ...]:
        """
        Args:
            images: (N, 3, H, W) float32 RGB from 0 to 255, H and W multiples of 32. What pads a
                picture is the detector's ``pixel_mean``.
            text_embeddings, competitors, is_novel: see :class:`Words`; none of them where the
                vocabulary is folded in.

        Returns:
            Boxes (N, K of all levels, 4), XYXY in pixels of the input; scores (N, K), descending in
            a level; and categories (N, K) int64. Of raw graphs the boxes (N, R of all levels, 4)
            and scores (N, R, C).
        """
        model = self.model
        features = model.backbone((images - model.pixel_mean) / model.pixel_std)
        levels = [features[name] for name in model.head_in_features]
        if text_embeddings is None:
            assert self.own is not None
            words, weight = self.own, self.weight
        else:
            words = Words(text_embeddings, competitors, is_novel)
            weight = text_embeddings @ model.head.grid_embedding.weight
            weight = weight * model.classifier.log_scale.exp()
        classifier = FoldedClassifier(weight, self.length, model.classifier.bias)
        dense = self._dense(features["res5"], words)
        decode = self._score_all if self.raw else self._decode
        parts = zip(*model.head(levels), model.anchor_generator(levels), strict=True)
        found = [
            decode(classifier, dense, x, deltas, quality, anchors.tensor)
            for x, deltas, quality, anchors in parts
        ]
        return tuple(torch.cat(x, dim=1) for x in zip(*found, strict=True))

    def _dense(self, res5: Tensor, words: Words) -> "DenseMaps | None":
        dense, trunk, text = self.model.dense_scores, self.model.backbone.bottom_up, words[0]
        if dense is None:
            return None
        names = text if words.competitors is None else torch.cat([text, words.competitors])
        p = dense.probabilities(trunk.dense_embeddings(res5), names)[..., : text.shape[0]]
        novel = words.is_novel
        weights = torch.tensor(dense.weight) if novel is None else dense.weights(novel)
        return DenseMaps(p, weights, trunk.size_divisibility)

    def _score_all(
        self,
        classifier: FoldedClassifier,
        dense: "DenseMaps | None",
        features: Tensor,
        deltas: Tensor,
        quality: Tensor,
        anchors: Tensor,
    ) -> tuple[Tensor, Tensor]:
        """Boxes (N, R, 4) and scores (N, R, C)."""
        scores = _head_scores(classifier(features), quality)
        if dense is not None:
            scores = dense.combine(scores, *dense.around(anchors))
        return self._boxes(deltas, anchors.expand(deltas.shape[0], -1, -1)), scores

    def _decode(
        self,
        classifier: FoldedClassifier,
        dense: "DenseMaps | None",
        features: Tensor,
        deltas: Tensor,
        quality: Tensor,
        anchors: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``GridCLIP._candidates``, of a level of N images and without a threshold."""
        products = inner_products(features, classifier.weight).amax(dim=2, keepdim=True)
        logits = classifier.logits(products, classifier.norm(features))
        best = _head_scores(logits, quality).squeeze(2)
        if dense is not None:
            cells, shares = dense.around(anchors)
            best = dense.bound(best, cells, shares)
        places = _top(best, self.model.test_topk_locations).indices
        scores = _head_scores(classifier(_rows(features, places)), _rows(quality, places))
        if dense is not None:
            scores = dense.combine(scores, cells[places], shares[places])
        num_classes = scores.shape[2]
        best, pairs = _top(scores.flatten(1), self.model.test_topk_candidates)
        rows = pairs // num_classes
        places = places.gather(1, rows)
        boxes = self._boxes(_rows(deltas, places), anchors[places])
        return boxes, best, pairs - rows * num_classes  # ONNX's exporter fails on %

    def _boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """(N, K, 4), of deltas and anchors of that shape."""
        apply = self.model.box2box_transform.apply_deltas
        return apply(deltas.flatten(0, 1), anchors.flatten(0, 1)).unflatten(0, deltas.shape[:2])


class DenseMaps:
    """``DenseMap`` of a batch, by the operations that other engines have."""

    def __init__(self, probabilities: Tensor, weights: Tensor, stride: int):
        """
        Args:
            probabilities: (N, H, W, C).
            weights: of C names, or of all.
            stride: pixels of a cell.
        """
        _, self.height, self.width, _ = probabilities.shape
        self.probabilities, self.weights = probabilities.flatten(1, 2), weights
        self.best = self.probabilities.amax(dim=2, keepdim=True)
        self.stride = stride

    def around(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """The four cells around the centers of anchors (R, 4), and their shares, both (R, 4)."""
        centers = (anchors[:, :2] + anchors[:, 2:]) / 2
        return neighbours(centers, self.height, self.width, self.stride)

    def combine(self, scores: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
        """
        Args:
            scores: (N, K, C), of the head.
            cells, shares: (K, 4), or (N, K, 4) where images differ.
        """
        return combine(scores, self._at(self.probabilities, cells, shares), self.weights)

    def bound(self, scores: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
        """As ``DenseMap.bound``, of scores (N, K)."""
        return combine_bound(scores, self._at(self.best, cells, shares).squeeze(2), self.weights)

    def _at(self, maps: Tensor, cells: Tensor, shares: Tensor) -> Tensor:
        cells, shares = (x.expand(maps.shape[0], -1, -1) for x in (cells, shares))
        # One cell after the other: all four would take four times the memory.
        parts = [_rows(maps, cells[..., i]) * shares[..., i, None] for i in range(4)]
        return parts[0] + parts[1] + parts[2] + parts[3]


def _head_scores(logits: Tensor, quality: Tensor) -> Tensor:
    """As ``head_scores``. onnxruntime's sigmoid is off by 1e-7 near 0, and its root by 3e-4."""
    return ((1 + (-logits).exp()) * (1 + (-quality).exp())).rsqrt()


def _top(scores: Tensor, most: int) -> torch.return_types.topk:
    return scores.topk(torch.sym_min(most, scores.shape[1]), dim=1)


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """(N, K, ...) of x (N, R, ...) and places (N, K)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
