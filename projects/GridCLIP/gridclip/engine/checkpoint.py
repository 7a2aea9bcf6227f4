"""Checkpoints: weights fit the model or are refused, and no file is ever half written."""

import os
import re
from pathlib import Path
from typing import Any

from detectron2.utils import comm
from fvcore.common.checkpoint import Checkpointer
from torch import Tensor, nn

from gridclip import clip_weights
from gridclip.files import replacing

_BACKBONE = "backbone.bottom_up."
# Not every file has them: counts, the losses' running mean, constants.
_INCIDENTAL = ("num_batches_tracked", "n_averaged", "loss_normalizer", "pixel_mean", "pixel_std")
_GIVE_DETECTOR = "give a detector's weights by train.init_checkpoint=path/to/model_final.pth."


class GridCLIPCheckpointer(Checkpointer):
    """fvcore's checkpointer, which also starts a detector from a backbone: the image encoder of a
    CLIP checkpoint or a ResNet in torchvision's names becomes ``backbone.bottom_up``."""

    def __init__(self, model: nn.Module, *args: Any, trained: bool = False, **kwargs: Any):
        """As detectron2's. ``trained``: only a whole detector's weights will do."""
        kwargs.setdefault("save_to_disk", comm.is_main_process())
        super().__init__(model, *args, **kwargs)
        self.trained = trained

    def load(self, path: str, checkpointables: list[str] | None = None) -> dict[str, Any]:
        """As fvcore's. Raises FileNotFoundError, or ValueError if the file can't be read or has a
        tensor missing, surplus or of another shape. The model stays as it is then."""
        if self.trained and not path:
            raise ValueError(f"No weights are given: {_GIVE_DETECTOR}")
        return super().load(str(clip_weights.clip_file(path)) if path else "", checkpointables)

    def _load_file(self, filename: str) -> dict[str, Any]:
        path = Path(filename)
        if path.suffix in (".pkl", ".pyth"):
            fix = "save its tensors with torch.save as .pth."
            raise ValueError(f"{path} is a pickle, which can run code when read: {fix}")
        loaded, needed = clip_weights.read_weights(path), self.model.state_dict()
        weights = clip_weights.bare_state_dict(loaded, path)
        clip = clip_weights.as_clip_checkpoint(weights, path)
        if clip is None and "layer1.0.conv1.weight" not in weights:  # torchvision's name
            mistaken = f"{path} holds another detector than the config describes"
            _check_fit(weights, needed, mistaken)
            if "ema" in self.checkpointables and "ema" in loaded:
                _check_fit(clip_weights.bare_state_dict(loaded["ema"], path), needed, mistaken)
            return {**(loaded if "model" in loaded else {}), "model": weights}
        kind = "ResNet" if clip is None else "CLIP model"
        if self.trained:
            raise ValueError(f"{path} holds a {kind}, which training starts from: {_GIVE_DETECTOR}")
        self.logger.info(f"{path} holds a {kind}: it initialises {_BACKBONE[:-1]}")
        name = _detectron2_name if clip is None else str
        encoder = weights if clip is None else clip_weights.resnet_state_dict(clip)
        backbone = {_BACKBONE + name(k): v for k, v in encoder.items() if not k.startswith("fc.")}
        whole = {key: value for key, value in needed.items() if key.startswith(_BACKBONE)}
        mistaken = f"{path} is another {kind} than model.backbone.bottom_up describes"
        _check_fit(backbone, whole, mistaken)
        return {"model": {**needed, **backbone}}

    def save(self, name: str, **kwargs: Any) -> None:
        super().save(f"{name}.tmp", **kwargs)

    def tag_last_checkpoint(self, last_filename_basename: str) -> None:
        # Called once the file is written: only now does it get its name.
        final = last_filename_basename.replace(".tmp.pth", ".pth")
        folder = Path(self.save_dir)
        os.replace(folder / last_filename_basename, folder / final)
        # The best one is saved outside the schedule; after the last step its iteration is wrong.
        if final != "model_best.pth":
            with replacing(folder / "last_checkpoint") as partial:
                partial.write_text(final)


def _detectron2_name(key: str) -> str:
    """detectron2's name of a tensor of torchvision's ResNet."""
    key = re.sub(r"^(conv1|bn1)", r"stem.\1", key)
    key = re.sub(r"^layer(\d)", lambda match: f"res{int(match[1]) + 1}", key)
    key = re.sub(r"bn(\d)", r"conv\1.norm", key)
    return key.replace("downsample.0", "shortcut").replace("downsample.1", "shortcut.norm")


def _check_fit(weights: dict[str, Tensor], needed: dict[str, Tensor], mistaken: str) -> None:
    """Raise ValueError, with ``mistaken`` first, if two state dicts differ in names or shapes."""
    found, expected = (
        {k: tuple(v.shape) for k, v in x.items() if not k.endswith(_INCIDENTAL)}
        for x in (weights, needed)
    )
    if differing := difference(expected, found):
        count, key, needs, has = differing
        raise ValueError(
            f"{mistaken}: {count} of the tensors differ; for {key} it has {has}, not {needs}. Give "
            "other weights, or the config that these were trained with."
        )


def difference(a: dict[str, Any], b: dict[str, Any]) -> tuple[int, str, Any, Any] | None:
    """How many keys of two dicts differ, the first of them, and what each has there, which may be
    "nothing"; None if the dicts are equal."""
    keys = [key for key in a | b if a.get(key) != b.get(key)]
    if not keys:
        return None
    return len(keys), keys[0], a.get(keys[0], "nothing"), b.get(keys[0], "nothing")
