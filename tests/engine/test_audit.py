"""audit_split() is clean where nothing leaks, and finds each leak that is planted."""

import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from detectron2.config import LazyCall as L
from detectron2.config import LazyConfig
from PIL import Image

import audit_split as script
from gridclip.data import GridCLIPDatasetMapper, all_records, training_records
from gridclip.data.annotations import Ragged
from gridclip.engine.audit import audit_split
from gridclip.modeling import TextClassifier
from pages import ROOT

CONFIGS = ROOT / "projects/GridCLIP/configs"
NAMES = ["red thing", "green thing", "blue thing", "zebra"]
SIZE = 96
NOVEL = 3


@pytest.fixture(scope="module")
def folder(tmp_path_factory, request):
    """Twelve pictures with up to three boxes, one of them a zebra in every second picture. The
    annotation is federated, or as the test's ``annotation`` says."""
    kind = getattr(request, "param", "federated")
    folder = tmp_path_factory.mktemp(kind)
    rng = np.random.default_rng(0)
    images, annotations = [], []
    for i in range(1, 13):
        Image.fromarray(rng.integers(0, 255, (SIZE, SIZE, 3), dtype=np.uint8)).save(
            folder / f"{i}.png"
        )
        image = dict(id=i, width=SIZE, height=SIZE, file_name=f"{i}.png")
        present = sorted({1 + i % 3, 1 + i % 2} | ({4} if i % 2 else set()))
        if kind == "federated":
            absent = [c for c in range(1, 5) if c not in present]
            image |= dict(neg_category_ids=absent, not_exhaustive_category_ids=present[-1:])
        images.append(image)
        for category in present:
            x, y, w, h = rng.integers(24, 48, 4).tolist()
            annotations.append(dict(image_id=i, category_id=category, bbox=[x, y, w, h]))
    categories = [dict(id=i, name=name) for i, name in enumerate(NAMES, 1)]
    file = dict(images=images, annotations=annotations, categories=categories)
    (folder / "boxes.json").write_text(json.dumps(file))
    return folder


@pytest.fixture
def tiny(folder, tmp_path):
    """The config for own data, or ViLD-text's, with a tiny model on these pictures."""

    def tiny(model: str = "custom/gridclip_r50"):
        cfg = LazyConfig.load(str(CONFIGS / f"{model}.py"))
        for part in (cfg.data.train, cfg.data.val):
            part.update(json=str(folder / "boxes.json"), images=str(folder), dataset=None)
        cfg.data.novel = NAMES[NOVEL:]
        cfg.clip.text_embeddings = str(tmp_path / "text.safetensors")
        cfg.model.backbone.bottom_up.update(
            layers=[1, 1, 1, 1], width=8, embed_dim=32, input_resolution=64, freeze_at=0
        )
        cfg.model.classifier.embed_dim = 32
        cfg.dataloader.train.update(num_workers=0, total_batch_size=4)
        if "vild" in model:
            cfg.model.backbone.out_channels = 32
            cfg.model.proposal_generator.post_nms_topk = [50, 50]
            cfg.model.roi_heads.batch_size_per_image = 32
            cfg.model.roi_heads.box_head.update(conv_dims=[32], fc_dims=[64])
            cfg.model.roi_heads.box_predictor.input_shape.channels = 64
            cfg.model.proposal_generator.anchor_generator.sizes = [[8], [16], [24], [32], [48]]
            augmentations = cfg.dataloader.train.mapper.augmentations
            augmentations[0].update(target_height=SIZE, target_width=SIZE)
            augmentations[1].crop_size = [SIZE, SIZE]
        else:
            cfg.model.backbone.out_channels = 64
            cfg.model.head.conv_dims = [64]
            cfg.dataloader.train.mapper.augmentations[0].short_edge_length = [SIZE]
        return cfg

    return tiny


annotation = pytest.mark.parametrize("folder", ["complete", "federated"], indirect=True)


def leaks(cfg) -> dict[str, str]:
    """The first leak of each check that has one."""
    return {check.what: check.leaks[0] for check in audit_split(cfg, 2).checks if check.leaks}


@annotation
@pytest.mark.parametrize("model", ["custom/gridclip_r50", "lvis/vild_text_r50_ov"])
def test_clean(tiny, model):
    audit = audit_split(tiny(model), 2)
    assert audit.clean, str(audit)
    counts = {check.what: check.count for check in audit.checks}
    assert audit.steps == 2 and audit.novel == ["zebra"]
    assert counts["boxes of the records"] == 20  # not the six zebras
    assert all(counts[what] for what in counts if "weights" not in what)
    assert audit.notes[0].startswith("6 of 12 pictures show a novel object")


def test_clean_laptop_world(tmp_path, monkeypatch):
    from laptop_world.shapes import generate_shapes

    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    generate_shapes("dev", tmp_path / "shapes", train=24, val=4, size=64)
    cfg = LazyConfig.load(str(CONFIGS / "laptop/gridclip.py"))
    cfg.shapes.world = "dev"
    cfg.dataloader.train.total_batch_size = 4
    audit = audit_split(cfg, 2)
    assert audit.clean and audit.steps == 2 and len(audit.novel) == 34
    assert not (tmp_path / "shapes/shapes_dev_text.safetensors").exists()


@annotation
def test_novel_boxes(tiny):
    cfg = tiny()
    cfg.dataloader.train.dataset = L(all_records)(data="${data.train}")
    found = leaks(cfg)
    assert found["boxes of the records"].endswith("1.png: 'zebra'")
    assert found["boxes of the batches"].endswith(".png: 'zebra'")


def test_novel_boxes_for_vild(tiny):
    cfg = tiny("lvis/vild_text_r50_ov")
    cfg.dataloader.train.dataset = L(all_records)(data="${data.train}", filter_empty=True)
    assert "boxes of the batches" in leaks(cfg)


class NegativesMapper(GridCLIPDatasetMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["negative_classes"] = torch.tensor([0, NOVEL])
        return item


def test_novel_negatives_of_a_mapper(tiny):
    cfg = tiny()
    cfg.dataloader.train.mapper._target_ = NegativesMapper
    found = leaks(cfg)
    assert found["category lists of the batches"].endswith(".png: 'zebra'")
    assert "categories of the losses" in found and "boxes of the batches" not in found


def with_negatives(data):
    records = training_records(data)
    records.negatives = Ragged.same([1, NOVEL], len(data))
    return records


def test_novel_negatives_of_records(tiny):
    cfg = tiny()
    cfg.dataloader.train.dataset = L(with_negatives)(data="${data.train}")
    assert leaks(cfg)["category lists of the records"].endswith("1.png: 'zebra'")


def equal_weights(count):
    return torch.ones(count)


def test_novel_federated_weight(tiny):
    cfg = tiny()
    cfg.model.federated_weights = L(equal_weights)(count=4)
    found = leaks(cfg)
    assert found["federated weights"] == "'zebra'"
    assert "categories of the losses" in found
    assert "is not finite" in found["text embeddings, novel ones as NaN"]


def without_negatives(data):
    records = training_records(data)
    records.negatives = None
    return records


@annotation
def test_all_categories_as_negatives(tiny):
    cfg = tiny()
    cfg.model.federated_weights = None
    cfg.dataloader.train.dataset = L(without_negatives)(data="${data.train}")
    assert leaks(cfg)["categories of the losses"].endswith("'zebra'")


class Relabelled:
    """Records that have a box of a zebra as one of a red thing."""

    def __init__(self, data):
        self.records = list(training_records(data))
        zebra = next(a for a in all_records(data)[0]["annotations"] if a["category_id"] == NOVEL)
        self.records[0]["annotations"].append(zebra | {"category_id": 0})

    def __len__(self):
        return len(self.records)

    def __getitem__(self, i):
        return self.records[i]


@pytest.mark.parametrize("model", ["custom/gridclip_r50", "lvis/vild_text_r50_ov"])
def test_relabelled_box(tiny, model):
    cfg = tiny(model)
    cfg.dataloader.train.dataset = L(Relabelled)(data="${data.train}")
    assert leaks(cfg)["boxes of the records"].endswith("1.png: box of 'zebra' as 'red thing'")


class DuplicatingMapper(GridCLIPDatasetMapper):
    def __call__(self, record):
        item = super().__call__(record)
        item["instances"] = type(item["instances"]).cat([item["instances"]] * 2)
        return item


def test_boxes_that_a_mapper_adds(tiny):
    cfg = tiny()
    cfg.dataloader.train.mapper._target_ = DuplicatingMapper
    assert leaks(cfg)["boxes of the batches"].endswith(": more boxes than of base categories")


class LeakingClassifier(TextClassifier):
    def _weight(self, classes):
        return super()._weight(classes) + 0.1 * self.text_embeddings.mean(dim=0)


def test_classifier_that_reads_novel_rows(tiny):
    cfg = tiny()
    cfg.model.classifier._target_ = LeakingClassifier
    found = leaks(cfg)
    assert found == {
        "text embeddings, novel ones as NaN": "step 0: loss_grid_alignment is not finite"
    }


class HidingClassifier(LeakingClassifier):
    def _weight(self, classes):
        known = torch.nan_to_num(self.text_embeddings)
        return self.text_embeddings[classes] + 0.1 * known.mean(dim=0)


def test_classifier_that_hides_it(tiny):
    cfg = tiny()
    cfg.model.classifier._target_ = HidingClassifier
    assert leaks(cfg)["text embeddings, novel ones as NaN"].endswith(" changes")


def test_vild_that_does_not_know_what_is_novel(tiny):
    cfg = tiny("lvis/vild_text_r50_ov")
    cfg.model.classifier.novel_classes = []
    found = leaks(cfg)
    assert found["categories of the losses"].endswith(": 'zebra'")
    assert "is not finite" in found["text embeddings, novel ones as NaN"]


def test_other_names_in_val(tiny):
    cfg = tiny()
    cfg.data.val.novel = ["red thing"]
    assert leaks(cfg) == {"novel names in data.val": "'red thing' is novel in data.val alone"}
    cfg.data.val.novel = None
    assert leaks(cfg) == {"novel names in data.val": "'zebra' is novel in data.train alone"}


def test_command(tiny, tmp_path, capsys):
    cfg = tiny()
    file = tmp_path / "config.yaml"
    LazyConfig.save(cfg, str(file))
    output = tmp_path / "audit.json"
    arguments = ["--config-file", str(file), "--steps", "1", "--output", str(output)]
    assert script.main(arguments) == 0
    written = json.loads(output.read_text())
    assert written["clean"] and written["novel"] == ["zebra"] and written["steps"] == 1
    assert "boxes of the records" in capsys.readouterr().out

    assert script.main([*arguments, "data.val.novel=null"]) == 1
    assert "LEAK, novel names in data.val: 'zebra' is novel in" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: nothing to audit: .* no novel categories"):
        script.main([*arguments, "data.novel=null"])


def test_config_stays(tiny):
    cfg = tiny()
    before = copy.deepcopy(cfg)
    audit_split(cfg, 1)
    assert cfg == before
    assert not Path(cfg.clip.text_embeddings).exists()
