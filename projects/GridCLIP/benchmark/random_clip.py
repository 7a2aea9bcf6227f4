"""CLIP models of OpenAI's sizes with random weights, by name: ``random-clip://RN50``.

For smoke tests and timings where OpenAI's weights are not at hand. The name is a path for
detectron2's ``PathManager`` once this module is imported.
"""

import os
from pathlib import Path
from typing import Any

import torch
from clip.model import CLIP, ModifiedResNet, convert_weights
from detectron2.utils.file_io import PathManager
from torch import nn

from gridclip.clip_models import CLIP_RESNETS, CLIPPathHandler
from gridclip.files import replacing

TEXT_WIDTHS = {"RN50": 512, "RN101": 512, "RN50x4": 640, "RN50x16": 768, "RN50x64": 1024}


class RandomCLIPPathHandler(CLIPPathHandler):
    """``random-clip://RN50``: an archive of that model's true sizes with random weights.

    It is made once and cached.
    """

    prefix = "random-clip://"
    models = CLIP_RESNETS

    def _fetch(self, name: str) -> str:
        archive = Path.home() / ".cache" / "gridclip" / f"random-{name}.pt"
        if not archive.is_file():
            sizes, text_width = CLIP_RESNETS[name], TEXT_WIDTHS[name]
            write_random_clip_archive(
                archive,
                embed_dim=sizes["embed_dim"],
                image_resolution=sizes["input_resolution"],
                vision_layers=sizes["layers"],
                vision_width=sizes["width"],
                transformer_width=text_width,
                transformer_heads=text_width // 64,
                transformer_layers=12,
            )
        return str(archive)


PathManager.register_handler(RandomCLIPPathHandler())


def write_random_clip_archive(path: str | os.PathLike, *, seed: int = 0, **sizes: Any) -> None:
    """Write a TorchScript archive as OpenAI's (half precision, same entries), weights random.

    The batch norms of a ResNet are calibrated on noise, so that features and gradients have
    healthy sizes although nothing was learned.

    Args:
        path: the file, replaced once all is written.
        seed: of the weights.
        sizes: arguments of ``clip.model.CLIP``, except "context_length" and "vocab_size", which
            are OpenAI's. Without "vision_patch_size" the image encoder is a ResNet.
    """
    scalars = dict(context_length=77, vocab_size=49408)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = CLIP(**{"vision_patch_size": None, **scalars, **sizes})
        if isinstance(model.visual, ModifiedResNet):
            _calibrate_batch_norms(model.visual)
    resolution = sizes["image_resolution"]
    for name, value in {"input_resolution": resolution, **scalars}.items():
        vars(model).pop(name, None)  # a plain number in clip.model.CLIP, a tensor in the archives
        model.register_buffer(name, torch.tensor(value))
    convert_weights(model.eval())
    image = torch.zeros(1, 3, resolution, resolution)
    text = torch.zeros(1, scalars["context_length"], dtype=torch.long)
    inputs = {"encode_image": image, "encode_text": text, "forward": (image, text)}
    with torch.no_grad():
        archive = torch.jit.trace_module(model, inputs, check_trace=False)
    with replacing(Path(path)) as partial:
        archive.save(os.fspath(partial))


@torch.no_grad()
def _calibrate_batch_norms(resnet: ModifiedResNet) -> None:
    for module in resnet.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.constant_(module.weight, 1.0)  # CLIP starts the last one of a block at zero
            module.momentum = None  # a plain average over the batches
    size = min(resnet.input_resolution, 64)
    pool, resnet.attnpool = resnet.attnpool, nn.Identity()  # it takes the native size alone
    resnet.train()
    for _ in range(2):
        resnet(torch.randn(8, 3, size, size))
    resnet.eval()
    resnet.attnpool = pool
