"""The laptop world's CLIP: OpenAI's own model class at a small size."""

from operator import eq
from pathlib import Path

import numpy as np
import torch
from clip.clip import _transform
from clip.model import CLIP, Bottleneck
from safetensors.torch import save_file
from torch import Tensor, nn
from tqdm import tqdm

from gridclip.clip_weights import load_clip
from gridclip.data.teacher import encode_images
from gridclip.files import replacing
from gridclip.text.encoder import encode_prompts
from laptop_world.shapes import ALL_NAMES, CaptionedShapes

# 64 is the least text width: that of one attention head. Most of the file is the token table.
SIZES = dict(
    embed_dim=64,
    image_resolution=64,
    vision_layers=(2, 2, 2, 1),
    vision_width=16,
    vision_patch_size=None,
    context_length=77,
    vocab_size=49408,
    transformer_width=64,
    transformer_heads=1,
    transformer_layers=2,
)
_normalize = _transform(SIZES["image_resolution"]).transforms[-1]
MEAN, STD = (torch.tensor(v).view(3, 1, 1) for v in (_normalize.mean, _normalize.std))


def build_model() -> CLIP:
    """CLIP with OpenAI's initialisation, except for the residual branches.

    OpenAI start them closed, with the gain of the last batch norm at zero. Here the gain starts at
    one: in so short a run, closed branches cost most of what the model can learn about shapes.
    """
    model = CLIP(**SIZES)
    for module in model.visual.modules():
        if isinstance(module, Bottleneck):
            nn.init.ones_(module.bn3.weight)
    return model.to(memory_format=torch.channels_last)  # a third faster on a CPU


def to_inputs(pictures: Tensor) -> Tensor:
    """CLIP's inputs, (N, 3, n, n) float32 in channels-last memory, from (N, n, n, 3) uint8 RGB."""
    return (pictures.permute(0, 3, 1, 2) / 255 - MEAN) / STD


def save(model: CLIP, path: Path) -> None:
    """Write the model's state dict as safetensors, floats in float16, as OpenAI store theirs."""
    tensors = {
        k: v.half().contiguous() if v.is_floating_point() else v
        for k, v in model.state_dict().items()
    }
    with replacing(path) as partial:
        save_file(tensors, partial)


def zero_shot_accuracy(clip_file: Path, num_pictures: int) -> dict[str, float]:
    """How well a CLIP file names single objects, by zero-shot choice among all 360 names.

    Returns:
        The shares of pictures, 0 to 1, for which the chosen "name" is right, and its "texture",
        its "colour" and its "shape".
    """
    model, _ = load_clip(clip_file)
    text = encode_prompts([f"a photo of a {name}" for name in ALL_NAMES], model)
    pairs = CaptionedShapes(num_pictures, SIZES["image_resolution"], split="val", max_objects=1)
    right = []
    for first in tqdm(range(0, num_pictures, 250), desc="zero-shot", unit="batch"):
        indices = range(first, min(first + 250, num_pictures))
        pictures = torch.from_numpy(np.stack([pairs[i][0] for i in indices]))
        best = (encode_images(model, to_inputs(pictures)) @ text.T).argmax(dim=1).tolist()
        for i, chosen in zip(indices, best, strict=True):
            (truth,), found = pairs.names(i), ALL_NAMES[chosen]
            right.append([found == truth, *map(eq, found, truth)])
    shares = np.mean(right, axis=0).round(4).tolist()
    return dict(zip(("name", "texture", "colour", "shape"), shares, strict=True))
