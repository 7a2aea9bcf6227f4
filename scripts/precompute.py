#!/usr/bin/env python
"""Fill the stores that training reads: CLIP's embeddings of pictures, and ViLD's proposals.

    python scripts/precompute.py images --dataset lvis_v1_train --clip clip://RN50 --output DIR
    python scripts/precompute.py proposals --config-file CONFIG.py --weights FILE.pth
    python scripts/precompute.py regions --dataset lvis_v1_train --clip clip://RN50 \\
        --proposals DIR --output DIR

images: for GridCLIP's image-level alignment; proposals: of a detector trained on base categories
only, as with configs/lvis/vild_text_r50_ov.py, or novel ones leak into ViLD's training; regions: of
those proposals, for its distillation. train_net.py makes missing images and regions by itself.

An interrupted run goes on where it stopped when the same command is given again. With several GPUs:
torchrun --nproc_per_node 8 scripts/precompute.py ...
"""

import argparse
import sys

import torch
import torch.distributed as dist
from detectron2.config import instantiate
from detectron2.utils import comm
from omegaconf import OmegaConf

from gridclip.data import all_records, open_dataset
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.filling import FillReport, print_summary
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.regions import WINDOW_SETS, Proposals, Regions, Windows
from gridclip.data.store import ArrayStore
from gridclip.data.teacher import precompute_embeddings
from gridclip.distributed import device_of_rank, join_process_group, leave_process_group
from gridclip.files import sha256_of_file
from gridclip.predictor import Predictor
from gridclip.vild import ViLD, precompute_proposals


def images(args: argparse.Namespace) -> tuple[ArrayStore, FillReport]:
    return embed(args, Windows(args.windows, mirror=not args.no_mirror))


def regions(args: argparse.Namespace) -> tuple[ArrayStore, FillReport]:
    return embed(args, Proposals(ProposalStore.open(args.proposals)))


def embed(args: argparse.Namespace, regions: Regions) -> tuple[ArrayStore, FillReport]:
    data = open_dataset(dataset=args.dataset, json=args.json, images=args.images)
    report = precompute_embeddings(
        all_records(data),
        data.name,
        args.output,
        args.clip,
        regions,
        batch_size=args.batch_size,
        num_workers=args.num_workers,
        device=device_of_rank(args.device),
    )
    return EmbeddingStore(args.output), report


def proposals(args: argparse.Namespace) -> tuple[ArrayStore, FillReport]:
    predictor = load_detector(args)
    cfg, data = predictor.cfg, instantiate(predictor.cfg.data.train)
    output = args.output or OmegaConf.select(cfg, "clip.proposals")
    if output is None:
        raise ValueError("The config names no clip.proposals: give --output.")
    report = precompute_proposals(
        predictor.model,
        all_records(data),
        data.name,
        output,
        weights_sha256=sha256_of_file(args.weights),
        augmentations=instantiate(cfg.dataloader.test.mapper.augmentations),
        max_proposals=args.max_proposals,
        num_workers=args.num_workers,
    )
    return ProposalStore(output), report


def load_detector(args: argparse.Namespace) -> Predictor:
    """Raises ValueError if the weights leave a part of it untrained, or if it is not a ViLD."""
    device = args.device
    if device is None and dist.is_initialized() and torch.cuda.is_available():
        device = device_of_rank("cuda")
    predictor = Predictor(args.config_file, args.weights, overrides=args.opts, device=device)
    if not isinstance(predictor.model, ViLD):
        raise ValueError(f"{args.config_file} does not describe a ViLD: it has no proposals.")
    data = instantiate(predictor.cfg.data.train)
    if comm.is_main_process() and not data.novel_classes:
        print(
            f"warning: the config trains on {data.source}, which leaves no category out: these "
            "proposals are not for open-vocabulary training",
            file=sys.stderr,
        )
    return predictor


def parse_args(argv: list[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(required=True, metavar="{images,proposals,regions}")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    for run, of_what in ((images, "pictures"), (regions, "ViLD's proposals")):
        command = commands.add_parser(run.__name__, help=f"CLIP's embeddings of {of_what}")
        command.set_defaults(run=run)
        add = command.add_argument
        add("--dataset", metavar="NAME", help="in detectron2's DatasetCatalog; or --json, --images")
        add("--json", metavar="FILE", help="annotations in COCO's or LVIS's format")
        add("--images", metavar="DIR", help="the folder of their pictures")
        add("--clip", required=True, help="the teacher: clip://RN50 or a file of CLIP weights")
        add("--output", required=True, metavar="DIR", help="folder of the store")
        add("--batch-size", type=int, default=128, help="windows or crops that CLIP sees at once")
        add("--num-workers", type=int, default=4, help="processes that read pictures")
        add("--device", default=device, help="default: cuda where there is one, else cpu")
        if run is images:
            add("--windows", default="tiles9", choices=WINDOW_SETS, help="default: tiles9")
            add("--no-mirror", action="store_true", help="leave out the mirrored pictures")
        else:
            add("--proposals", required=True, metavar="DIR", help="folder of the proposal store")
    command = commands.add_parser("proposals", help="the proposals of a trained ViLD")
    command.set_defaults(run=proposals)
    add = command.add_argument
    add("--config-file", required=True, metavar="CONFIG.py", help="that of the training")
    add("--weights", required=True, metavar="FILE.pth", help="of the trained detector")
    add("--output", metavar="DIR", help="folder of the store (default: the config's proposals)")
    add("--max-proposals", type=int, default=300, help="the most of an image (default: 300)")
    add("--num-workers", type=int, default=4, help="processes that read pictures")
    add("--device", help="default: the config's, or cpu where there is no CUDA")
    add("--opts", nargs="+", default=[], metavar="key=value", help="overrides of the config")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if the store is complete."""
    args = parse_args(argv)
    join_process_group()
    try:
        store, report = args.run(args)
        print_summary(store, comm.all_gather(report))
    except (OSError, ValueError, RuntimeError) as error:
        sys.exit(f"error: {error}")
    finally:
        leave_process_group()
    return 1 if len(store.pending()) else 0


if __name__ == "__main__":
    sys.exit(main())
