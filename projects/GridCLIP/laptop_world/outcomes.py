"""What the complete runs of the experiment have found, as files of results."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from statistics import mean

from gridclip.evaluation import read_results
from gridclip.files import write_json
from laptop_world.curves import (
    curve_point,
    plot_curves,
    set_beside_gridclip,
    training_seconds,
)
from laptop_world.differences import compared_pairs, differences
from laptop_world.experiment import CURVES, VARIANTS, Grid, Run
from laptop_world.rows import (
    Records,
    Row,
    finished_rows,
    published_rows,
    read_json,
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
    variants: Collection[str],
    seeds: Sequence[int],
    folder: Path,
    *,
    publish: bool = False,
) -> dict[str, list[int]]:
    """Write laptop_world.json, its differences, runs and plot, and of other numbers of steps
    laptop_world_lengths.json. Nothing is written if there is no row.

    Args:
        publish: keep the runs in ``folder`` that fit beside the finished ones, and write the curves
            of all.

    Returns:
        What :func:`missing_seeds` returns.
    """
    rows = finished_rows(grid, records, variants)
    before: dict[str, float] = {}
    if publish:
        published, before = published_rows(folder)
        rows = with_published(grid, rows, published)
    rows = {name: rows[name].first_seeds(name, seeds) for name in sorted(rows, key=_place)}
    rows = {name: row for name, row in rows.items() if row.runs}
    not_run = missing_seeds(rows, records, variants, seeds)
    if not rows:
        return not_run
    summary = summarise({name: list(row.metrics.values()) for name, row in rows.items()})
    world = {name: cells for name, cells in summary.items() if name in VARIANTS}
    write_json(folder / "laptop_world.json", world, indent=1)
    lengths = {name: cells for name, cells in summary.items() if name not in VARIANTS}
    write_json(folder / "laptop_world_lengths.json", lengths, indent=1)
    pairs = differences(world, compared_pairs(world))
    write_json(folder / "laptop_world_differences.json", pairs, indent=1)
    sources = {
        "seeds": list(seeds),
        "not_run": not_run,
        **run_sources(rows),
        "preparation_seconds": {**before, **_preparation_seconds(grid)},
    }
    write_json(folder / "laptop_world_runs.json", sources, indent=1)
    plot_summary(world, folder / "laptop_world.png")
    print(f"Written: {folder / 'laptop_world.json'}, its differences, runs and plot beside it")
    if publish:
        write_curves(grid, rows, folder)
    return not_run


def _place(name: str) -> tuple[bool, int, int]:
    """The variants first, each with its other numbers of steps after them, from short to long."""
    run = Run.of_row(name, 0)
    return run.steps is not None, VARIANTS.index(run.variant), run.steps or 0


def _preparation_seconds(grid: Grid) -> dict[str, float]:
    """By task, of those that are no runs."""
    runs = {task.name for task in grid.runs.values()}
    return {
        task.name: round(record.seconds, 1)
        for task in grid.tasks
        if task.name not in runs and (record := task.open_record()).complete
    }


def write_curves(grid: Grid, rows: Mapping[str, Row], folder: Path) -> None:
    """Write laptop_world_time.json and its plot: accuracy against minutes, of the variants with a
    curve. Nothing is written if there is none.

    Minutes are those of the finished runs, or where a row has none of them, those of the file.
    """
    file = folder / "laptop_world_time.json"
    before = read_json(file) if file.is_file() else {}
    curves = {name: _curve(grid, rows, name, before.get(name, {})) for name in CURVES}
    curves = {name: curve for name, curve in curves.items() if curve}
    if not curves:
        return
    set_beside_gridclip(curves)
    write_json(file, curves, indent=1)
    plot_curves(curves, TITLES, file.with_suffix(".png"))
    print(f"Written: {file}, its plot beside it")


def _curve(grid: Grid, rows: Mapping[str, Row], curve: str, before: dict) -> dict:
    """Empty without a row whose minutes are known; ``before`` is what the file has."""
    chosen = [row for name, row in rows.items() if Run.of_row(name, 0).variant in CURVES[curve]]
    if not chosen:
        return {}
    facts = next(iter(chosen[0].runs.values()))
    facts = {key: facts[key] for key in ("device", "processor")}
    if any(before.get(key) != value for key, value in facts.items()):
        before = {}
    known = {point["steps"]: point["minutes"] for point in before.get("points", [])}
    points = []
    for row in chosen:
        steps = row.described["steps"]
        minutes = _minutes(grid, row, steps, facts["device"]) or known.get(steps)
        if minutes is not None:
            points.append(curve_point(list(row.metrics.values()), minutes, steps))
    points.sort(key=lambda point: point["steps"])
    if not points:
        return {}
    preparation = _preparation_minutes(grid, curve, before)
    return {**facts, "preparation_minutes": preparation, "points": points}


def _preparation_minutes(grid: Grid, curve: str, before: dict) -> float:
    needed = [t.open_record() for t in grid.tasks if t.name in _BEFORE.get(curve, ())]
    if all(record.complete for record in needed):
        return sum(record.seconds for record in needed) / 60
    return before["preparation_minutes"]


def _minutes(grid: Grid, row: Row, steps: int, device: str) -> float | None:
    """Of a training, the mean over those of the row's runs that are finished here."""
    seconds = [
        training_seconds(grid.folder / run.training.folder, steps, device)
        for run, task in grid.runs.items()
        if run.name in row.runs and task.open_record().complete
    ]
    return mean(seconds) / 60 if seconds else None
