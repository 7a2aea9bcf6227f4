"""Small annotation files in the formats of the benchmarks, with their true names, and random
detections. What the files say is random, but each holds what its evaluation treats apart: sizes,
crowds, lists of negative and of not exhaustive categories, pictures without boxes."""

import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import escape

import numpy as np
import torch
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.datasets import register_pascal_voc
from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES
from detectron2.structures import Boxes, Instances
from PIL import Image

from gridclip.data import DatasetDescription
from gridclip.text import load_categories

WIDTH, HEIGHT = 640, 480


@dataclass(frozen=True)
class Format:
    """A benchmark.

    Attributes:
        config: its config, below configs/.
        names: the vocabulary, as ``load_categories`` knows it.
        write: fills a folder; returns the arguments of ``data.val`` that name the data there, and
            what the files say, as one dict in COCO's or LVIS's format.
    """

    config: str
    names: str
    write: Callable[[Path], tuple[dict, dict]]


def annotate(
    category_ids: list[int], first_id: int, seed: int = 0, crowds: bool = False, count: int = 12
) -> dict:
    """Boxes of random categories; coordinates are multiples of 1/4, which float32 holds exactly.
    The last picture has none."""
    rng = np.random.default_rng(seed)
    images, annotations = [], []
    order = rng.permutation(category_ids)
    for i in range(count):
        image_id = first_id + 7 * int(rng.integers(1, 99)) + 1000 * i
        images.append(dict(id=image_id, width=WIDTH, height=HEIGHT))
        if i == count - 1:
            break
        present = [int(order[(3 * i + k) % len(order)]) for k in range(5)]
        for _ in range(rng.integers(6, 12)):
            x, y = rng.integers(0, 1100, 2) / 4
            w, h = rng.choice([40, 100, 500, 700], 2) / 4 + rng.integers(0, 40, 2) / 4
            annotations.append(
                dict(
                    id=len(annotations) + 11,
                    image_id=image_id,
                    category_id=int(rng.choice(present)),
                    bbox=[float(x), float(y), float(w), float(h)],
                    area=float(w * h) * float(rng.choice([0.5, 1.0])),  # of the mask
                    iscrowd=int(crowds and rng.random() < 0.15),
                )
            )
    return dict(images=images, annotations=annotations)


def _write(path: Path, content: dict) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content))
    return str(path)


def write_lvis(folder: Path, *, both_folders: bool = False) -> tuple[dict, dict]:
    """As lvis_v1_val.json: no file_name. Of ``both_folders`` every third is in train2017."""
    made = annotate([c["id"] for c in LVIS_CATEGORIES], 397_000)
    rng = np.random.default_rng(1)
    for i, image in enumerate(made["images"]):
        part = "train2017" if both_folders and i % 3 == 1 else "val2017"
        present = {a["category_id"] for a in made["annotations"] if a["image_id"] == image["id"]}
        absent = [c["id"] for c in LVIS_CATEGORIES if c["id"] not in present]
        near = [c for c in absent if any(abs(c - p) < 40 for p in present)]
        image |= dict(
            coco_url=f"http://images.cocodataset.org/{part}/{image['id']:012}.jpg",
            neg_category_ids=rng.permutation(near)[:20].tolist(),
            not_exhaustive_category_ids=sorted(present)[:1],
        )
    for annotation in made["annotations"]:
        del annotation["iscrowd"]  # LVIS has none
    made["categories"] = [dict(c) for c in LVIS_CATEGORIES]
    path = _write(folder / "lvis/lvis_v1_val.json", made)
    return dict(json=path, images=str(folder / "coco")), made


def write_lvis_both(folder: Path) -> tuple[dict, dict]:
    """LVIS val, of which minival is to be taken; returns what the part says."""
    where, made = write_lvis(folder, both_folders=True)
    return dict(**where, only="val2017"), minival_of(made)


def minival_of(lvis: dict) -> dict:
    images = [i for i in lvis["images"] if "val2017" in i["coco_url"]]
    ids = {i["id"] for i in images}
    kept = [a for a in lvis["annotations"] if a["image_id"] in ids]
    return {**lvis, "images": images, "annotations": kept}


def write_minival(folder: Path) -> tuple[dict, dict]:
    """As lvis_v1_minival.json."""
    _, made = write_lvis(folder, both_folders=True)
    made = minival_of(made)
    path = _write(folder / "lvis/lvis_v1_minival.json", made)
    return dict(json=path, images=str(folder / "coco")), made


def write_named_minival(folder: Path) -> tuple[dict, dict]:
    """As lvis_v1_minival_inserted_image_name.json: with file_name."""
    _, made = write_minival(folder)
    for image in made["images"]:
        image["file_name"] = f"{image['id']:012}.jpg"
    path = _write(folder / "lvis/lvis_v1_minival_inserted_image_name.json", made)
    return dict(json=path, images=str(folder / "coco")), made


def write_coco(folder: Path) -> tuple[dict, dict]:
    """As instances_val2017.json."""
    categories = [dict(id=c["id"], name=c["name"]) for c in COCO_CATEGORIES if c["isthing"]]
    made = annotate([c["id"] for c in categories], 139, crowds=True, count=40)
    for image in made["images"]:
        image["file_name"] = f"{image['id']:012}.jpg"
        image["coco_url"] = f"http://images.cocodataset.org/val2017/{image['file_name']}"
    made["categories"] = categories
    path = _write(folder / "coco/annotations/instances_val2017.json", made)
    return dict(json=path, images=str(folder / "coco/val2017")), made


def write_objects365(folder: Path) -> tuple[dict, dict]:
    """As zhiyuan_objv2_val.json: categories in no order, pictures in folders of folders."""
    names = [c.name for c in load_categories("objects365")]
    categories = [dict(id=i, name=name) for i, name in enumerate(names, start=1)]
    made = annotate([c["id"] for c in categories], 420_917, crowds=True)
    for image in made["images"]:
        image["file_name"] = f"images/v1/patch8/objects365_v1_{image['id']:08}.jpg"
        image["url"] = ""
    for annotation in made["annotations"]:
        annotation |= dict(isfake=0, isreflected=0)
    made["categories"] = categories[::-1]
    path = _write(folder / "objects365/annotations/zhiyuan_objv2_val.json", made)
    return dict(json=path, images=str(folder / "objects365/val")), made


def write_voc(folder: Path) -> tuple[dict, dict]:
    """A VOC folder, registered by detectron2's own function. Coordinates are whole and from 1."""
    made = annotate(list(range(20)), 0)
    root = folder / "VOC2007"
    for part in ("Annotations", "ImageSets/Main", "JPEGImages"):
        (root / part).mkdir(parents=True, exist_ok=True)
    for image in made["images"]:
        own = [a for a in made["annotations"] if a["image_id"] == image["id"]]
        objects = []
        for a in own:
            x, y, w, h = a["bbox"] = [float(int(v)) for v in a["bbox"]]
            a["area"] = w * h
            corners = dict(xmin=x + 1, ymin=y + 1, xmax=x + w, ymax=y + h)
            box = "".join(f"<{k}>{int(v)}</{k}>" for k, v in corners.items())
            name = escape(CLASS_NAMES[a["category_id"]])
            objects.append(
                f"<object><name>{name}</name><difficult>{a['id'] % 2}</difficult>"
                f"<bndbox>{box}</bndbox></object>"
            )
        size = f"<size><width>{WIDTH}</width><height>{HEIGHT}</height><depth>3</depth></size>"
        text = f"<annotation>{size}{''.join(objects)}</annotation>"
        (root / f"Annotations/{image['id']:06}.xml").write_text(text)
    names = [f"{image['id']:06}" for image in made["images"]]
    (root / "ImageSets/Main/test.txt").write_text("\n".join(names) + "\n")
    made["categories"] = [dict(id=i, name=name) for i, name in enumerate(CLASS_NAMES)]
    name = f"voc_2007_test_of_{folder.name}"
    if name in DatasetCatalog:
        DatasetCatalog.remove(name)
        MetadataCatalog.remove(name)
    register_pascal_voc(name, str(root), "test", 2007)
    return dict(dataset=name), made


FORMATS = {
    "lvis": Format("lvis/gridclip_r50_ov_1x.py", "lvis_v1", write_lvis),
    "lvis_full": Format("lvis/gridclip_r50_full_1x.py", "lvis_v1", write_lvis),
    "minival_of_val": Format("benchmarks/lvis_minival.py", "lvis_v1", write_lvis_both),
    "minival": Format("benchmarks/lvis_minival.py", "lvis_v1", write_minival),
    "minival_named": Format("benchmarks/lvis_minival.py", "lvis_v1", write_named_minival),
    "coco": Format("benchmarks/coco.py", "coco", write_coco),
    "coco_full": Format("coco/gridclip_r50_full.py", "coco", write_coco),
    "coco_ov": Format("coco/gridclip_r50_ov.py", "coco", write_coco),
    "voc": Format("benchmarks/voc_2007.py", "voc", write_voc),
    "objects365": Format("benchmarks/objects365.py", "objects365", write_objects365),
}


def draw_pictures(data: DatasetDescription) -> None:
    """Write noise where the files say that there are pictures."""
    first = Path(data.file_name(0))
    first.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
    Image.fromarray(noise).resize((WIDTH, HEIGHT)).save(first)
    for index in range(1, len(data)):
        Path(data.file_name(index)).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(first, data.file_name(index))


def perfect(made: dict) -> list[dict]:
    """The boxes themselves as detections."""
    keys = ("image_id", "category_id", "bbox")
    return [{**{k: a[k] for k in keys}, "score": 0.5} for a in made["annotations"]]


def imperfect(made: dict, seed: int = 0, more: int = 10) -> list[dict]:
    """Shifted boxes, some with a wrong category, and random ones of the categories around."""
    rng = np.random.default_rng(seed)
    used = sorted({a["category_id"] for a in made["annotations"]})
    results = []
    for a in made["annotations"]:
        x, y, w, h = a["bbox"]
        shift = rng.integers(-8, 9, 4) / 4
        for scale in rng.choice([0.25, 1.0, 4.0], 2):
            box = np.array([x, y, w, h]) + np.round(4 * scale * shift) / 4
            box[:2], box[2:] = box[:2].clip(0), box[2:].clip(1)
            category = a["category_id"] if rng.random() < 0.8 else rng.choice(used)
            results.append(_result(a["image_id"], category, box, rng))
    for image in made["images"]:
        for _ in range(more):
            box = rng.integers(4, 800, 4) / 4
            results.append(_result(image["id"], rng.choice(used), box, rng))
    return results


def _result(image_id: int, category: int, box: np.ndarray, rng: np.random.Generator) -> dict:
    score = int(rng.integers(1, 1024)) / 1024  # equal ones occur
    return dict(image_id=image_id, category_id=int(category), bbox=box.tolist(), score=score)


def process(evaluator, data: DatasetDescription, results: list[dict], records) -> None:
    """Feed results of COCO's format to an evaluator, as a detector's output for each record."""
    to_class = {category_id: i for i, category_id in enumerate(data.category_ids)}
    by_image: dict[int, list[dict]] = {}
    for r in results:
        by_image.setdefault(r["image_id"], []).append(r)
    for record in records:
        own = by_image.get(int(record["image_id"]), [])  # VOC's are strings
        own = [r for r in own if r["category_id"] in to_class]
        boxes = torch.tensor([r["bbox"] for r in own], dtype=torch.float32).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        found = Instances((HEIGHT, WIDTH))
        found.pred_boxes = Boxes(boxes)
        found.scores = torch.tensor([r["score"] for r in own], dtype=torch.float32)
        found.pred_classes = torch.tensor([to_class[r["category_id"]] for r in own]).long()
        evaluator.process([record], [{"instances": found}])
