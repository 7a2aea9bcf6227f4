"""The best (location, category) pairs, without the whole matrix of scores."""

from collections.abc import Callable

import torch
from detectron2.layers import batched_nms
from torch import Tensor

from .dense_scores import DenseMap
from .products import inner_products
from .rounded_products import RoundedProducts
from .text_classifier import FoldedClassifier

_LOOKUP = 200  # a block's products, looked up, take as long as those of so many in a matrix
_HALVINGS = 8
# Detections that are tried first. Of less, torchvision moves boxes apart by category, which rounds.
_FIRST_TRY = 1024
_NAMES = {"cpu": 1024, "cuda": 32768}  # scored at a time: on a CPU these scores stay in a cache
_GROUP = 16  # pairs that are compared at first by their best


def head_scores(logits: Tensor, quality: Tensor) -> Tensor:
    """As in detectron2's FCOS: (R, C), of logits (R, C), which are overwritten, and (R, 1)."""
    return logits.sigmoid_().mul_(quality.sigmoid()).sqrt_()


def best_locations(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    quality: Tensor,
    dense: DenseMap | None,
    counts: list[int],
    num_locations: int,
) -> Tensor:
    """Each level's locations whose best categories score most, by the head and by the dense map.

    The two may mean different categories: so the combined score of no category there is higher.

    Args:
        classifier: of the features, C categories.
        grid_features, quality: (R, F) float32, and (R, 1) logits, of all levels.
        dense: at these locations; None: the head alone chooses.
        counts: locations of each level, R in all.
        num_locations: the most that are chosen of a level.

    Returns:
        (K,) int64, rows of the features, level by level.
    """
    rows = torch.arange(len(grid_features), device=grid_features.device)
    if max(counts) <= num_locations:
        return rows

    def measure(logits: Tensor, rows: Tensor | slice = slice(None)) -> Tensor:
        scores = head_scores(logits, quality[rows].squeeze(1))
        return scores if dense is None else dense.bound(scores, rows)

    levels, products = rows.split(counts), classifier.rounded
    if products is None:  # all levels at once: fewer operations for a GPU to start
        measures = measure(classifier.best(grid_features)).split(counts)
        places = [x.topk(min(num_locations, len(x))).indices for x in measures]
        return torch.cat([level[best] for level, best in zip(levels, places, strict=True)])
    found = [
        _bounded_search(classifier, products, x, level, num_locations, measure)
        for x, level in zip(grid_features.split(counts), levels, strict=True)
    ]
    return torch.cat(found)


def _bounded_search(
    classifier: FoldedClassifier,
    products: RoundedProducts,
    features: Tensor,
    level: Tensor,
    num_locations: int,
    measure: Callable[[Tensor, Tensor], Tensor],
) -> Tensor:
    """Rows of a level with the largest measures, which grow with a location's best logit.

    Few products are computed exactly: those whose bounds allow a location among the best, and there
    a better category than the one found.
    """
    if len(features) <= num_locations:
        return level
    norm = classifier.norm(features).squeeze(1)

    def measured(best: Tensor, rows: Tensor) -> Tensor:
        return measure(classifier.logits(best, norm[rows]), level[rows])

    bounds = products.bounds(features)
    best_bounds, blocks = bounds.max(dim=1)
    possible = measured(best_bounds, torch.arange(len(features), device=features.device))
    first = possible.topk(min(2 * num_locations, len(features))).indices
    reached = measured(products.largest(features[first], blocks[first]), first)
    least = reached.topk(num_locations).values[-1] * (1 - 1e-5)  # less than rounding hides
    rows = (possible >= least).nonzero().squeeze(1)

    best = products.largest(features[rows], blocks[rows])
    needed, enough = best, best_bounds[rows]
    for _ in range(_HALVINGS):  # the product that a location needs lies between
        middle = (needed + enough) / 2
        fails = measured(middle, rows) < least
        needed, enough = torch.where(fails, middle, needed), torch.where(fails, enough, middle)
    others = (bounds[rows] > needed[:, None]).scatter_(1, blocks[rows, None], False).nonzero()
    if len(others) * _LOOKUP > len(rows) * bounds.shape[1]:
        best = classifier.best(features[rows])
        return level[rows[measure(best, level[rows]).topk(num_locations).indices]]
    places, blocks = others.unbind(dim=1)
    best.scatter_reduce_(0, places, products.largest(features[rows[places]], blocks), "amax")
    return level[rows[measured(best, rows).topk(num_locations).indices]]


def best_pairs(
    classifier: FoldedClassifier,
    grid_features: Tensor,
    quality: Tensor,
    dense: DenseMap | None,
    places: Tensor,
    counts: list[int],
    num_pairs: int,
    threshold: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The k best (location, category) pairs of each level that are above a threshold.

    Args:
        grid_features, quality, counts: as of :func:`best_locations`, of the R chosen locations.
        places: (R,) int64, their rows in the dense map.
        num_pairs: k, at most.

    Returns:
        scores (K,), descending in a level; rows (K,) int64; categories (K,) int64. Which of several
        equal entries at the end are kept is not defined.
    """
    norm, num_classes = classifier.norm(grid_features), len(classifier.weight)
    levels = [BestEntries(num_pairs, norm.device) for _ in counts]
    size = _NAMES[norm.device.type]
    for first in range(0, num_classes, size):
        names = slice(first, first + size)
        products = inner_products(grid_features, classifier.weight[names])
        scores = head_scores(classifier.logits(products, norm), quality)
        if dense is not None:
            scores = dense.combine(scores, places, names)
        for level, part in zip(levels, scores.split(counts), strict=True):
            level.add(part, first)
    scores = torch.cat([x.scores for x in levels])
    rows = torch.cat([x.rows + sum(counts[:i]) for i, x in enumerate(levels)])
    categories = torch.cat([x.columns for x in levels])
    above = (scores > threshold).nonzero().squeeze(1)
    return scores[above], rows[above], categories[above]


class BestEntries:
    """The k best entries of a matrix; its columns come in parts.

    Attributes:
        scores, rows, columns: (K,), best first; the last two int64.
    """

    def __init__(self, count: int, device: torch.device):
        self.count = count
        self.scores = torch.empty(0, device=device)
        self.rows = self.columns = torch.empty(0, dtype=torch.int64, device=device)

    def add(self, part: Tensor, first: int) -> None:
        """Columns from ``first`` on."""
        flat, width = part.flatten(), part.shape[1]
        if flat.device.type == "cpu":
            places = self._possible(flat)
        else:  # on a GPU a search of all is fast, and the host need not wait for it
            places = flat.topk(min(self.count, len(flat))).indices
        scores = torch.cat([self.scores, flat[places]])
        rows = torch.cat([self.rows, places // width])
        columns = torch.cat([self.columns, places % width + first])
        self.scores, order = scores.topk(min(self.count, len(scores)))
        self.rows, self.columns = rows[order], columns[order]

    def _possible(self, flat: Tensor) -> Tensor:
        """Places of entries above the least so far, the best among them. To choose from all of a
        long list is slow on a CPU: the best groups have the best entries."""
        least = float(self.scores[-1]) if len(self.scores) == self.count > 0 else float("-inf")
        length = len(flat) // _GROUP
        maxima = flat[: _GROUP * length].view(_GROUP, length).amax(dim=0)
        groups = (maxima > least).nonzero().squeeze(1)
        if len(groups) > self.count:
            groups = groups[maxima[groups].topk(self.count).indices]
        members = groups + length * torch.arange(_GROUP, device=flat.device)[:, None]
        rest = torch.arange(_GROUP * length, len(flat), device=flat.device)
        places = torch.cat([members.flatten(), rest])
        return places[flat[places] > least]


def best_detections(
    boxes: Tensor, scores: Tensor, classes: Tensor, nms_threshold: float, most: int
) -> Tensor:
    """The places (K,) int64 of the best that non-maximum suppression in each category leaves.

    Whether it keeps a detection depends on better ones alone, so the best are tried first.

    Args:
        boxes, scores, classes: (R, 4), (R,) and (R,) int64.
        most: K, at most.
    """
    order = scores.argsort(descending=True, stable=True)
    count = max(_FIRST_TRY, 3 * most)
    while True:
        tried = order[:count]
        keep = batched_nms(boxes[tried], scores[tried], classes[tried], nms_threshold)
        if len(keep) >= most or count >= len(order):
            return tried[keep[:most]]
        count *= 4
