"""Precompute a trained detector's region proposals for a dataset's pictures, for ViLD.

    python scripts/precompute_proposals.py \
        --config-file projects/GridCLIP/configs/lvis/vild_text_r50_ov.py \
        --weights output/vild_text_r50_ov/model_final.pth

The detector must have been trained on base categories only, as with that config: proposals of one
that has seen novel categories leak them into ViLD's training.

An interrupted run goes on where it stopped when the same command is given again. With several GPUs:
``torchrun --nproc_per_node 8 scripts/precompute_proposals.py ...``
"""

import argparse
import sys

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import OmegaConf

from gridclip.clip_checkpoint import sha256_of_file
from gridclip.data import novel_classes
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.teacher import PrecomputeReport
from gridclip.predictor import Predictor
from gridclip.vild import ViLD, precompute_proposals
from precomputing import device_of_rank, finish, join_process_group, load_dataset


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--config-file", required=True, metavar="CONFIG.py", help="that of the training")
    add("--weights", required=True, metavar="FILE.pth", help="of the trained detector")
    add("--dataset", help="in detectron2's DatasetCatalog (default: the config's image_dataset)")
    add("--output", metavar="DIR", help="folder of the store (default: the config's proposals)")
    add("--max-proposals", type=int, default=300, help="the most of an image (default: 300)")
    add("--num-workers", type=int, default=4, help="processes that read pictures")
    add("--device", help="default: the config's, or cpu where there is no CUDA")
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides of the config")
    return parser


def load_detector(args: argparse.Namespace) -> Predictor:
    """Raises ValueError if the weights leave a part of the detector untrained, or it is no ViLD."""
    device = args.device
    if device is None and dist.is_initialized() and torch.cuda.is_available():
        device = device_of_rank("cuda")
    predictor = Predictor(args.config_file, args.weights, overrides=args.opts, device=device)
    if not isinstance(predictor.model, ViLD):
        raise ValueError(f"{args.config_file} describes no ViLD, so no region proposal network.")
    trained_on = predictor.cfg.dataloader.train.dataset.names
    if comm.is_main_process() and not novel_classes(trained_on):
        print(
            f"warning: the config trains on {trained_on}, which leaves no category out: these "
            "proposals are not for open-vocabulary training",
            file=sys.stderr,
        )
    return predictor


def print_summary(store: ProposalStore, reports: list[PrecomputeReport]) -> None:
    images, done = len(store.manifest.image_ids), len(store.manifest.image_ids)
    done -= len(store.pending())
    encoded = sum(report.encoded for report in reports)
    seconds = max(report.seconds for report in reports)
    print(
        f"{store.path}: {done} of {images} images done\n"
        f"  this run: {encoded} images in {seconds:.1f} s, {encoded / seconds:.1f} images/s\n"
        f"  {store.counts.sum()} proposals, {store.counts.sum() / max(done, 1):.1f} an image"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if the store is complete."""
    args = argument_parser().parse_args(argv)
    join_process_group()
    try:
        predictor = load_detector(args)
        cfg = predictor.cfg
        dataset = args.dataset or cfg.clip.image_dataset
        output = args.output or OmegaConf.select(cfg, "clip.proposals")
        if output is None:
            raise ValueError("The config names no clip.proposals: give --output.")
        report = precompute_proposals(
            predictor.model,
            load_dataset(dataset),
            dataset,
            output,
            weights_sha256=sha256_of_file(args.weights),
            augmentations=instantiate(cfg.dataloader.test.mapper.augmentations),
            max_proposals=args.max_proposals,
            num_workers=args.num_workers,
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            progress=comm.is_main_process(),
        )
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    return finish(ProposalStore(output), report, print_summary)


if __name__ == "__main__":
    sys.exit(main())
