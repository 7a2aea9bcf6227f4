"""Write the text embeddings of a vocabulary to one safetensors file.

Encode names with CLIP's text encoder:

    python scripts/precompute_text_embeddings.py --names lvis_v1 --clip clip://RN50 \\
        --output lvis_v1_rn50.safetensors

or import a table that somebody else has made, one row a name:

    python scripts/precompute_text_embeddings.py --names lvis_v1 --from-npy table.npy \\
        --clip-model-id ViT-B/32 --templates name --output lvis_v1_vitb32.safetensors
"""

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from gridclip.text import (
    TEMPLATES,
    TextEmbeddings,
    as_text_embeddings,
    get_templates,
    load_categories,
)
from gridclip.text.names import DATASETS


def parse_args(argv: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--names",
        required=True,
        metavar="{" + ",".join(DATASETS) + ",FILE}",
        help="a dataset; or a COCO, LVIS or Objects365 .json file; or a text file with one "
        "'name' or 'name, synonym, synonym' a line",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--clip", metavar="SOURCE", help="CLIP weights: a file or clip://RN50")
    source.add_argument("--from-npy", type=Path, metavar="TABLE", help="import this .npy table")
    parser.add_argument("--clip-model-id", help="with --from-npy: the CLIP model that made it")
    parser.add_argument(
        "--templates",
        choices=TEMPLATES,
        help="prompt templates (default: imagenet; with --from-npy: not known)",
    )
    parser.add_argument("--synonyms", action="store_true", help="average over the synonyms too")
    parser.add_argument(
        "--output", required=True, type=Path, metavar="FILE.safetensors", help="is written"
    )
    device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", default=device, help="default: cuda where there is one")
    args = parser.parse_args(argv)
    if args.from_npy and not args.clip_model_id:
        parser.error("--from-npy needs --clip-model-id, such as ViT-B/32")
    if args.from_npy and args.synonyms:
        parser.error("--synonyms has no meaning with --from-npy: the table is made already")
    if args.clip and args.clip_model_id:
        parser.error("--clip-model-id goes with --from-npy only: --clip says it itself")
    if args.output.suffix != ".safetensors":
        parser.error(f"--output must end in .safetensors: {args.output}")
    return args


def main(argv: Sequence[str] | None = None) -> None:
    args = parse_args(argv)
    start = time.perf_counter()
    try:
        text_embeddings = import_table(args) if args.from_npy else encode_names(args)
        text_embeddings.save(args.output)
    except (FileNotFoundError, ValueError) as error:
        raise SystemExit(f"error: {error}") from error
    seconds = time.perf_counter() - start
    print(f"{args.output}: {len(text_embeddings)} categories, width {text_embeddings.dim}")
    print(f"CLIP {text_embeddings.clip_model}, sha256 {text_embeddings.clip_sha256 or 'not known'}")
    print(f"{len(text_embeddings.templates) or 'unknown'} prompt templates, {seconds:.1f} s")


def encode_names(args: argparse.Namespace) -> TextEmbeddings:
    return as_text_embeddings(
        args.names,
        args.clip,
        args.templates or "imagenet",
        use_synonyms=args.synonyms,
        device=args.device,
        progress=True,
    )


def import_table(args: argparse.Namespace) -> TextEmbeddings:
    return TextEmbeddings.from_npy(
        args.from_npy,
        [category.name for category in load_categories(args.names)],
        clip_model=args.clip_model_id,
        templates=get_templates(args.templates) if args.templates else (),
    )


if __name__ == "__main__":
    main()
