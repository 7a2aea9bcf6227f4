"""Checkpoints: they may start from a backbone's weights, and no file is ever half written."""

import os
import re
from pathlib import Path
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer

from gridclip.clip_weights import is_clip_checkpoint, read_clip_checkpoint, resnet_state_dict
from gridclip.files import replacing

_BACKBONE = "backbone.bottom_up."


class GridCLIPCheckpointer(DetectionCheckpointer):
    """detectron2's checkpointer that also starts a detector from a backbone: the image encoder of a
    CLIP checkpoint or a ResNet in torchvision's names becomes ``backbone.bottom_up``."""

    def _load_file(self, filename: str) -> dict:
        if filename.endswith((".pkl", ".pyth")):
            raise ValueError(
                f"{filename} is a pickle, which can run code when read: save its tensors with "
                "torch.save as .pth first."
            )
        if is_clip_checkpoint(filename):
            weights = resnet_state_dict(read_clip_checkpoint(filename))
            return self._initialise_backbone(filename, "CLIP ResNet", weights)
        loaded = super()._load_file(filename)
        if "layer1.0.conv1.weight" in loaded["model"]:  # torchvision's name
            encoder = {k: v for k, v in loaded["model"].items() if not k.startswith("fc.")}
            weights = {_detectron2_name(key): value for key, value in encoder.items()}
            return self._initialise_backbone(filename, "ResNet", weights)
        return loaded

    def _initialise_backbone(self, filename: str, kind: str, weights: dict) -> dict:
        self.logger.info(f"{filename} holds a {kind}: it initialises {_BACKBONE[:-1]}")
        model = {f"{_BACKBONE}{key}": value for key, value in weights.items()}
        found, needed = _backbone_shapes(model), _backbone_shapes(self.model.state_dict())
        for key in needed | found:
            has, needs = found.get(key, "nothing"), needed.get(key, "nothing")
            if has != needs:
                raise ValueError(
                    f"{filename} is another {kind} than model.backbone.bottom_up describes: "
                    f"for {key} it has {has}, not {needs}."
                )
        return {"model": model}

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


def _backbone_shapes(state_dict: dict) -> dict[str, tuple[int, ...]]:
    return {
        key: tuple(value.shape)
        for key, value in state_dict.items()
        # Not every file has the count of batches, and frozen batch norms do not read it.
        if key.startswith(_BACKBONE) and not key.endswith("num_batches_tracked")
    }
