"""Precompute CLIP's embeddings of a dataset's proposals, for ViLD's distillation.

    python scripts/precompute_region_embeddings.py \
        --dataset lvis_v1_train --proposals datasets/proposals/lvis_v1_train \
        --clip clip://RN50 --output datasets/regions/lvis_v1_train_RN50

The proposals are those of scripts/precompute_proposals.py. An interrupted run goes on where it
stopped when the same command is given again. With several GPUs:
``torchrun --nproc_per_node 8 scripts/precompute_region_embeddings.py ...``
"""

import argparse
import sys

import torch
from detectron2.utils import comm

from gridclip.data.array_store import StoreError
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.region_store import RegionStore
from gridclip.data.region_teacher import precompute_region_embeddings
from gridclip.data.teacher import PrecomputeReport
from precomputing import device_of_rank, finish, join_process_group, load_dataset

LVIS_IMAGES, LVIS_PROPOSALS = 100_170, 300  # lvis_v1_train, and what ViLD embeds of each
GRIDCLIP_VECTORS = 2  # the whole picture and its mirror image


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="a name in detectron2's DatasetCatalog")
    add("--proposals", required=True, metavar="DIR", help="folder of the proposal store")
    add("--clip", required=True, help="the teacher: clip://RN50 or a file of CLIP weights")
    add("--output", required=True, metavar="DIR", help="folder of the store")
    add("--batch-size", type=int, default=128, help="crops that CLIP embeds at once")
    add("--num-workers", type=int, default=4, help="processes that read pictures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def print_summary(store: RegionStore, reports: list[PrecomputeReport]) -> None:
    manifest, images = store.manifest, len(store.manifest.image_ids)
    encoded = sum(report.encoded for report in reports)
    seconds = max(report.seconds for report in reports)
    # Of float16 embeddings and float32 boxes.
    region_bytes, regions = manifest.dim * 2 + 16, sum(manifest.counts)
    print(
        f"{store.path}: {images - len(store.pending())} of {images} images done\n"
        f"  {regions} regions, {regions / images:.1f} an image, of width {manifest.dim}, "
        f"{regions * region_bytes / 1e6:.1f} MB"
    )
    lvis_regions = LVIS_IMAGES * LVIS_PROPOSALS
    scale = (
        f"  LVIS train, {LVIS_IMAGES} images of {LVIS_PROPOSALS} regions: "
        f"{lvis_regions * region_bytes / 1e9:.1f} GB"
    )
    if encoded and regions:
        print(f"  this run: {encoded} images in {seconds:.1f} s, {seconds / encoded:.2f} s/image")
        hours = seconds / encoded / (regions / images) * lvis_regions / 3600
        scale += f", {hours:.1f} hours at this rate"
    gridclip_bytes = LVIS_IMAGES * GRIDCLIP_VECTORS * manifest.dim * 2
    print(
        f"{scale}\n  GridCLIP's image-embedding store for it, {GRIDCLIP_VECTORS} vectors an image: "
        f"{gridclip_bytes / 1e9:.2f} GB"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if the store is complete."""
    args = argument_parser().parse_args(argv)
    join_process_group()
    try:
        report = precompute_region_embeddings(
            ProposalStore.open(args.proposals),
            load_dataset(args.dataset),
            args.output,
            args.clip,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            device=device_of_rank(args.device),
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            progress=comm.is_main_process(),
        )
    except (StoreError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    return finish(RegionStore(args.output), report, print_summary)


if __name__ == "__main__":
    sys.exit(main())
