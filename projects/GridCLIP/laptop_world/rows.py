"""Rows of the experiment's results: those of finished runs, and those published before.

A row has the runs of a variant, or of a variant for another number of steps, with their seeds.
"""

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path

from laptop_world.experiment import ROOT, Grid, Run, config_file

_PROVENANCE = ("commit", "versions", "device", "processor")
_INPUTS = ("clip_sha256", "annotations_sha256")
# What a row has in common with those beside it; commit and versions may differ.
_COMMON = ("device", "processor", *_INPUTS)

Records = Mapping[Run, dict]


@dataclass(frozen=True)
class Row:
    """
    Attributes:
        metrics: by name of the run, in percent.
        described: config file, steps and config, those of its first run, from which the others
            differ in seed and folder alone.
        runs: by name of the run, its "seconds" and what it was made from.
    """

    metrics: dict[str, dict]
    described: dict
    runs: dict[str, dict]

    def first_seeds(self, name: str, seeds: Sequence[int]) -> "Row":
        """With the first seeds, up to one whose run is missing, so that values at the same place
        are of the same seed.

        Args:
            name: the row's.
        """
        wanted = [Run.of_row(name, seed).name for seed in seeds]
        names = list(takewhile(self.runs.__contains__, wanted))
        metrics = {name: self.metrics[name] for name in names}
        return Row(metrics, self.described, {name: self.runs[name] for name in names})

    @property
    def common(self) -> list[dict]:
        return [{key: run[key] for key in _COMMON} for run in self.runs.values()]


def finished_rows(grid: Grid, records: Records, variants: Collection[str]) -> dict[str, Row]:
    """Of all complete runs of the variants, by the rows' names."""
    found: dict[str, list[Run]] = {}
    for run in records:
        if run.variant in variants:
            found.setdefault(run.row, []).append(run)
    return {
        name: Row(
            {run.name: records[run]["metrics"]["bbox"] for run in runs},
            _described(grid, runs[0]),
            {run.name: _facts(grid, records, run) for run in runs},
        )
        for name, runs in found.items()
    }


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
    """Those of laptop_world.json, laptop_world_lengths.json and laptop_world_runs.json, and the
    seconds of the preparations by task; none if the files are not there."""
    files = [folder / f"laptop_world{name}.json" for name in ("", "_lengths", "_runs")]
    if not all(file.is_file() for file in files):
        return {}, {}
    world, lengths, sources = map(read_json, files)
    summary = world | lengths
    rows = {}
    for name, described in sources["variants"].items():
        runs = {
            run: {**sources["shared"], **sources["runs"][run]}
            for seed in sources["seeds"]
            if (run := Run.of_row(name, seed).name) in sources["runs"]
        }
        metrics = _metrics_of_seeds(summary[name])
        rows[name] = Row(dict(zip(runs, metrics, strict=True)), described, runs)
    return rows, sources["preparation_seconds"]


def read_json(file: Path) -> dict:
    return json.loads(file.read_text(encoding="utf-8"))


def _metrics_of_seeds(cells: Mapping[str, dict]) -> list[dict]:
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
    """Finished runs, and beside them the published ones of other seeds and rows that fit: of
    today's config, of the same processor, data and CLIP as the finished ones. What does not fit is
    left out."""
    if not rows:
        return dict(published)
    common = next(iter(rows.values())).common[0]
    first = {run.row: run for run in reversed(grid.runs)}
    kept = dict(rows)
    for name, row in published.items():
        fits = all(facts == common for facts in row.common)
        if fits and name in first and row.described == _described(grid, first[name]):
            new = rows.get(name, row)
            kept[name] = Row(
                {**row.metrics, **new.metrics}, row.described, {**row.runs, **new.runs}
            )
    return kept


def run_sources(rows: Mapping[str, Row]) -> dict:
    """What runs were made from, each fact once.

    Returns:
        "shared": the facts that are the same for all runs; "variants": by row, what describes it;
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
        "variants": {name: row.described for name, row in rows.items()},
        "runs": {
            name: {key: facts[key] for key in facts if key not in shared}
            for name, facts in runs.items()
        },
    }
