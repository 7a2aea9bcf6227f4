"""The demo's report: what was done, what came out, and what it is not."""

import json
from pathlib import Path

from tabulate import tabulate

from gridclip.clip_checkpoint import read_clip_checkpoint
from gridclip.evaluation import read_results
from gridclip.files import replacing
from laptop_world import html
from laptop_world.duration import duration
from laptop_world.shapes import AXES, load_world

_STAGES = {
    "data": "Pictures and annotations generated",
    "text_embeddings": "Category names embedded by CLIP's text encoder",
    "image_embeddings": "Training pictures embedded by CLIP's image encoder",
    "training": "Training",
    "evaluation": "Evaluation on the held-out pictures",
    "pictures": "Pictures and curves drawn",
    "speed": "Speeds compared",
    "words": "Search for words of the user's own",
}
_AXES = {
    "combination": "known texture, colour and shape, never seen together",
    "shape": "a shape that no training category has",
    "texture": "a texture that no training category has",
}


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))


def write(demo, seconds: dict[str, float]) -> Path:
    """Write ``report.html`` from what the stages have left, and return its path.

    Args:
        demo: ``laptop_world.demo.Demo``.
        seconds: by stage.
    """
    record = read_results(demo.run / "results.json")
    path = demo.output / "report.html"
    parts = [
        introduction(demo, record, seconds),
        detections(demo),
        accuracy(demo, record),
        words(demo),
        training(demo, record),
        speed(demo),
        how_it_was_made(demo, record, seconds),
    ]
    with replacing(path) as partial:
        partial.write_text(
            html.page("GridCLIP on the laptop world", *[p for p in parts if p]), encoding="utf-8"
        )
    return path


def introduction(demo, record: dict, seconds: dict[str, float]) -> str:
    metrics, world = record["metrics"]["bbox"], load_world(demo.world)
    novel = len(world.novel_classes)
    figures = [
        (percent(metrics["AP"]), "AP, all categories"),
        (percent(metrics["APr"]), "APr, never trained on"),
        (percent(metrics["APf"]), "APf, trained on often"),
        (duration(sum(seconds.values())), f"in all, on {record['device']}"),
    ]
    return "\n".join(
        [
            html.paragraph(
                f"A one-stage detector was trained on {len(world.names) - novel} categories of "
                f"drawn objects and finds {novel} more by their names alone.",
                "lead",
            ),
            html.paragraph(
                "It learns to place every location of a picture in the space of CLIP, where a name "
                "has its place too. A category that was never annotated is then found like any "
                "other: by how near the picture comes to its name."
            ),
            html.key_figures(figures),
            html.paragraph(
                "What this is not: the pictures are drawn, not photographs, and not LVIS; the CLIP "
                "used here is a small one, trained on captions of such drawings, and not OpenAI's. "
                "It has seen all words, the novel ones too, as CLIP has for LVIS. The run is "
                "short, of one seed. The numbers show that the method works end to end and say "
                "nothing about its accuracy on photographs."
            ),
        ]
    )


def detections(demo) -> str:
    pictures = sorted((demo.run / "pictures").glob("*.jpg"))
    return html.section(
        "Detections on held-out pictures",
        html.paragraph(
            "Left the ground truth, right the best detections, at least five and as many as there "
            "are objects, with their scores. Orange with a star: a novel category, which no "
            "training picture was annotated with. Blue: a category trained on. The first pictures "
            "with each kind of novel category are shown; they were not chosen by result."
        ),
        *[html.figure(path) for path in pictures],
    )


def accuracy(demo, record: dict) -> str:
    metrics, world = record["metrics"]["bbox"], load_world(demo.world)
    counts = frequency_counts(demo)
    rows = [
        ["all categories", len(world.names), "AP", metrics["AP"]],
        ["rare: novel, never trained on", len(world.novel_classes), "APr", metrics["APr"]],
        *[
            [f"{axis}: {_AXES[axis]}", len(world.novel_axes[axis]), f"APr_{axis}", value]
            for axis in AXES
            if (value := metrics.get(f"APr_{axis}")) is not None
        ],
        ["common: trained on seldom", counts["c"], "APc", metrics["APc"]],
        ["frequent: trained on often", counts["f"], "APf", metrics["APf"]],
        ["all, at an overlap of a half", len(world.names), "AP50", metrics["AP50"]],
    ]
    shown = [[name, count, metric, known(value)] for name, count, metric, value in rows]
    per_category = read_json(demo.run / "lvis_per_category_ap.json")
    novel = {"_".join(world.names[i]): world.axes[i] for i in world.novel_classes}
    ranked = sorted(
        (n for n in novel if per_category[n] is not None), key=lambda n: -per_category[n]
    )
    novel_rows = [[n.replace("_", " "), novel[n], per_category[n]] for n in ranked]
    return html.section(
        "Accuracy",
        html.paragraph(
            f"Box AP in percent by lvis-api on {record['protocol']['images']} held-out pictures; "
            f"{record['protocol']['ap']}."
        ),
        html.table(["categories", "number", "metric", "box AP"], shown),
        html.details(
            f"Every novel category ({len(novel_rows)})",
            html.table(["category", "novel", "box AP"], novel_rows),
        ),
    )


def known(value: float) -> float | None:
    return None if value != value else value  # nan, where there is no ground truth


def percent(value: float) -> str:
    return "–" if value != value else f"{value:.1f}"


def frequency_counts(demo) -> dict[str, int]:
    file = demo.datasets / f"shapes/shapes_{demo.world}_train.json"
    frequencies = [category["frequency"] for category in read_json(file)["categories"]]
    return {group: frequencies.count(group) for group in "rcf"}


def words(demo) -> str:
    folder = demo.run / "words"
    parts = []
    for entry in read_json(folder / "words.json"):
        judged = [found["right"] for found in entry["best"] if found["right"] is not None]
        facts = [
            "in names of categories trained on"
            if entry["trained_on"]
            else "in no name of a category trained on"
        ]
        if judged:
            facts.append(f"{sum(judged)} of the {len(judged)} shown are right")
        parts.append(f"<h3>{html.escape(entry['word'])}</h3>")
        parts.append(html.paragraph("; ".join(facts) + ".", "soft"))
        marks = {True: " ✓", False: " ✗", None: ""}
        parts.append(
            html.figure_grid(
                [
                    html.figure(folder / f["picture"], f"{f['score']:.3f}{marks[f['right']]}")
                    for f in entry["best"]
                ]
            )
            if entry["best"]
            else html.paragraph("Nothing was found.")
        )
    return html.section(
        "Words of your own",
        html.paragraph(
            "The same detector, without training, asked for other words. Shown are the held-out "
            "pictures with the highest scores for each, the best detection framed; ✓ and ✗ say "
            "whether an object with these words in its name is there. Ask for others: "
            '`make demo WORDS="red star, green fish"`.'
        ),
        *parts,
    )


def training(demo, record: dict) -> str:
    return html.section(
        "Training",
        html.paragraph(
            f"{record['iterations']} steps of 16 pictures. `loss_grid_alignment` is the focal loss "
            "of grid embeddings against text embeddings, `loss_image_alignment` keeps the "
            "backbone's map in the space of CLIP's image embeddings; the others place the boxes."
        ),
        html.figure(demo.run / "losses.png", max_width=1200),
    )


def speed(demo) -> str:
    path = demo.output / "speed.json"
    if not path.is_file():
        return ""
    record = read_json(path)
    setup = record["setup"]
    height, width = setup["size"]
    headers = [
        "detector",
        "milliseconds an image",
        "images a second",
        "detections",
        "1e9 mult-adds",
    ]
    rows = [
        [m["title"], 1000 * m["p50"], m["images_per_second"], m["detections_per_image"]]
        + [record["arithmetic"].get(key, {}).get("gmac")]
        for key, m in record["inference"].items()
    ]
    ratios = [[name, f"{value:.3g}"] for name, value in record["ratios"].items() if value]
    return html.section(
        "Speed",
        html.paragraph(
            f"The production models, with random weights, on pictures of {height} x {width}: "
            f"{setup['processor']}, {setup['threads']} threads, medians of {setup['runs']} runs "
            "by turns. Pictures so small favour one-stage detectors: a two-stage detector looks at "
            "a thousand proposals whatever the size. `scripts/compare_speed.py` without `--quick` "
            "measures 800 x 1333."
        ),
        html.figure(path.with_suffix(".png")),
        html.table(headers, rows),
        html.details("All ratios", html.table(["ratio", "measured"], ratios)),
    )


def how_it_was_made(demo, record: dict, seconds: dict[str, float]) -> str:
    rows = [[_STAGES[name], value] for name, value in seconds.items()]
    rows.append(["In all", sum(seconds.values())])
    clip = demo.cfg.clip.weights
    facts = [
        ["commit", record["commit"]],
        *[[name, version] for name, version in record["versions"].items()],
        ["device", record["device"]],
        ["seed", str(record["seed"])],
        ["CLIP weights", f"{clip}, sha256 {read_clip_checkpoint(clip).sha256}"],
        [
            "data",
            f"{demo.train_pictures} training and {demo.val_pictures} held-out pictures of "
            f"{demo.size} px, world '{demo.world}'",
        ],
        ["annotations", f"sha256 {record['protocol']['dataset_sha256']}"],
    ]
    config = json.dumps(record["config"], indent=1)
    return html.section(
        "How it was made",
        html.table(["stage", "seconds"], rows),
        html.table(["", ""], facts),
        html.paragraph(
            "Config: `projects/GridCLIP/configs/laptop/gridclip.py` with "
            + " ".join(f"`{override}`" for override in demo.config_overrides)
        ),
        html.details("The whole config", f"<pre>{html.escape(config)}</pre>"),
    )


def metrics_text(demo) -> str:
    """A table for the terminal."""
    metrics = read_results(demo.run / "results.json")["metrics"]["bbox"]
    names = ["AP", "AP50", "APr", "APc", "APf", *(n for n in metrics if n.startswith("APr_"))]
    return tabulate([[metrics[name] for name in names]], names, floatfmt=".1f")
