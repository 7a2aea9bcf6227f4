"""What int8 costs in accuracy: exported detectors of the laptop world, in float32 and in int8.

    python -m benchmark.int8_accuracy \
        --detectors 'output/reproduce/test/gridclip/seed{seed}/model_final.pth'

gridclip_runtime runs both forms on OpenVINO, on all pictures of the validation split, and the
config's evaluator judges them. int8 is calibrated on training pictures.
"""

import argparse
import shutil
import sys
import tempfile
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path
from statistics import mean

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from tqdm import tqdm

import gridclip_runtime
from gridclip.data import training_records
from gridclip.engine.train import build_evaluator
from gridclip.export import export
from gridclip.export.int8 import CALIBRATION_PICTURES, quantize_file
from gridclip.files import sha256_of_file, write_json
from gridclip.predictor import Predictor
from gridclip.settings import load_config

from .environment import environment

ROOT = Path(__file__).resolve().parents[3]
CONFIG = ROOT / "projects/GridCLIP/configs/laptop/gridclip.py"
RESULTS = ROOT / "projects/GridCLIP/results/int8_accuracy.json"
METRICS = ("AP", "APr", "APc", "APf")


def parse_args(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--detectors", required=True, metavar="FILE", help="weights; {seed} stands for the seed")
    add("--seeds", nargs="+", type=int, default=[0], metavar="N", help="default: 0")
    add("--world", default="test", choices=("dev", "test"))
    add("--json", type=Path, default=RESULTS, metavar="FILE", help="default: the file of results")
    args = parser.parse_args(argv)
    if args.world != "test" and args.json == RESULTS:
        parser.error("--json: results are of the test world")
    return args


def evaluate(cfg: DictConfig, file: Path) -> dict[str, float]:
    """The metrics of an exported detector, in percent."""
    detector = gridclip_runtime.Predictor(file)
    evaluator = build_evaluator(cfg, detector.names)
    evaluator.reset()
    for batch in instantiate(cfg.dataloader.test):
        for record in batch:
            found = detector(record["image"].permute(1, 2, 0).contiguous().numpy())
            instances = Instances(found.image_size)
            instances.pred_boxes = Boxes(torch.from_numpy(found.pred_boxes))
            instances.scores = torch.from_numpy(found.scores)
            instances.pred_classes = torch.from_numpy(found.pred_classes)
            evaluator.process([record], [{"instances": instances}])
    metrics = evaluator.evaluate()["bbox"]
    return {name: metrics[name] for name in METRICS}


def measure(cfg: DictConfig, weights: str) -> dict:
    """Of one detector."""
    records = training_records(instantiate(cfg.data.train))
    count = min(len(records), CALIBRATION_PICTURES)
    pictures = [records[i * len(records) // count]["file_name"] for i in range(count)]
    with tempfile.TemporaryDirectory() as folder:
        plain, int8 = Path(folder, "plain.xml"), Path(folder, "detector.xml")
        difference = export(Predictor(cfg, weights, device="cpu"), plain).difference
        for suffix in (".xml", ".bin"):
            shutil.copy(plain.with_suffix(suffix), int8.with_suffix(suffix))
        return {
            "shared": quantize_file(int8, pictures),
            "fp32": evaluate(cfg, plain),
            "int8": evaluate(cfg, int8),
            "export_difference": difference,
            "weights_sha256": sha256_of_file(weights),
            "calibration_pictures": count,
        }


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    overrides = [f"shapes.world={args.world}", "dataloader.evaluator.output_dir=null"]
    cfg = load_config(CONFIG, overrides)
    try:
        detectors = {
            str(seed): measure(cfg, args.detectors.format(seed=seed))
            for seed in tqdm(args.seeds, "Detectors", unit="detector")
        }
    except (FileNotFoundError, ImportError, ValueError) as error:
        sys.exit(f"error: {error}")
    means = {
        form: {name: mean(found[form][name] for found in detectors.values()) for name in METRICS}
        for form in ("fp32", "int8")
    }
    record = {
        **means,
        "seeds": args.seeds,
        "detectors": detectors,
        "config_file": str(CONFIG.relative_to(ROOT)),
        "world": args.world,
        **environment("cpu"),
        "engines": {name: version(name) for name in ("openvino", "nncf")},
    }
    write_json(args.json, record, indent=1)
    for form, metrics in means.items():
        print(f"{form}  " + "  ".join(f"{name} {value:.2f}" for name, value in metrics.items()))
    print(args.json)


if __name__ == "__main__":
    main()
