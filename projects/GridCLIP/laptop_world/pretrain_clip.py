#!/usr/bin/env python
"""Train the laptop world's CLIP on generated pictures and captions.

    python -m laptop_world.pretrain_clip --output FILE.safetensors

The model is a small instance of OpenAI's own class. Its weights are saved under OpenAI's names, as
float16 safetensors. A JSON file beside them says how they were made and how accurate the model is
at zero-shot classification. After an interruption, give the same command again: training goes on
from FILE.partial.pth. The pictures are drawn again, which takes minutes.
"""

import argparse
import math
import re
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from clip import tokenize
from clip.model import CLIP
from torch import Tensor, nn
from torch.utils.data import DataLoader
from tqdm import tqdm

from gridclip.evaluation.results import git_commit, versions
from gridclip.files import replacing, sha256_of_file, write_json
from laptop_world.shapes import ALL_NAMES, CaptionedShapes
from laptop_world.shapes.vocabulary import COLOURS, SHAPES, TEXTURES
from laptop_world.small_clip import SIZES, build_model, save, to_inputs, zero_shot_accuracy

CAPTION_TOKENS = 32  # the longest caption has 29
DRAWN_AT_ONCE = 64
WORDS = (*TEXTURES, *COLOURS, *SHAPES)
NAME = re.compile(rf"(?:{'|'.join(TEXTURES)}) \w+ (?:{'|'.join(SHAPES)})")
PEAK_LR, TEXT_LR, WARMUP, WEIGHT_DECAY, CLIP_NORM = 4e-3, 1e-3, 0.03, 0.1, 1.0
WORD_WEIGHT = 3.0
MAX_LOGIT_SCALE = math.log(100)
SAVE_PERIOD = 250


def argument_parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--output", required=True, type=Path, metavar="FILE.safetensors")
    add("--pairs", type=int, default=100_352, help="pictures with captions (default: 100,352)")
    add("--epochs", type=int, default=5, help="passes over the pairs (default: 5)")
    add("--batch-size", type=int, default=128, help="default: 128")
    add("--val", type=int, default=3000, metavar="N", help="pictures to classify (default: 3,000)")
    add("--seed", type=int, default=0)
    add("--num-workers", type=int, default=2, help="processes that draw pictures (default: 2)")
    return parser


class Pairs:
    """All pairs of a picture and a caption, in memory.

    Attributes:
        pictures: (N, n, n, 3) uint8 RGB.
        tokens: (N, CAPTION_TOKENS) int64, the captions.
        names: (N,) int64, equal for pairs whose captions have the same object names.
        words: (N, len(WORDS)) float32, how often each word occurs in the caption's object names.
    """

    def __init__(self, args: argparse.Namespace):
        size = SIZES["image_resolution"]
        drawn = CaptionedShapes(args.pairs, size, seed=args.seed)
        loader = DataLoader(drawn, batch_size=DRAWN_AT_ONCE, num_workers=args.num_workers)
        self.pictures = torch.empty(args.pairs, size, size, 3, dtype=torch.uint8)
        captions: list[str] = []
        for pictures, spoken in tqdm(loader, "drawing", unit="batch"):
            self.pictures[len(captions) : len(captions) + len(spoken)] = pictures
            captions += spoken
        self.tokens = tokenize(captions)[:, :CAPTION_TOKENS].long()
        names = [tuple(sorted(NAME.findall(caption))) for caption in captions]
        kinds: dict[tuple[str, ...], int] = {}
        self.names = torch.tensor([kinds.setdefault(n, len(kinds)) for n in names])
        counts = [Counter(" ".join(n).split()) for n in names]
        self.words = torch.tensor([[float(c[word]) for word in WORDS] for c in counts])

    def batch(self, seed: int, epoch: int, index: int, size: int) -> tuple[Tensor, ...]:
        """Batch ``index`` of an epoch: inputs, about half of them mirrored, tokens, names, words.

        It depends on the arguments alone, so a resumed run sees the same batches.
        """
        generator = torch.Generator().manual_seed(seed * 1_000_003 + epoch)
        chosen = torch.randperm(len(self.names), generator=generator)
        chosen = chosen[index * size : (index + 1) * size]
        inputs = to_inputs(self.pictures[chosen])
        generator.manual_seed(generator.initial_seed() * 1_000_003 + index)
        mirrored = torch.rand(size, generator=generator) < 0.5
        inputs[mirrored] = inputs[mirrored].flip(3)
        return inputs, self.tokens[chosen], self.names[chosen], self.words[chosen]


def contrastive_loss(image: Tensor, text: Tensor, names: Tensor, logit_scale: Tensor) -> Tensor:
    """CLIP's symmetric cross-entropy over a batch. Pairs with the same names do not compete.

    Args:
        image, text: (N, D) embeddings of unit length.
        names: (N,) int64, as in ``Pairs``.
        logit_scale: scalar, the logarithm of the factor on the cosines.
    """
    own = torch.arange(len(names))
    same = (names[:, None] == names) & (own[:, None] != own)
    logits = (logit_scale.exp() * image @ text.T).masked_fill(same, float("-inf"))
    return (F.cross_entropy(logits, own) + F.cross_entropy(logits.T, own)) / 2


def word_loss(word_logits: Tensor, words: Tensor) -> Tensor:
    """Cross-entropy of a picture's words. Logits and counts are (N, W), W words as in WORDS.

    With the contrastive loss alone the model learns colours at once, textures late, and shapes
    hardly at all in so short a run. Classifying the words teaches all three, as in CatLIP
    (arXiv 2404.15653).
    """
    return F.cross_entropy(word_logits, words / words.sum(dim=1, keepdim=True))


def build_optimizer(model: CLIP, word_head: nn.Linear, steps: int):
    """AdamW and its schedule, a linear warm-up and then half a cosine to zero.

    The text encoder has a lower learning rate. Gains and biases have no weight decay.
    """
    vision = [*model.visual.parameters(), *word_head.parameters()]
    in_vision = set(vision)
    text = [p for p in model.parameters() if p not in in_vision]
    groups = [
        dict(
            params=[p for p in parameters if (p.ndim > 1) == decayed],
            lr=lr,
            weight_decay=WEIGHT_DECAY if decayed else 0.0,
        )
        for parameters, lr in ((vision, PEAK_LR), (text, TEXT_LR))
        for decayed in (True, False)
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98))
    warmup = max(1, round(WARMUP * steps))

    def factor(step: int) -> float:
        if step < warmup:
            return (step + 1) / warmup
        return (1 + math.cos(math.pi * (step - warmup) / max(1, steps - warmup))) / 2

    return optimizer, torch.optim.lr_scheduler.LambdaLR(optimizer, factor)


def resume(partial: Path, settings: dict, parts: Sequence) -> int:
    """Load the states of the parts from ``partial`` and return the number of steps done.

    Raises:
        SystemExit: the file belongs to a run with other settings.
    """
    saved = torch.load(partial, weights_only=True)
    if saved["settings"] != settings:
        sys.exit(f"error: {partial} belongs to a run with {saved['settings']}: delete it.")
    for part, state in zip(parts, saved["states"], strict=True):
        part.load_state_dict(state)
    return saved["step"]


def train(model: CLIP, args: argparse.Namespace) -> None:
    """Train the model in place. Goes on from ``FILE.partial.pth`` if that exists."""
    steps_per_epoch = args.pairs // args.batch_size
    steps = args.epochs * steps_per_epoch
    word_head = nn.Linear(SIZES["embed_dim"], len(WORDS))  # for training only
    optimizer, scheduler = build_optimizer(model, word_head, steps)
    parts = (model, word_head, optimizer, scheduler)
    partial = args.output.with_suffix(".partial.pth")
    settings = {name: getattr(args, name) for name in ("pairs", "epochs", "batch_size", "seed")}
    start = resume(partial, settings, parts) if partial.is_file() else 0
    pairs = Pairs(args)
    model.train()
    bar = tqdm(range(start, steps), "training", initial=start, total=steps, unit="step")
    for step in bar:
        epoch, index = divmod(step, steps_per_epoch)
        inputs, tokens, names, words = pairs.batch(args.seed, epoch, index, args.batch_size)
        features = model.encode_image(inputs)
        text = F.normalize(model.encode_text(tokens), dim=-1)
        loss = contrastive_loss(F.normalize(features, dim=-1), text, names, model.logit_scale)
        loss = loss + WORD_WEIGHT * word_loss(word_head(features), words)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), CLIP_NORM)
        optimizer.step()
        scheduler.step()
        with torch.no_grad():
            model.logit_scale.clamp_(max=MAX_LOGIT_SCALE)
        bar.set_postfix(loss=f"{loss.item():.3f}", scale=f"{model.logit_scale.exp().item():.0f}")
        if (step + 1) % SAVE_PERIOD == 0 or step + 1 == steps:
            states = [part.state_dict() for part in parts]
            with replacing(partial) as path:
                torch.save({"step": step + 1, "settings": settings, "states": states}, path)


def main(argv: list[str] | None = None) -> None:
    parser = argument_parser()
    args = parser.parse_args(argv)
    if args.pairs % args.batch_size:
        parser.error("--pairs must be a multiple of --batch-size")
    torch.manual_seed(args.seed)
    model = build_model()
    train(model, args)
    save(model, args.output)
    accuracy = zero_shot_accuracy(args.output, args.val)
    record = {
        "command": f"python -m laptop_world.pretrain_clip --output {args.output.name} "
        f"--pairs {args.pairs} --epochs {args.epochs} --batch-size {args.batch_size} "
        f"--seed {args.seed}",
        "sha256": sha256_of_file(args.output),
        "sizes": SIZES,
        "pairs_seen": args.epochs * args.pairs,
        "zero_shot_accuracy": accuracy,
        "zero_shot_pictures": args.val,
        "zero_shot_names": len(ALL_NAMES),
        "commit": git_commit(),
        "versions": versions(),
    }
    write_json(args.output.with_suffix(".json"), record, indent=2)
    args.output.with_suffix(".partial.pth").unlink()
    print(f"{args.output}: {args.output.stat().st_size / 1e6:.1f} MB, zero-shot {accuracy}")


if __name__ == "__main__":
    main()
