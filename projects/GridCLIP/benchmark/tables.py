"""Tables of the measurements in Markdown, for the README."""

from tabulate import tabulate

from . import report


def origin(record: dict) -> str:
    """One line with the commit and the versions that repeat a measurement."""
    versions = record["versions"]
    return (
        f"Commit {record['commit'][:10]}, torch {versions['torch']}, "
        f"detectron2 {versions['detectron2']}, Python {versions['python']}."
    )


def overfit_table(record: dict, name: str, config: str) -> str:
    """The results.json of a run that overfits 16 photographs."""
    metrics = record["metrics"]["bbox"]
    columns = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    minutes = record["seconds"] / 60
    return "\n".join(
        [
            f"**Overfitting, {name}.** `configs/mini/{config}`: trained on "
            f"{record['protocol']['images']} photographs and tested on the same, "
            f"{record['iterations']} steps, {minutes:.0f} minutes on {record['device']}, seed "
            f"{record['seed']}. It shows only that learning works; it is not an LVIS AP.",
            "",
            "| " + " | ".join(columns) + " |",
            "|" + "---|" * len(columns),
            "| " + " | ".join(f"{metrics[column]:.1f}" for column in columns) + " |",
            "",
            origin(record),
        ]
    )


def speed_table(record: dict) -> str:
    """The record of scripts/compare_speed.py."""
    return "\n\n".join(
        [
            "**Speed.** *Official* post-processing is each detector's own; *matched* gives ViLD "
            "GridCLIP's score threshold.",
            report.tables(record, tablefmt="github"),
            "![Seconds of the stages](results/speed_cpu.png)",
            origin(record["setup"]),
        ]
    )


def teacher_passes_table(record: dict) -> str:
    """The record of benchmark.teacher_passes."""
    names = {
        "whole": "GridCLIP: the picture and its mirror image",
        "tiles9": "GridCLIP: 9 tiles of both",
        "regions": "ViLD: 300 regions, two crops each",
    }
    height, width = record["picture"]
    return "\n".join(
        [
            f"**What the teacher costs before training**, {record['clip']} (D = {record['dim']}), "
            f"a picture of {height} x {width}, {record['device']}, {record['threads']} threads, "
            f"random weights, runs in turn: {record['runs']}, medians; LVIS train is extrapolated:",
            "",
            "| pass | vectors an image | s an image | LVIS train, hours | LVIS train, GB |",
            "|---|---|---|---|---|",
            *(
                f"| {names[name]} | {p['vectors']} | {p['seconds']:.2f} | "
                f"{p['lvis_train_hours']:.0f} | {p['lvis_train_gb']:.1f} |"
                for name, p in record["per_image"].items()
            ),
            "",
            "At the official D = 512, ViLD's 300 vectors are half of that, 31 GB and the boxes.",
            "",
            origin(record),
        ]
    )


def own_data_table(record: dict) -> str:
    """GridCLIP beside FCOS, of what ``benchmark.own_data`` wrote."""
    rows = [
        [name, *(f"{part['metrics'][k]:.1f}" for k in ("AP", "AP50", "AP75")), _minutes(part)]
        for name, part in (("GridCLIP", record), ("detectron2's FCOS", record["fcos"]))
    ]
    table = tabulate(rows, ("", "AP", "AP50", "AP75", "minutes"), "github", disable_numparse=True)
    protocol, machine = record["protocol"], record["environment"]
    return (
        f"{table}\n\n{protocol['images']} test pictures, {record['iterations']:,} steps, seed "
        f"{record['seed']}, one run each, training and evaluation together, {machine['threads']} "
        f"threads of {machine['processor']}. {protocol['evaluator']}; {protocol['ap']}."
    )


def _minutes(part: dict) -> str:
    return f"{part['seconds'] / 60:.0f}"
