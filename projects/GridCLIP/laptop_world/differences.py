"""Differences between two variants, paired by seed, with their confidence intervals."""

from collections.abc import Iterable, Sequence
from math import sqrt
from statistics import mean, stdev

from scipy.stats import t

from laptop_world.summary import Summary

METRICS = ("AP", "APr", "APf")
CONFIDENCE = 0.95
# What changes one thing of GridCLIP; fcos_assignment also what no_distribution does.
ABLATIONS = (
    *("no_distribution", "fcos_assignment", "no_dense_scores", "no_image_alignment"),
    *("grid_image_alignment", "aligned_slow_backbone", "whole_image_alignment"),
    *("closed_set", "random_init", "classification_init"),
)
WITHOUT_DENSE_SCORES = ("closed_set", "random_init", "classification_init")
TWO_STAGE = (
    *("vild_text", "vild", "vild_ensemble"),
    *("vild_text_dense", "vild_dense", "vild_ensemble_dense", "fvlm"),
)


def paired_difference(ours: Sequence[float], theirs: Sequence[float]) -> dict:
    """The mean of the differences d of n pairs and its interval by Student's t,
    mean(d) ± t(0.975, n - 1) std(d) / sqrt(n).

    Args:
        ours, theirs: values of the same seeds, in the same order.

    Returns:
        "mean"; "interval", two numbers, None for a single pair; "excludes_zero", whether the
        interval does, None for a single pair; "n", the pairs; "values", the differences.

    Raises:
        ValueError: there is no pair, or one has more values than the other.
    """
    if len(ours) != len(theirs) or not ours:
        raise ValueError(f"{len(ours)} and {len(theirs)} values make no pairs: run the same seeds.")
    values = [a - b for a, b in zip(ours, theirs, strict=True)]
    n, center = len(values), mean(values)
    cell = {"mean": center, "interval": None, "excludes_zero": None, "n": n, "values": values}
    if n > 1:
        half = float(t.ppf((1 + CONFIDENCE) / 2, n - 1)) * stdev(values) / sqrt(n)
        low, high = center - half, center + half
        cell |= {"interval": [low, high], "excludes_zero": low > 0 or high < 0}
    return cell


def compared_pairs(summary: Summary) -> list[tuple[str, str]]:
    """The pairs of variants that are compared, as far as both are there.

    GridCLIP with each of its ablations, with each two-stage detector and with its longer training;
    what can have no dense scores with GridCLIP without them; the two assignments, both without a
    distribution of the box deltas; each reading of image-level alignment with none; dense scores
    with none.
    """
    pairs = [("gridclip", other) for other in (*ABLATIONS, *TWO_STAGE)]
    pairs += [("no_dense_scores", other) for other in WITHOUT_DENSE_SCORES]
    pairs.append(("no_distribution", "fcos_assignment"))
    pairs.append(("gridclip_4000", "gridclip"))
    pairs += [
        (alignment, "no_image_alignment")
        for alignment in ("grid_image_alignment", "whole_image_alignment")
    ]
    pairs += [(f"{name}_dense", name) for name in ("vild_text", "vild", "vild_ensemble")]
    return [(a, b) for a, b in pairs if a in summary and b in summary]


def differences(summary: Summary, pairs: Iterable[tuple[str, str]]) -> dict[str, dict[str, dict]]:
    """By "A - B" and metric what :func:`paired_difference` returns, in points of AP, of the seeds
    that both have: the first ones. A metric for which a run has no value is left out."""
    found: dict[str, dict[str, dict]] = {}
    for a, b in pairs:
        cells = {name: (summary[a].get(name), summary[b].get(name)) for name in METRICS}
        found[f"{a} - {b}"] = {
            name: paired_difference(*of_same_seeds(ours["values"], theirs["values"]))
            for name, (ours, theirs) in cells.items()
            if ours and theirs and None not in (ours["mean"], theirs["mean"])
        }
    return found


def of_same_seeds(
    a: Sequence[float], b: Sequence[float]
) -> tuple[Sequence[float], Sequence[float]]:
    """The values of the seeds that both have: the first ones."""
    n = min(len(a), len(b))
    return a[:n], b[:n]
