"""The figures of docs/model-zoo.md: size, multiply-adds, speed and what a training costs.

    python -m benchmark.model_zoo
    python scripts/update_results_tables.py

It builds the model of every config with random weights and counts. It measures no time: images a
second are those of results/speed_cpu.json. The hours of a training are an estimate, see
``training_hours``. AP is that of ``results/zoo/<config>.json``, a run's results.json, once there is
one.
"""

import argparse
import json
from pathlib import Path

import numpy as np
import torch
from detectron2.config import instantiate
from detectron2.data.transforms import AugInput, AugmentationList
from omegaconf import DictConfig, OmegaConf

from gridclip.evaluation import read_results
from gridclip.evaluation.results import git_commit, nan_to_none, versions
from gridclip.files import write_json

from .arithmetic import count_arithmetic
from .contestants import build_from, load_config, random_text_embeddings
from .cost import images_seen
from .roster import CONTESTANTS

PROJECT = Path(__file__).resolve().parents[1]
RESULTS = PROJECT / "results"

# By config, the categories of its vocabulary.
MODELS = {
    "lvis/gridclip_r50_ov_1x.py": 1203,
    "lvis/gridclip_r50_ov_2x.py": 1203,
    "lvis/gridclip_r50_ov_light_1x.py": 1203,
    "lvis/gridclip_r50_ov_lsj_2x.py": 1203,
    "lvis/gridclip_r50_ov_lsj_b64_4x.py": 1203,
    "lvis/gridclip_r50_full_1x.py": 1203,
    "lvis/vild_text_r50_ov.py": 1203,
    "lvis/vild_r50_ov.py": 1203,
    "lvis/vild_ens_r50_ov.py": 1203,
    "lvis/vild_r50_ov_20ep.py": 1203,
    "lvis/vild_r50_imagenet_ov.py": 1203,
    "coco/gridclip_r50_ov.py": 65,
    "coco/gridclip_r50_full.py": 80,
}
PICTURE = (480, 640)  # height and width of a usual picture of COCO

# A multiply-add is two operations; a step is a forward pass and a backward pass of twice as many.
OPERATIONS = 2 * 3
# detectron2's zoo: RetinaNet R50 takes 0.200 s for a step of 16 pictures on 8 GPUs. It has 199e9
# multiply-adds by the same count, at 800 x 1067.
GPU, OPERATIONS_PER_SECOND = "NVIDIA V100 in float32", 12e12


def training_hours(images: int, gmac: float) -> float:
    """Hours of one GPU, estimated: images x multiply-adds at test size x OPERATIONS, at the speed
    that detectron2's RetinaNet sustains. The teacher's passes before the training are not in it."""
    return images * gmac * 1e9 * OPERATIONS / OPERATIONS_PER_SECOND / 3600


def test_picture(cfg: DictConfig) -> dict:
    """A picture as the config's test loader makes it of one of ``PICTURE``."""
    resized = AugInput(np.zeros((*PICTURE, 3), dtype=np.uint8))
    AugmentationList(list(instantiate(cfg.dataloader.test.mapper.augmentations)))(resized)
    return {"image": torch.from_numpy(resized.image.copy()).permute(2, 0, 1)}


def describe(name: str, speed: dict) -> dict:
    """The row of a config."""
    config = PROJECT / "configs" / name
    cfg = load_config(config)
    words = random_text_embeddings(MODELS[name], cfg.model.classifier.embed_dim)
    torch.manual_seed(0)
    model, picture = build_from(cfg, words).eval(), test_picture(cfg)
    counted = count_arithmetic(model, picture)
    images = images_seen(config)
    results = RESULTS / "zoo" / f"{config.stem}.json"
    return {
        "categories": MODELS[name],
        "parameters": counted["parameters"],
        "size": list(picture["image"].shape[1:]),
        "gmac": counted["gmac"],
        "images_per_second": measured_speed(cfg, speed),
        "images_seen": images,
        "gpu_hours": training_hours(images, counted["gmac"]),
        "results": nan_to_none(read_results(results)) if results.is_file() else None,
    }


def measured_speed(cfg: DictConfig, speed: dict) -> float | None:
    """Images a second of the contestant that has the same model; None if none was measured."""
    own = OmegaConf.to_container(cfg.model)
    for contestant in CONTESTANTS:
        if contestant.key in ("gridclip", "gridclip_light", "vild", "vild_ensemble"):
            if OmegaConf.to_container(load_config(contestant.config).model) == own:
                return speed["inference"][contestant.key]["images_per_second"]
    return None


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", type=Path, default=RESULTS / "model_zoo.json", metavar="FILE")
    args = parser.parse_args(argv)
    speed = json.loads((RESULTS / "speed_cpu.json").read_text())
    setup = ("processor", "threads", "size", "dtype")
    models = {name: describe(name, speed) for name in MODELS}
    record = {
        "models": models,
        "gpu_hours": sum(model["gpu_hours"] for model in models.values()),
        "picture": list(PICTURE),
        "gpu": GPU,
        "operations_per_second": OPERATIONS_PER_SECOND,
        "operations_per_multiply_add": OPERATIONS,
        "speed": {key: speed["setup"][key] for key in setup},
        "commit": git_commit(),
        "versions": versions(),
    }
    write_json(args.json, record, indent=1)
    print(args.json)


if __name__ == "__main__":
    main()
