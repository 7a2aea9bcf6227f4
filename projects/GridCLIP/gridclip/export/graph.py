"""A detector as one graph of tensors, for other engines than PyTorch.

In shapes: N images, R locations of a level, F width of the head's features, D width of CLIP's
space, C names looked for, B names that compete with them, L locations and K pairs of a level.
"""

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gridclip.modeling import GridCLIP
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
        parts = model.head(levels)
        sizes = [x.shape[1] for x in parts[0]]
        # All levels at once: a graph that repeats itself for each takes minutes to export.
        grid_features, sides, quality = (torch.cat(x, dim=1) for x in parts)
        anchors = torch.cat([x.tensor for x in model.anchor_generator(levels)])
        anchors = anchors.expand(images.shape[0], -1, -1)
        rows = Locations(
            grid_features, self._boxes(model.head.deltas(sides), anchors), quality, anchors
        )
        if self.raw:
            return rows.boxes, self._log_scores(classifier, dense, rows).exp()
        return self._decode(classifier, dense, rows, sizes)

    def _dense(self, res5: Tensor, words: Words) -> "DenseMaps | None":
        dense, trunk, text = self.model.dense_scores, self.model.backbone.bottom_up, words[0]
        if dense is None:
            return None
        names = text if words.competitors is None else torch.cat([text, words.competitors])
        p = dense.probabilities(trunk.dense_embeddings(res5), names)[..., : text.shape[0]]
        novel = words.is_novel
        weights = torch.tensor(dense.weight) if novel is None else dense.weights(novel)
        return DenseMaps(p, weights, trunk.size_divisibility)

    def _log_scores(
        self, classifier: FoldedClassifier, dense: "DenseMaps | None", rows: "Locations"
    ) -> Tensor:
        """(N, R, C), logarithms: two powers of each score would take twice as long."""
        scores = _log_head_scores(classifier(rows.features), rows.quality)
        return scores if dense is None else dense.combine(scores, rows.anchors)

    def _best(
        self, classifier: FoldedClassifier, dense: "DenseMaps | None", rows: "Locations"
    ) -> Tensor:
        """At least the largest of the logarithms: (N, R)."""
        products = inner_products(rows.features, classifier.weight).amax(dim=2, keepdim=True)
        logits = classifier.logits(products, classifier.norm(rows.features))
        best = _log_head_scores(logits, rows.quality).squeeze(2)
        return best if dense is None else dense.bound(best, rows.anchors)

    def _decode(
        self,
        classifier: FoldedClassifier,
        dense: "DenseMaps | None",
        rows: "Locations",
        sizes: list[int],
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As ``GridCLIP._candidates``, of N images and without a threshold."""
        best = self._best(classifier, dense, rows)
        places = _top(best, sizes, self.model.test_topk_locations)
        chosen = Locations(*(_rows(x, torch.cat(places, dim=1)) for x in rows))
        scores = self._log_scores(classifier, dense, chosen)
        num_classes = scores.shape[2]
        sizes = [x.shape[1] * num_classes for x in places]
        scores = scores.flatten(1)
        pairs = torch.cat(_top(scores, sizes, self.model.test_topk_candidates), dim=1)
        at = pairs // num_classes
        classes = pairs - at * num_classes  # ONNX's exporter fails on %
        return _rows(chosen.boxes, at), scores.gather(1, pairs).exp(), classes

    def _boxes(self, deltas: Tensor, anchors: Tensor) -> Tensor:
        """(N, K, 4), of deltas and anchors of that shape."""
        apply = self.model.box2box_transform.apply_deltas
        return apply(deltas.flatten(0, 1), anchors.flatten(0, 1)).unflatten(0, deltas.shape[:2])


class Locations(NamedTuple):
    """Of N images and R locations of all levels.

    Attributes:
        features: (N, R, F).
        boxes, anchors: (N, R, 4).
        quality: (N, R, 1), logits.
    """

    features: Tensor
    boxes: Tensor
    quality: Tensor
    anchors: Tensor


class DenseMaps:
    """``DenseMap`` of a batch, for logarithms of scores, by operations that other engines have.

    The four cells around a center are not gathered: a product with the shares of all cells, most of
    them zero, takes less time there.
    """

    def __init__(self, probabilities: Tensor, weights: Tensor, stride: int):
        """
        Args:
            probabilities: (N, H, W, C).
            weights: of C names, or of all.
            stride: pixels of a cell.
        """
        self.probabilities, self.weights, self.stride = probabilities, weights, stride

    def combine(self, scores: Tensor, anchors: Tensor) -> Tensor:
        """
        Args:
            scores: (N, K, C), logarithms of the head's.
            anchors: (N, K, 4).
        """
        rows, columns = self._shares(anchors)
        cells = (rows[..., None] * columns[..., None, :]).flatten(2)
        return _combine(scores, cells @ self.probabilities.flatten(1, 2), self.weights)

    def bound(self, scores: Tensor, anchors: Tensor) -> Tensor:
        """As ``DenseMap.bound``, of scores (N, K)."""
        rows, columns = self._shares(anchors)
        p = (rows @ self.probabilities.amax(dim=3) * columns).sum(dim=2)
        weights = self.weights
        return _combine(scores, p, weights.min()).maximum(_combine(scores, p, weights.max()))

    def _shares(self, anchors: Tensor) -> tuple[Tensor, Tensor]:
        """Of rows (N, K, H) and columns (N, K, W) at the centers of anchors (N, K, 4): the shares
        of a bilinear interpolation, which fall from 1 to 0 within a cell."""
        centers = (anchors[..., :2] + anchors[..., 2:]) / 2 / self.stride - 0.5
        x, y = centers.clamp(min=0)[..., None].unbind(dim=2)
        height, width = self.probabilities.shape[1:3]
        rows, columns = (
            (1 - (at.clamp(max=size - 1) - torch.arange(size)).abs()).clamp(min=0)
            for at, size in ((y, height), (x, width))
        )
        return rows, columns


def _combine(scores: Tensor, p: Tensor, weight: Tensor) -> Tensor:
    """As ``combine``, of logarithms of scores. p = 0 counts as the smallest normal number."""
    return scores * (1 - weight) + p.clamp(min=torch.finfo(p.dtype).tiny).log() * weight


def _log_head_scores(logits: Tensor, quality: Tensor) -> Tensor:
    """The logarithms of what ``head_scores`` gives."""
    return (F.softplus(-logits) + F.softplus(-quality)) * -0.5


def _top(scores: Tensor, sizes: list[int], most: int) -> list[Tensor]:
    """Where the largest scores of each part are, descending.

    Args:
        scores: (N, R), parts of ``sizes`` one after the other.
        most: of a part.

    Returns:
        (N, K) int64 of each part, places in (N, R).
    """
    places, start = [], 0
    for part in scores.split(sizes, dim=1):
        best = part.topk(torch.sym_min(most, part.shape[1]), dim=1).indices
        places.append(best + start)
        start += part.shape[1]
    return places


def _rows(x: Tensor, places: Tensor) -> Tensor:
    """(N, K, ...) of x (N, R, ...) and places (N, K)."""
    return x.gather(1, places[..., None].expand(-1, -1, x.shape[2]))
