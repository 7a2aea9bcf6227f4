"""Captioned pictures to train the small CLIP on."""

import numpy as np
from torch.utils.data import Dataset

from .drawing import render
from .scenes import Scene, build_caption_scene
from .vocabulary import Name

_SENTENCES = ("{}", "a photo of {}", "a picture of {}", "{} in a picture", "there is {}")


class CaptionedShapes(Dataset):
    """Pairs of a picture and a caption. All 360 names occur, also the novel ones of both worlds.

    Nothing is stored: a pair depends on split, seed and index alone and is the same in any process.
    No picture is one of the detection data sets. For zero-shot classification take
    ``max_objects=1`` and :meth:`names`.

    Args:
        length: number of pairs.
        size: side of a picture in pixels.
        split: "train" or "val"; they share no picture.
        seed: of the pairs.
        max_objects: a picture shows 1 to ``max_objects`` objects on background clutter.

    Raises:
        ValueError: for another split.
    """

    def __init__(
        self,
        length: int,
        size: int = 64,
        *,
        split: str = "train",
        seed: int = 0,
        max_objects: int = 3,
    ):
        if split not in ("train", "val"):
            raise ValueError(f"There is no split '{split}' of captions: choose train or val.")
        self.length, self.size = length, size
        self.split, self.seed, self.max_objects = split, seed, max_objects

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: int) -> tuple[np.ndarray, str]:
        """The picture, (size, size, 3) uint8 RGB, and its caption."""
        scene = self._scene(index)
        return render(scene, self.size), _caption(scene)

    def names(self, index: int) -> list[Name]:
        """The names of the picture's objects, in the order of the caption."""
        return _object_names(self._scene(index))

    def _scene(self, index: int) -> Scene:
        if not 0 <= index < self.length:
            raise IndexError(index)
        return build_caption_scene(self.split, index, self.seed, self.max_objects)


def _object_names(scene: Scene) -> list[Name]:
    return [item.name for item in scene.items if item.category_id is not None]


def _caption(scene: Scene) -> str:
    rng = np.random.default_rng((*scene.key, 4))
    *others, last = [f"a {name}" for name in _object_names(scene)]
    objects = f"{', '.join(others)} and {last}" if others else last
    return _SENTENCES[rng.integers(len(_SENTENCES))].format(objects)
