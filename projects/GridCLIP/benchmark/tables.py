"""The tables of the measurements, in Markdown."""

from benchmark import report


def origin(record: dict) -> str:
    """What a reader needs to repeat the measurement, in one line."""
    versions = record["versions"]
    return (
        f"Commit {record['commit'][:10]}, torch {versions['torch']}, "
        f"detectron2 {versions['detectron2']}, Python {versions['python']}."
    )


def speed_table(record: dict) -> str:
    """The comparison of scripts/compare_speed.py: inference, training, cost in all, ratios."""
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
    """What the teacher's embeddings cost, for GridCLIP and for ViLD."""
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
