"""GridCLIP and FCOS side by side on own data, in small."""

import json

import torch
from detectron2.config import instantiate
from detectron2.modeling.meta_arch.fcos import FCOS

from benchmark import own_data
from benchmark.tables import own_data_table
from gridclip.engine.prepare import prepare_text_embeddings
from world import as_coco, own_data_config


def config(world, tiny_clip, tmp_path):
    json_file = as_coco(world, tmp_path / "mine.json")
    cfg = own_data_config(world, json_file, tiny_clip, tmp_path / "output", init_checkpoint="")
    cfg.clip.weights = cfg.clip.image_embeddings = None
    cfg.model.update(image_alignment=None, dense_scores=None, anchor_scale=2.0)
    return cfg


def test_fcos_is_detectron2s_with_the_parts_of_gridclip(world, tiny_clip, tmp_path):
    cfg = config(world, tiny_clip, tmp_path)
    prepare_text_embeddings(cfg, instantiate(cfg.data.train))
    gridclip = instantiate(cfg.model)
    cfg.model._target_ = "benchmark.fcos.fcos_of"
    fcos = instantiate(cfg.model)
    assert type(fcos) is FCOS and fcos.num_classes == 3
    for name in ("test_nms_thresh", "test_score_thresh", "center_sampling_radius"):
        assert getattr(fcos, name) == getattr(gridclip, name)
    for own, other in zip(
        fcos.anchor_generator.cell_anchors, gridclip.anchor_generator.cell_anchors, strict=True
    ):
        assert torch.equal(own, other)
    shapes = [{k: v.shape for k, v in m.backbone.state_dict().items()} for m in (fcos, gridclip)]
    assert shapes[0] == shapes[1]
    towers = [
        [m for m in x.head.bbox_subnet if hasattr(m, "kernel_size")] for x in (fcos, gridclip)
    ]
    assert len(towers[0]) == len(towers[1]) == 1


def test_both_are_trained_and_recorded(world, tiny_clip, tmp_path, monkeypatch):
    cfg = config(world, tiny_clip, tmp_path)
    monkeypatch.setattr(own_data, "load_config", lambda *_: cfg)
    own_data.main(["--config-file", "mine.py", "--json", str(tmp_path / "both.json")])
    record = json.loads((tmp_path / "both.json").read_text())
    for part in (record, record["fcos"]):
        assert part["metrics"]["AP"] >= 0 and part["seconds"] > 0
    assert record["protocol"]["images"] == 12 and record["iterations"] == 2
    assert "| detectron2's FCOS |" in own_data_table(record)
