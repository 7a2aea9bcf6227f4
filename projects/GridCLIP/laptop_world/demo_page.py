"""The demo's report: facts from the files that the stages left, rendered by ``report.html.j2``.

The page stands alone: style and pictures are in the file, and it fetches nothing.
"""

import json
from pathlib import Path

from tabulate import tabulate

from gridclip.clip_weights import clip_file
from gridclip.evaluation import read_results
from gridclip.files import replacing, sha256_of_file
from gridclip.page import page_environment
from laptop_world.duration import duration
from laptop_world.shapes import AXES, load_world

_SECTIONS = "introduction detections accuracy words training speed provenance".split()
_STAGES = {
    "data": "Pictures and annotations generated",
    "text_embeddings": "Category names embedded by CLIP's text encoder",
    "image_embeddings": "Training pictures embedded by CLIP's image encoder",
    "training": "Training",
    "evaluation": "Evaluation on the held-out pictures",
    "detector": "The detector saved as one file",
    "pictures": "Pictures and curves drawn",
    "speed": "Speeds compared",
    "words": "Search for words of the user's own",
}
_AXES = {
    "combination": "known texture, colour and shape, never seen together",
    "shape": "a shape that no training category has",
    "texture": "a texture that no training category has",
}


def write(demo, seconds: dict[str, float]) -> Path:
    """Write ``report.html`` from what the stages have left, and return its path.

    Args:
        demo: a ``laptop_world.demo.Demo``.
        seconds: by stage.

    Raises:
        FileNotFoundError: a stage has not left one of its files; names the file.
    """
    record = read_results(demo.run / "results.json")
    page = render(
        introduction=introduction(demo, record, seconds),
        detections=sorted((demo.run / "pictures").glob("*.jpg")),
        accuracy=accuracy(demo, record),
        words=words(demo),
        training=training(demo, record),
        speed=speed(demo),
        provenance=provenance(demo, record, seconds),
    )
    path = demo.output / "report.html"
    with replacing(path) as partial:
        partial.write_text(page, encoding="utf-8")
    return path


def render(**sections) -> str:
    """The page as HTML.

    Args:
        sections: facts by section, as the functions of these names return them; for
            "detections" the pictures' paths. A section that is absent, empty or None is left out.

    Raises:
        FileNotFoundError: a picture does not exist; names the file.
    """
    environment = page_environment(Path(__file__).parent)
    return environment.get_template("report.html.j2").render(dict.fromkeys(_SECTIONS) | sections)


def introduction(demo, record: dict, seconds: dict[str, float]) -> dict:
    metrics, world = record["metrics"]["bbox"], load_world(demo.world)
    novel = len(world.novel_classes)
    figures = [
        (metrics["AP"], "AP, all categories"),
        (metrics["APr"], "APr, never trained on"),
        (metrics["APf"], "APf, trained on often"),
        (duration(sum(seconds.values())), f"in all, on {record['device']}"),
    ]
    return {"base": len(world.names) - novel, "novel": novel, "figures": figures}


def accuracy(demo, record: dict) -> dict:
    metrics, world = record["metrics"]["bbox"], load_world(demo.world)
    train = read_json(demo.datasets / f"shapes/shapes_{demo.world}_train.json")
    frequencies = [category["frequency"] for category in train["categories"]]
    every = len(world.names)
    axes = [
        [f"{axis}: {_AXES[axis]}", len(world.novel_axes[axis]), name, metrics[name]]
        for axis in AXES
        if (name := f"APr_{axis}") in metrics
    ]
    per_category = read_json(demo.run / "per_category_ap.json")
    novel = [
        [" ".join(world.names[i]), world.axes[i], ap]
        for i in world.novel_classes
        if (ap := per_category[" ".join(world.names[i])]) is not None
    ]
    return {
        "images": record["protocol"]["images"],
        "protocol": record["protocol"]["ap"],
        "rows": [
            ["all categories", every, "AP", metrics["AP"]],
            ["rare: novel, never trained on", len(world.novel_classes), "APr", metrics["APr"]],
            *axes,
            ["common: trained on seldom", frequencies.count("c"), "APc", metrics["APc"]],
            ["frequent: trained on often", frequencies.count("f"), "APf", metrics["APf"]],
            ["all categories, at an IoU of 0.5", every, "AP50", metrics["AP50"]],
        ],
        "novel": sorted(novel, key=lambda row: -row[-1]),
    }


def words(demo) -> list[dict]:
    """The entries of ``words.json``, with paths of the pictures."""
    folder = demo.run / "words"
    entries = read_json(folder / "words.json")
    for entry in entries:
        for found in entry["best"]:
            found["picture"] = folder / found["picture"]
    return entries


def training(demo, record: dict) -> dict:
    return {
        "steps": record["iterations"],
        "batch_size": demo.cfg.dataloader.train.total_batch_size,
        "losses": demo.run / "losses.png",
    }


def speed(demo) -> dict | None:
    """None if speeds have not been compared."""
    path = demo.output / "speed.json"
    if not path.is_file():
        return None
    record = read_json(path)
    rows = [
        [m["title"], 1000 * m["p50"], m["images_per_second"], m["detections_per_image"]]
        + [record["arithmetic"].get(key, {}).get("gmac")]
        for key, m in record["inference"].items()
    ]
    ratios = [[name, f"{value:.3g}"] for name, value in record["ratios"].items() if value]
    picture = path.with_suffix(".png")
    return {"setup": record["setup"], "rows": rows, "ratios": ratios, "picture": picture}


def provenance(demo, record: dict, seconds: dict[str, float]) -> dict:
    clip = demo.cfg.clip.weights
    facts = [
        ["commit", record["commit"]],
        *record["versions"].items(),
        ["device", record["device"]],
        ["seed", str(record["seed"])],
        ["CLIP weights", f"{clip}, sha256 {sha256_of_file(clip_file(clip))}"],
        [
            "data",
            f"{demo.train_pictures} training and {demo.val_pictures} held-out pictures of "
            f"{demo.size} px, world '{demo.world}'",
        ],
        ["annotations", f"sha256 {record['protocol']['dataset_sha256']}"],
    ]
    return {
        "seconds": [[_STAGES[name], value] for name, value in seconds.items()]
        + [["In all", sum(seconds.values())]],
        "facts": facts,
        "overrides": demo.config_overrides,
        "config": json.dumps(record["config"], indent=1),
    }


def metrics_text(demo) -> str:
    """A table of the metrics for the terminal."""
    metrics = read_results(demo.run / "results.json")["metrics"]["bbox"]
    names = ["AP", "AP50", "APr", "APc", "APf", *(n for n in metrics if n.startswith("APr_"))]
    return tabulate([[metrics[name] for name in names]], names, floatfmt=".1f")


def read_json(path: Path):
    return json.loads(path.read_text(encoding="utf-8"))
