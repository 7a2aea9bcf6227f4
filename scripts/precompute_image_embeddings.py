"""Precompute CLIP's embeddings of a dataset's pictures, for Image-level Alignment.

    python scripts/precompute_image_embeddings.py \
        --dataset lvis_v1_train --clip clip://RN50 --output datasets/embeddings/lvis_v1_train_RN50

An interrupted run goes on where it stopped when the same command is given again. With several GPUs:
``torchrun --nproc_per_node 8 scripts/precompute_image_embeddings.py ...``
"""

import argparse
import sys

import torch
from detectron2.utils import comm

from gridclip.data.array_store import StoreError
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.teacher import PrecomputeReport, precompute_image_embeddings
from gridclip.data.windows import WINDOW_SETS
from precomputing import device_of_rank, finish, join_process_group, load_dataset


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="a name in detectron2's DatasetCatalog")
    add("--clip", required=True, help="the teacher: clip://RN50 or a file of CLIP weights")
    add("--output", required=True, metavar="DIR", help="folder of the store")
    add("--windows", default="tiles9", choices=WINDOW_SETS, help="parts to embed (default: tiles9)")
    add("--no-mirror", action="store_true", help="leave out the mirrored pictures")
    add("--batch-size", type=int, default=128, help="windows that CLIP embeds at once")
    add("--num-workers", type=int, default=4, help="processes that read pictures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def print_summary(store: EmbeddingStore, reports: list[PrecomputeReport]) -> None:
    images, vectors, dim = store.manifest.shape
    encoded = sum(report.encoded for report in reports)
    seconds = max(report.seconds for report in reports)
    print(
        f"{store.path}: {images - len(store.pending())} of {images} images done\n"
        f"  this run: {encoded} images in {seconds:.1f} s, {encoded / seconds:.1f} images/s\n"
        f"  {images * vectors} vectors of width {dim}, {images * vectors * dim * 2 / 1e6:.1f} MB"
    )


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if the store is complete."""
    args = argument_parser().parse_args(argv)
    join_process_group()
    try:
        report = precompute_image_embeddings(
            load_dataset(args.dataset),
            args.dataset,
            args.output,
            args.clip,
            windows=args.windows,
            mirror=not args.no_mirror,
            batch_size=args.batch_size,
            num_workers=args.num_workers,
            device=device_of_rank(args.device),
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            progress=comm.is_main_process(),
        )
    except (StoreError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    return finish(EmbeddingStore(args.output), report, print_summary)


if __name__ == "__main__":
    sys.exit(main())
