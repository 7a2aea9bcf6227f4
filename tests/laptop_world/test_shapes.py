"""ShapesLVIS: what its files hold, what is novel in it, and that it can be made again."""

import hashlib
import json
from collections import Counter
from pathlib import Path

import clip
import numpy as np
import pytest
import torch
from detectron2.config import LazyConfig, instantiate
from detectron2.data.datasets import load_lvis_json
from detectron2.structures import Boxes, Instances
from lvis import LVIS
from PIL import Image
from pycocotools import mask as mask_utils

from gridclip.data import all_records, federated_weights, training_records
from gridclip.evaluation import OpenVocabularyEvaluator
from laptop_world.experiment import PROJECT
from laptop_world.shapes import (
    ALL_NAMES,
    AXES,
    CaptionedShapes,
    build_caption_scene,
    build_scene,
    generate_shapes,
    load_world,
    novel_names,
    render,
)
from laptop_world.shapes.dataset import _categories as categories_of
from laptop_world.shapes.dataset import _lvis_json, clip_to_unit_square
from laptop_world.shapes.outlines import DISTRACTORS, outline
from laptop_world.shapes.scenes import BLOCK, MAX_OBJECTS, MIN_VISIBLE, _categories_of_block
from laptop_world.shapes.vocabulary import COLOURS, SHAPES, TEXTURES

WORLDS = ("dev", "test")
SIZE = 64


@pytest.fixture(scope="module")
def generated(tmp_path_factory):
    root = tmp_path_factory.mktemp("datasets") / "shapes"
    return root, generate_shapes("dev", root, train=40, val=48, size=SIZE)


@pytest.fixture(scope="module")
def block():
    """The scenes of a block of training pictures."""
    return [build_scene("test", "train", i) for i in range(BLOCK)]


@pytest.fixture
def described(generated, monkeypatch):
    """The configs' description of the generated training and validation pictures."""
    return describe(generated[0].parent, "dev", monkeypatch)


def describe(datasets, world, monkeypatch):
    monkeypatch.setenv("DETECTRON2_DATASETS", str(datasets))
    cfg = LazyConfig.load(str(PROJECT / "configs/common/shapes.py"))
    cfg.shapes.world = world
    return [instantiate(cfg.data[part]) for part in ("train", "val")]


def load(path) -> dict:
    return json.loads(Path(path).read_text())


# -- vocabulary


@pytest.mark.parametrize("world", WORLDS)
def test_base_categories_hold_no_novel_word_and_all_words_of_novel_combinations(world):
    world = load_world(world)
    names = {axis: [world.names[i] for i in ids] for axis, ids in world.novel_axes.items()}
    base = [n for n, axis in zip(world.names, world.axes, strict=True) if axis is None]
    assert len(set(world.names)) == len(world.names) >= 100
    assert set(world.names) <= set(ALL_NAMES)
    assert all(len(names[axis]) >= 10 for axis in AXES)

    shapes, textures = {n.shape for n in base}, {n.texture for n in base}
    colours = {n.colour for n in base}
    assert shapes.isdisjoint(n.shape for n in names["shape"])
    assert textures.isdisjoint(n.texture for n in names["texture"])
    assert textures >= {n.texture for n in names["shape"] + names["combination"]}
    assert shapes >= {n.shape for n in names["texture"] + names["combination"]}
    assert colours == set(COLOURS)
    assert len({n.shape for n in names["shape"]}) == 2


def test_worlds_differ_in_what_is_novel():
    dev, test = map(load_world, WORLDS)
    novel = [{w.names[i] for i in w.novel_classes} for w in (dev, test)]
    assert novel[0].isdisjoint(novel[1])
    assert novel[0] & set(test.names) and novel[1] & set(dev.names)
    for axis, word in (("shape", "shape"), ("texture", "texture")):
        words = [{getattr(w.names[i], word) for i in w.novel_axes[axis]} for w in (dev, test)]
        assert words[0].isdisjoint(words[1])


def test_a_vocabulary_stays_what_it_is():
    names = "\n".join(
        f"{n} {a}" for w in map(load_world, WORLDS) for n, a in zip(w.names, w.axes, strict=True)
    )
    assert (
        hashlib.sha256(names.encode()).hexdigest()
        == "855aacde735a2105bd7dd453d94a1f547a1dc14b8563383e68d9bcc965296c05"
    )


def test_clip_tokenizes_every_word_whole():
    tokens = clip.tokenize([*TEXTURES, *COLOURS, *SHAPES])
    assert ((tokens != 0).sum(1) <= 4).all()  # start and end among them


def test_unknown_world():
    with pytest.raises(ValueError, match="dev or test"):
        load_world("prod")


# -- scenes


def test_frequencies_of_a_block_have_a_long_tail(block):
    categories = categories_of("test", block)
    novel = [c["id"] - 1 for c in categories if c["frequency"] == "r"]
    assert novel == load_world("test").novel_classes
    images = Counter()
    for scene in block:
        hidden = {scene.items[i].category_id for i in scene.unannotated}
        assert hidden <= {i.category_id for i in scene.items if i.category_id is not None}
        images.update({i.category_id for i in scene.items if i.category_id is not None})
    counts = sorted(images.values())
    assert counts[-1] > 20 * counts[0]
    for category in categories:
        count = images[category["id"] - 1]
        assert category["image_count"] == count
        assert category["frequency"] == ("r" if count <= 1 else "c" if count <= 10 else "f")


@pytest.mark.parametrize("world", WORLDS)
def test_rare_is_novel_in_the_default_set(world):
    images = Counter()
    for number in range(10):
        for present in _categories_of_block(world, "train", 0, number):
            assert 1 <= len(set(present)) == len(present) <= MAX_OBJECTS
            images.update(present)
    world = load_world(world)
    rare = sorted(i for i in range(len(world.names)) if images[i] <= 10)
    assert rare == world.novel_classes and min(images.values()) >= 3
    assert sum(10 < n <= 100 for n in images.values()) >= 30
    assert sum(n > 100 for n in images.values()) >= 50


def test_objects_are_visible_and_differ_in_scale(block):
    sizes = []
    for scene in block:
        objects = [item for item in scene.items if item.category_id is not None]
        assert 1 <= len(objects) <= MAX_OBJECTS
        for i, item in enumerate(scene.items):
            points = item.interior()
            visible = ((points >= 0) & (points <= 1)).all(1)
            for above in scene.items[i + 1 :]:
                visible &= ~above.covers(points)
            assert visible.mean() >= MIN_VISIBLE
            sizes.append(np.sqrt(abs(np.linalg.det(item.matrix))))
    assert max(sizes) > 8 * min(sizes)
    assert {i.name.shape for s in block for i in s.items if i.category_id is None} == {*DISTRACTORS}


def test_negatives_are_absent_also_among_the_unannotated(block):
    assert any(scene.unannotated for scene in block)
    for scene in block:
        assert len(set(scene.negatives)) == 12
        assert set(scene.negatives).isdisjoint(i.category_id for i in scene.items)


@pytest.mark.parametrize("shape", [*SHAPES, *DISTRACTORS])
def test_table_of_what_a_shape_covers_agrees_with_its_area(shape):
    item = build_caption_scene("train", 0).items[0]
    item = type(item)(item.name._replace(shape=shape), 0, item.matrix, item.centre)
    x, y = item.polygon.T
    area = abs(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2
    side = np.linspace(-1, 2, 600)
    covered = item.covers(np.stack(np.meshgrid(side, side), -1).reshape(-1, 2))
    assert covered.mean() * 9 == pytest.approx(area, rel=0.08)
    assert item.covers(item.interior()).all()
    assert np.abs(outline(shape)).max() <= 1 + 1e-9


def test_splits_share_no_random_numbers():
    scenes = [build_scene(w, s, 3) for w in WORLDS for s in ("train", "val")]
    scenes += [build_caption_scene(s, 3) for s in ("train", "val")] + [
        build_scene("dev", "train", 3, seed=1)
    ]
    assert len({scene.key for scene in scenes}) == len(scenes)
    assert len({render(scene, 32).tobytes() for scene in scenes}) == len(scenes)


# -- files


def test_annotations_agree_with_lvis_and_lie_in_the_picture(generated):
    root, result = generated
    for split, count in (("train", 40), ("val", 48)):
        dataset, api = load(result.json_files[split]), LVIS(str(result.json_files[split]))
        assert len(api.imgs) == count
        present = {i: {a["category_id"] for a in api.img_ann_map[i]} for i in api.imgs}
        for annotation in dataset["annotations"]:
            x, y, w, h = annotation["bbox"]
            points = np.array(annotation["segmentation"][0]).reshape(-1, 2)
            assert (points.min(0) == (x, y)).all() and (points.max(0) == (x + w, y + h)).all()
            assert w > 0 and h > 0 and min(x, y) >= 0 and max(x + w, y + h) <= SIZE
            mask_area = int(mask_utils.area(api.ann_to_rle(annotation)))
            assert annotation["area"] == pytest.approx(mask_area, rel=0.2, abs=12)
        for image in dataset["images"]:
            assert present[image["id"]].isdisjoint(image["neg_category_ids"])
            assert Path(root, *image["coco_url"].split("/")[-2:]).is_file()
    train, val = (load(result.json_files[s]) for s in ("train", "val"))
    assert train["categories"] == val["categories"]
    assert {i["id"] for i in train["images"]}.isdisjoint(i["id"] for i in val["images"])


def test_category_counts_are_those_of_the_training_annotations(generated):
    train = load(generated[1].json_files["train"])
    images, instances = Counter(), Counter(a["category_id"] for a in train["annotations"])
    images.update(c for _, c in {(a["image_id"], a["category_id"]) for a in train["annotations"]})
    for category in train["categories"]:
        assert category["image_count"] == images[category["id"]]
        assert category["instance_count"] == instances[category["id"]]
    assert [c["id"] for c in train["categories"]] == list(range(1, len(train["categories"]) + 1))


def test_some_pictures_are_not_exhaustively_annotated(block):
    dataset = _lvis_json("test", "train", block, SIZE, categories_of("test", block))
    annotated = Counter((a["image_id"], a["category_id"]) for a in dataset["annotations"])
    incomplete = [i for i in dataset["images"] if i["not_exhaustive_category_ids"]]
    assert 4 <= len(incomplete) <= 40
    for image in incomplete:
        drawn = Counter(i.category_id for i in block[image["id"] - 1].items)
        (category,) = image["not_exhaustive_category_ids"]
        assert 1 <= annotated[image["id"], category] == drawn[category - 1] - 1


def test_annotations_of_a_tiny_set_stay_what_they_are(generated):
    """Pixels may differ by a bit between versions of Pillow and numpy; annotations may not."""
    pinned = "901323a259e4bcfac9242c2799f6ca1f864b993da0102ddb3717e8ea2acbd8fb"
    assert generated[1].annotations_sha256 == pinned


def test_same_bytes_again_and_with_workers(generated, tmp_path):
    root, first = generated
    again = generate_shapes("dev", tmp_path, train=40, val=48, size=SIZE, num_workers=2)
    assert (again.sha256, again.drawn) == (first.sha256, 88)
    files = [p.relative_to(root) for p in sorted(root.rglob("*")) if p.is_file()]
    assert files == [p.relative_to(tmp_path) for p in sorted(tmp_path.rglob("*")) if p.is_file()]
    assert all((root / f).read_bytes() == (tmp_path / f).read_bytes() for f in files)


def test_resumes_and_mends(tmp_path):
    first = generate_shapes("test", tmp_path, train=3, val=2, size=SIZE)
    pictures = sorted((tmp_path / "shapes_test_train").iterdir())
    pictures[0].unlink()
    pictures[1].write_bytes(pictures[1].read_bytes()[:-400])
    again = generate_shapes("test", tmp_path, train=3, val=2, size=SIZE)
    assert (again.drawn, again.sha256) == (2, first.sha256)
    assert generate_shapes("test", tmp_path, train=5, val=2, size=SIZE).drawn == 2
    assert generate_shapes("test", tmp_path, train=5, val=2, size=SIZE, seed=1).drawn == 7
    assert not list(tmp_path.rglob(".partial*"))


def test_refuses_numbers_out_of_range(tmp_path):
    with pytest.raises(ValueError, match="train=0"):
        generate_shapes("dev", tmp_path, train=0)
    assert not list(tmp_path.iterdir())


def test_clipping_keeps_the_part_inside():
    diamond = np.array([(0.5, -0.5), (1.5, 0.5), (0.5, 1.5), (-0.5, 0.5)])
    assert {tuple(p) for p in clip_to_unit_square(diamond)} == {(0, 0), (1, 0), (0, 1), (1, 1)}
    inside = diamond / 4 + 0.25
    assert np.array_equal(clip_to_unit_square(inside), inside)
    assert clip_to_unit_square(diamond + 5).shape == (0, 2)


# -- description and evaluation


def test_the_configs_describe_training_and_validation(described, generated):
    train, val = described
    world = load_world("dev")
    for data in described:
        assert data.names == tuple(" ".join(n) for n in world.names)
        assert data.novel_classes == tuple(world.novel_classes)
        assert data.federated and data.metrics == "lvis"
        assert not data.missing_pictures
    assert val.groups == {axis: tuple(ids) for axis, ids in world.novel_axes.items()}
    assert sorted(i for ids in val.groups.values() for i in ids) == world.novel_classes
    categories = load(generated[1].json_files["train"])["categories"]
    assert train.image_counts.tolist() == [c["image_count"] for c in categories]
    novel = set(train.novel_classes)
    weights = federated_weights(train)
    assert all(weights[i] == 0 for i in novel)
    base_counts = [float(train.image_counts[i]) for i in train.base_classes]
    assert weights[train.base_classes].tolist() == pytest.approx(np.sqrt(base_counts))

    everything, base, val_records = all_records(train), training_records(train), all_records(val)
    assert (len(everything), len(base), len(val_records)) == (40, 40, 48)
    found = {a["category_id"] for r in everything for a in r["annotations"]}
    assert found & novel
    for record in base:
        assert novel.isdisjoint(a["category_id"] for a in record["annotations"])
        assert novel.isdisjoint(record["negative_classes"].tolist())
    with Image.open(val_records[0]["file_name"]) as image:
        size = val_records[0]["width"], val_records[0]["height"]
        assert image.size == size == (SIZE, SIZE)


@pytest.mark.parametrize("world", WORLDS)
def test_novel_names_are_those_of_the_world(world):
    loaded = load_world(world)
    novel = ["_".join(loaded.names[i]) for i in loaded.novel_classes]
    assert sorted(novel_names(world)) == sorted(novel)


def test_a_world_that_is_not_there_names_the_fix(tmp_path, monkeypatch):
    fix = rf"laptop_world\.generate --world test --output {tmp_path}/shapes"
    with pytest.raises(FileNotFoundError, match=rf"shapes_test_train\.json\. .*{fix}"):
        describe(tmp_path, "test", monkeypatch)


def test_perfect_detections_have_ap_100(described):
    evaluator = OpenVocabularyEvaluator(described[1])
    evaluator.reset()
    for record in all_records(described[1]):
        boxes = torch.tensor([a["bbox"] for a in record["annotations"]]).reshape(-1, 4)
        boxes[:, 2:] += boxes[:, :2]
        instances = Instances((SIZE, SIZE), pred_boxes=Boxes(boxes), scores=torch.ones(len(boxes)))
        instances.pred_classes = torch.tensor([a["category_id"] for a in record["annotations"]])
        evaluator.process([record], [{"instances": instances}])
    metrics = evaluator.evaluate()["bbox"]
    names = ("AP", "AP50", "APr", "APc", "AP_novel", "AP_base")
    for name in (*names, *(f"APr_{axis}" for axis in AXES)):
        assert metrics[name] == pytest.approx(100), name


def test_loads_under_a_name_of_its_own(generated):
    records = load_lvis_json(str(generated[1].json_files["val"]), f"{generated[0]}/")
    assert all(Path(r["file_name"]).is_file() and len(r["neg_category_ids"]) == 12 for r in records)


# -- captions


def test_captions_name_what_is_shown():
    pairs = CaptionedShapes(20, 32)
    for i in range(len(pairs)):
        image, caption = pairs[i]
        assert image.shape == (32, 32, 3) and image.dtype == np.uint8
        names = pairs.names(i)
        assert 1 <= len(names) <= 3
        positions = [caption.index(f"a {name}") for name in names]
        assert positions == sorted(positions) and caption.count("a ") >= len(names)
    assert np.array_equal(pairs[7][0], CaptionedShapes(8, 32)[7][0])
    assert not np.array_equal(pairs[7][0], CaptionedShapes(8, 32, split="val")[7][0])
    with pytest.raises(IndexError):
        pairs[20]
    with pytest.raises(ValueError, match="train or val"):
        CaptionedShapes(8, split="test")


def test_captions_cover_all_names_equally():
    single = CaptionedShapes(3600, max_objects=1)
    counts = Counter(single.names(i)[0] for i in range(0, 3600, 2))
    assert len({n.shape for n in counts}) == 12 and len(counts) >= 350
    assert max(counts.values()) <= 20
