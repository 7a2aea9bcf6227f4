#!/usr/bin/env python
"""Train the small CLIP's vision tower to classify a world's base categories.

    python -m laptop_world.pretrain_classifier --world test --output FILE.safetensors

A detector can start from this classifier instead of CLIP, as others start from ImageNet. The
network is the same, but it has learned from labels of single objects, not from captions, and has
never seen a novel category. The file is in OpenAI's format; its text encoder is untrained. A JSON
file beside it says how it was made.
"""

import argparse
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from gridclip.evaluation.results import git_commit, versions
from gridclip.files import sha256_of_file, write_json
from laptop_world.pretrain_clip import CLIP_NORM, PEAK_LR, WARMUP, WEIGHT_DECAY
from laptop_world.shapes import CaptionedShapes, load_world
from laptop_world.small_clip import SIZES, build_model, save, to_inputs

BATCH_SIZE = 128


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--world", required=True, choices=("dev", "test"), help="its base categories are learned")
    add("--output", required=True, type=Path, metavar="FILE.safetensors")
    add("--pictures", type=int, default=25_600, metavar="N", help="to train on (default: 25,600)")
    add("--epochs", type=int, default=5, help="passes over the pictures (default: 5)")
    add("--val", type=int, default=2000, metavar="N", help="pictures to classify (default: 2,000)")
    add("--seed", type=int, default=0)
    return parser


def base_pictures(world: str, count: int, split: str, seed: int) -> tuple[Tensor, Tensor]:
    """Pictures of one object of a base category each.

    They are the first ``count`` such pictures of ``CaptionedShapes``.

    Returns:
        The pictures, (count, n, n, 3) uint8 RGB, and their labels, (count,) int64: a label is the
        category's index among the base categories.
    """
    whole = load_world(world)
    base = [name for name, axis in zip(whole.names, whole.axes, strict=True) if axis is None]
    labels = {name: i for i, name in enumerate(base)}
    drawn = CaptionedShapes(10**9, SIZES["image_resolution"], split=split, seed=seed, max_objects=1)
    pictures, targets = [], []
    index = 0
    with tqdm(total=count, desc=f"drawing {split}", unit="picture") as bar:
        while len(targets) < count:
            (name,) = drawn.names(index)
            if name in labels:
                pictures.append(torch.from_numpy(drawn[index][0]))
                targets.append(labels[name])
                bar.update()
            index += 1
    return torch.stack(pictures), torch.tensor(targets)


def train(tower: nn.Module, head: nn.Linear, args: argparse.Namespace) -> None:
    """Train both in place: cross-entropy, AdamW, a one-cycle schedule."""
    pictures, targets = base_pictures(args.world, args.pictures, "train", args.seed)
    parameters = [*tower.parameters(), *head.parameters()]
    optimizer = torch.optim.AdamW(parameters, lr=PEAK_LR, weight_decay=WEIGHT_DECAY)
    steps = args.epochs * -(-len(targets) // BATCH_SIZE)
    scheduler = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, PEAK_LR, total_steps=steps, pct_start=WARMUP, cycle_momentum=False
    )
    tower.train()
    bar = tqdm(total=steps, desc="training", unit="step")
    for _ in range(args.epochs):
        for chosen in torch.randperm(len(targets)).split(BATCH_SIZE):
            inputs = to_inputs(pictures[chosen])
            mirrored = torch.rand(len(chosen)) < 0.5
            inputs[mirrored] = inputs[mirrored].flip(3)
            loss = F.cross_entropy(head(tower(inputs)), targets[chosen])
            optimizer.zero_grad()
            loss.backward()
            nn.utils.clip_grad_norm_(parameters, CLIP_NORM)
            optimizer.step()
            scheduler.step()
            bar.update()
            bar.set_postfix(loss=f"{loss.item():.3f}")


@torch.no_grad()
def accuracy(tower: nn.Module, head: nn.Linear, args: argparse.Namespace) -> float:
    """The share of held-out pictures, 0 to 1, whose category has the highest score."""
    pictures, targets = base_pictures(args.world, args.val, "val", args.seed)
    tower.eval()
    found = [head(tower(to_inputs(part))).argmax(dim=1) for part in pictures.split(250)]
    return (torch.cat(found) == targets).float().mean().item()


def main(argv: list[str] | None = None) -> None:
    args = argument_parser().parse_args(argv)
    torch.manual_seed(args.seed)
    model = build_model()
    head = nn.Linear(SIZES["embed_dim"], load_world(args.world).axes.count(None))
    train(model.visual, head, args)
    share = round(accuracy(model.visual, head, args), 4)
    args.output.parent.mkdir(parents=True, exist_ok=True)
    save(model, args.output)
    settings = {k: getattr(args, k) for k in ("world", "pictures", "epochs", "val", "seed")}
    record = {
        **settings,
        "accuracy": share,
        "categories": head.out_features,
        "sha256": sha256_of_file(args.output),
        "commit": git_commit(),
        "versions": versions(),
    }
    write_json(args.output.with_suffix(".json"), record, indent=2)
    print(f"{args.output}: {share:.1%} of single objects right among {head.out_features} names")


if __name__ == "__main__":
    main()
