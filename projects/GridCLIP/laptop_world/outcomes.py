"""What the complete runs of the experiment have found, as files of results."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from gridclip.evaluation import read_results
from gridclip.files import write_json
from laptop_world.curves import curve_point, plot_curves, training_seconds
from laptop_world.differences import compared_pairs, differences
from laptop_world.experiment import CURVES, VARIANTS, Grid, Run
from laptop_world.rows import (
    Records,
    Row,
    finished_rows,
    published_rows,
    run_sources,
    with_published,
)
from laptop_world.summary import plot_summary, summarise
from laptop_world.tables import VARIANTS as TITLES

# What comes before a training besides the text embeddings: the teacher's embeddings and ViLD's
# proposals. The training of ViLD-text, whose region proposal network makes those, is left out, in
# ViLD's favour.
_REGIONS = ("vild_text proposals", "vild preparation")
_BEFORE = {
    "gridclip": ("gridclip preparation",),
    "vild_dense": _REGIONS,
    "vild_ensemble_dense": _REGIONS,
}


def complete_runs(grid: Grid) -> dict[Run, dict]:
    """The results.json of every complete run.

    Raises:
        ValueError: they are of different processors, or of a GPU and a CPU.
    """
    records = {
        run: read_results(Path(task.folder, "results.json"))
        for run, task in grid.runs.items()
        if task.open_record().complete
    }
    processors = {record["processor"]: run.name for run, record in records.items()}
    if len(processors) > 1:
        listed = ", ".join(f"'{run}' of {processor}" for processor, run in processors.items())
        raise ValueError(
            f"The runs below {grid.folder} are of different processors ({listed}), and another "
            "processor is another draw: run all of them on one, with an --output of its own."
        )
    return records


def missing_seeds(
    rows: Mapping[str, Row], records: Records, variants: Iterable[str], seeds: Sequence[int]
) -> dict[str, list[int]]:
    """By variant the seeds whose runs are neither complete nor published; variants without any are
    left out."""
    names = {name for row in rows.values() for name in row.runs} | {run.name for run in records}
    missing = {
        variant: [seed for seed in seeds if Run(variant, seed).name not in names]
        for variant in variants
    }
    return {variant: left for variant, left in missing.items() if left}


def write_rows(
    grid: Grid,
    records: Records,
    variants: Iterable[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    publish: bool = False,
) -> dict[str, list[int]]:
    """Write laptop_world.json, its differences, runs and plot. Nothing is written if there is no
    row.

    Args:
        publish: keep the runs in ``folder`` that fit beside the finished ones.

    Returns:
        What :func:`missing_seeds` returns.
    """
    rows = finished_rows(grid, records, variants)
    before: dict[str, float] = {}
    if publish:
        published, before = published_rows(folder)
        rows = with_published(grid, rows, published)
    rows = {v: rows[v].first_seeds(v, seeds) for v in VARIANTS if v in rows}
    rows = {variant: row for variant, row in rows.items() if row.runs}
    not_run = missing_seeds(rows, records, variants, seeds)
    if not rows:
        return not_run
    summary = summarise({variant: list(row.metrics.values()) for variant, row in rows.items()})
    write_json(folder / "laptop_world.json", summary, indent=1)
    pairs = differences(summary, compared_pairs(summary))
    write_json(folder / "laptop_world_differences.json", pairs, indent=1)
    sources = {
        "seeds": list(seeds),
        "not_run": not_run,
        **run_sources(rows),
        "preparation_seconds": {**before, **_preparation_seconds(grid)},
    }
    write_json(folder / "laptop_world_runs.json", sources, indent=1)
    plot_summary(summary, folder / "laptop_world.png")
    print(f"Written: {folder / 'laptop_world.json'}, its differences, runs and plot beside it")
    return not_run


def _preparation_seconds(grid: Grid) -> dict[str, float]:
    """By task, of those that are no runs."""
    runs = {task.name for task in grid.runs.values()}
    return {
        task.name: round(record.seconds, 1)
        for task in grid.tasks
        if task.name not in runs and (record := task.open_record()).complete
    }


def write_curves(grid: Grid, records: Records, folder: Path) -> None:
    """Write laptop_world_time.json and its plot: accuracy against minutes, of all complete runs of
    the variants with a curve. Nothing is written if there is none."""
    curves = {curve: points for curve in CURVES if (points := _curve(grid, records, curve))}
    if not curves:
        return
    write_json(folder / "laptop_world_time.json", curves, indent=1)
    plot_curves(curves, TITLES, folder / "laptop_world_time.png")
    print(f"Written: {folder / 'laptop_world_time.json'}, its plot beside it")


def _curve(grid: Grid, records: Records, curve: str) -> dict:
    """Empty without a complete run."""
    lengths: dict[int, list[Run]] = {}
    for run in records:
        if run.variant in CURVES[curve]:
            steps = grid.runs[run].identity["config"]["train"]["max_iter"]
            lengths.setdefault(steps, []).append(run)
    if not lengths:
        return {}
    seconds = {task.name: task.open_record().seconds for task in grid.tasks}
    first = next(records[run] for runs in lengths.values() for run in runs)
    return {
        "device": first["device"],
        "processor": first["processor"],
        "preparation_minutes": sum(seconds[name] for name in _BEFORE.get(curve, ())) / 60,
        "points": [
            curve_point(
                [records[run]["metrics"]["bbox"] for run in runs],
                [
                    training_seconds(grid.folder / run.training.folder, steps, first["device"])
                    for run in runs
                ],
                steps,
            )
            for steps, runs in sorted(lengths.items())
        ],
    }
