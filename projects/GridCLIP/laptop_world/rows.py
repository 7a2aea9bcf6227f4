"""Rows of the experiment's results: those of finished runs, and those published before."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from laptop_world.experiment import ROOT, Grid, Run, config_file
from laptop_world.summary import Summary

_PROVENANCE = ("commit", "versions", "device", "processor")
_INPUTS = ("clip_sha256", "annotations_sha256")
# What a row has in common with those beside it; commit and versions may differ.
_COMMON = ("device", "processor", *_INPUTS)

Records = Mapping[Run, dict]


@dataclass(frozen=True)
class Row:
    """A variant.

    Attributes:
        metrics: by name of the run, in percent.
        described: config file, steps and config, those of its first run, from which the others
            differ in seed and folder alone.
        runs: by name of the run, its "seconds" and what it was made from.
    """

    metrics: dict[str, dict]
    described: dict
    runs: dict[str, dict]

    def first_seeds(self, variant: str, seeds: Sequence[int]) -> "Row":
        """With the first seeds, up to one whose run is missing, so that values at the same place
        are of the same seed."""
        wanted = [Run(variant, seed).name for seed in seeds]
        names = list(takewhile(self.runs.__contains__, wanted))
        metrics = {name: self.metrics[name] for name in names}
        return Row(metrics, self.described, {name: self.runs[name] for name in names})

    @property
    def common(self) -> list[dict]:
        return [{key: run[key] for key in _COMMON} for run in self.runs.values()]


def finished_rows(grid: Grid, records: Records, variants: Iterable[str]) -> dict[str, Row]:
    """Of all complete runs."""
    rows = {}
    for variant in variants:
        if found := [run for run in records if run.variant == variant and run.steps is None]:
            rows[variant] = Row(
                {run.name: records[run]["metrics"]["bbox"] for run in found},
                _described(grid, found[0]),
                {run.name: _facts(grid, records, run) for run in found},
            )
    return rows


def _facts(grid: Grid, records: Records, run: Run) -> dict:
    task = grid.runs[run]
    return {
        "seconds": round(task.open_record().seconds, 1),
        **{key: records[run][key] for key in _PROVENANCE},
        **{key: task.identity[key] for key in _INPUTS},
    }


def _described(grid: Grid, run: Run) -> dict:
    config = grid.runs[run].identity["config"]
    file = str(config_file(run.variant).relative_to(ROOT))
    return {"config_file": file, "steps": config["train"]["max_iter"], "config": config}


def published_rows(folder: Path) -> tuple[dict[str, Row], dict[str, float]]:
    """Those of laptop_world.json and laptop_world_runs.json, and the seconds of the preparations by
    task; none if the files are not there."""
    files = [folder / f"{name}.json" for name in ("laptop_world", "laptop_world_runs")]
    if not all(file.is_file() for file in files):
        return {}, {}
    summary, sources = (json.loads(file.read_text(encoding="utf-8")) for file in files)
    rows = {}
    for variant, described in sources["variants"].items():
        runs = {
            name: {**sources["shared"], **facts}
            for name, facts in sources["runs"].items()
            if name.startswith(f"{variant} seed ")
        }
        metrics = _metrics_of_seeds(summary, variant)
        rows[variant] = Row(dict(zip(runs, metrics, strict=True)), described, runs)
    return rows, sources["preparation_seconds"]


def _metrics_of_seeds(summary: Summary, variant: str) -> list[dict]:
    cells = summary[variant]
    count = max(cell["n"] for cell in cells.values())
    nan = float("nan")
    return [
        {
            name: nan if (value := cell["values"][i]) is None else value
            for name, cell in cells.items()
        }
        for i in range(count)
    ]


def with_published(
    grid: Grid, rows: Mapping[str, Row], published: Mapping[str, Row]
) -> dict[str, Row]:
    """Finished runs, and beside them the published ones of other seeds and variants that fit: of
    today's config, of the same processor, data and CLIP as the finished ones. What does not fit is
    left out."""
    if not rows:
        return dict(published)
    common = next(iter(rows.values())).common[0]
    first = {run.variant: run for run in reversed(grid.runs) if run.steps is None}
    kept = dict(rows)
    for variant, row in published.items():
        fits = all(facts == common for facts in row.common)
        if fits and variant in first and row.described == _described(grid, first[variant]):
            new = rows.get(variant, row)
            kept[variant] = Row(
                {**row.metrics, **new.metrics}, row.described, {**row.runs, **new.runs}
            )
    return kept


def run_sources(rows: Mapping[str, Row]) -> dict:
    """What runs were made from, each fact once.

    Returns:
        "shared": the facts that are the same for all runs; "variants": by name, what describes it;
        "runs": the seconds of each, and the facts that are not shared.
    """
    runs = {name: facts for row in rows.values() for name, facts in row.runs.items()}
    first = next(iter(runs.values()))
    shared = {
        key
        for key in first
        if key != "seconds" and all(facts[key] == first[key] for facts in runs.values())
    }
    return {
        "shared": {key: first[key] for key in first if key in shared},
        "variants": {variant: row.described for variant, row in rows.items()},
        "runs": {
            name: {key: facts[key] for key in facts if key not in shared}
            for name, facts in runs.items()
        },
    }
