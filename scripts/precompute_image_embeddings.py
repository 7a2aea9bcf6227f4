"""Precompute CLIP's embeddings of a dataset's pictures, for Image-level Alignment.

    python scripts/precompute_image_embeddings.py \
        --dataset lvis_v1_train --clip clip://RN50 --output datasets/embeddings/lvis_v1_train_RN50

An interrupted run goes on where it stopped when the same command is given again. With several GPUs:
``torchrun --nproc_per_node 8 scripts/precompute_image_embeddings.py ...``
"""

import argparse
import difflib
import os
import sys
from datetime import timedelta

import detectron2.data.datasets  # noqa: F401  registers detectron2's own datasets
import torch
import torch.distributed as dist
from detectron2.data import DatasetCatalog
from detectron2.utils import comm

import gridclip.data  # noqa: F401  registers the project's datasets
from gridclip.data.embedding_store import EmbeddingStore, EmbeddingStoreError
from gridclip.data.teacher import PrecomputeReport, precompute_image_embeddings
from gridclip.data.windows import WINDOW_SETS


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--dataset", required=True, help="a name in detectron2's DatasetCatalog")
    add("--clip", required=True, help="the teacher: clip://RN50 or a file of CLIP weights")
    add("--output", required=True, metavar="DIR", help="folder of the store")
    add("--windows", default="whole", choices=WINDOW_SETS, help="parts to embed (default: whole)")
    add("--no-mirror", action="store_true", help="leave out the mirrored pictures")
    add("--batch-size", type=int, default=128, help="windows that CLIP embeds at once")
    add("--num-workers", type=int, default=4, help="processes that read pictures")
    add("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    return parser


def load_dataset(name: str) -> list[dict]:
    if name not in DatasetCatalog.list():
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        sys.exit(f"error: no dataset {name!r}; close names: {', '.join(close) or 'none'}")
    try:
        return DatasetCatalog.get(name)
    except FileNotFoundError as error:
        root = os.getenv("DETECTRON2_DATASETS", "datasets")
        sys.exit(f"error: {error}. DETECTRON2_DATASETS, the root of the datasets, is {root!r}.")


def print_summary(store: EmbeddingStore, reports: list[PrecomputeReport]) -> None:
    images, vectors, dim = store.manifest.shape
    encoded = sum(report.encoded for report in reports)
    seconds = max(report.seconds for report in reports)
    print(
        f"{store.path}: {images - len(store.pending())} of {images} images done\n"
        f"  this run: {encoded} images in {seconds:.1f} s, {encoded / seconds:.1f} images/s\n"
        f"  {images * vectors} vectors of width {dim}, {images * vectors * dim * 2 / 1e6:.1f} MB"
    )
    print_failures(reports)


def print_failures(reports: list[PrecomputeReport]) -> None:
    failures = [failure for report in reports for failure in report.failures]
    if failures:
        print(f"{len(failures)} images failed; mend them and run the same again:", file=sys.stderr)
    for failure in failures:
        print(f"  {failure.image_id} {failure.file_name}: {failure.reason}", file=sys.stderr)


def join_process_group(device: str) -> torch.device:
    """Join torchrun's processes, if there are several; the device of this one."""
    device = torch.device(device)
    if int(os.getenv("WORLD_SIZE", "1")) > 1:
        # Days, as ranks wait for the slowest one at the end: torchrun would stop it otherwise.
        dist.init_process_group("gloo", timeout=timedelta(days=7))
        if device.type == "cuda" and device.index is None:
            device = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
    return device


def main(argv: list[str] | None = None) -> int:
    """Returns the exit code: 0 if the store is complete."""
    args = argument_parser().parse_args(argv)
    device = join_process_group(args.device)
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
            device=device,
            rank=comm.get_rank(),
            world=comm.get_world_size(),
            progress=comm.is_main_process(),
        )
    except (EmbeddingStoreError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    reports = comm.all_gather(report)
    store = EmbeddingStore(args.output)
    if comm.is_main_process():
        print_summary(store, reports)
    if dist.is_initialized():
        dist.destroy_process_group()
    return 1 if len(store.pending()) else 0


if __name__ == "__main__":
    sys.exit(main())
