"""Where in a picture a detector sees a word: the head, CLIP's dense map, and both together."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure as Chart
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from tqdm import tqdm

from gridclip.files import replacing
from gridclip.fonts import font_families
from gridclip.modeling import GridCLIP
from gridclip.page import Figure, Section, write_page
from gridclip.pictures import Picture, read_picture
from gridclip.predictor import Predictor

_CMAP = "Reds"
_SIDE = 2.6  # inches of a panel
_BOX = "#0072B2"  # is not in the colour map
_TITLES = {"head": "head", "dense": "CLIP's dense map", "combined": "both: what counts"}


@dataclass(frozen=True, eq=False)
class Similarity:
    """C words over a picture that the network sees with h x w pixels.

    Attributes:
        names: the C words.
        maps: "head", "dense" (unless the detector has no dense scores) and "combined", (C, h, w)
            float32 from 0 to 1 each. A pixel has the score of the location whose cell it lies in:
            of several levels of the grid the best one; of the dense map the finest level's.
        boxes: (C, 4) float32, XYXY in pixels of the picture: of the location with the best
            combined score of each word, which is the word's best detection.
        scores: (C,) float32 of the boxes.
    """

    names: tuple[str, ...]
    maps: dict[str, Tensor]
    boxes: Tensor
    scores: Tensor


def similarity(predictor: Predictor, picture: Picture) -> Similarity:
    """The scores of a predictor's vocabulary over a picture, as detection gives them.

    Raises:
        FileNotFoundError, ValueError: it is no picture, or the detector has no grid.
    """
    model = predictor.model
    if not isinstance(model, GridCLIP):
        raise ValueError(
            f"{type(model).__name__} scores boxes that it proposes, and has no grid of scores to "
            "show: take a GridCLIP detector."
        )
    inputs = predictor.prepare(picture)
    (levels,) = model.score_maps([inputs])
    size = inputs["image"].shape[-2:]
    strides = model.anchor_generator.strides

    def over_picture(level: Tensor, stride: int) -> Tensor:
        height, width = (stride * side for side in level.shape[:2])
        return F.interpolate(level.permute(2, 0, 1)[None], (height, width))[
            0, :, : size[0], : size[1]
        ]

    def best(name: str) -> Tensor:
        maps = (over_picture(getattr(x, name), s) for x, s in zip(levels, strides, strict=True))
        return torch.stack(list(maps)).amax(dim=0).cpu()

    maps = {"head": best("head")}
    if levels[0].dense is not None:
        maps["dense"] = over_picture(levels[0].dense, strides[0]).cpu()
    maps["combined"] = best("combined")
    scores, places = torch.cat([x.combined.flatten(0, 1) for x in levels]).max(dim=0)
    boxes = torch.cat([x.boxes.flatten(0, 1) for x in levels])[places].cpu()
    scale = boxes.new_tensor([inputs["width"] / size[1], inputs["height"] / size[0]] * 2)
    corner = boxes.new_tensor([inputs["width"], inputs["height"]] * 2)
    boxes = (boxes * scale).clamp(min=0).minimum(corner)
    return Similarity(predictor.names, maps, boxes, scores.cpu())


def plot_similarity(picture: Picture, found: Similarity, png: Path) -> None:
    """A row for each word: the picture with the word's best box, and the maps that tint it, all on
    one scale of colours."""
    pixels = read_picture(picture)
    height, width = pixels.shape[:2]
    extent = (0, width, height, 0)
    scale = Normalize(0, max(float(values.max()) for values in found.maps.values()))
    light = _light_grey(pixels, found.maps["combined"].shape[1:])
    columns, words = 1 + len(found.maps), len(found.names)
    tall = _SIDE * min(height / width, 2.0)
    chart = Chart(figsize=(_SIDE * columns + 1.2, tall * words + 0.5), layout="constrained")
    panels = chart.subplots(words, columns, squeeze=False)
    for i, (name, row) in enumerate(zip(found.names, panels, strict=True)):
        row[0].imshow(pixels, extent=extent)
        for axes, values in zip(row[1:], found.maps.values(), strict=True):
            # Multiplied: where the score is 0 the picture stays as it is.
            tint = colormaps[_CMAP](scale(values[i].numpy()))[..., :3]
            axes.imshow(light * tint, extent=extent, interpolation="nearest")
        for axes in (row[0], row[-1]):
            _draw_box(axes, found.boxes[i])
        for axes in row:
            axes.set(xticks=[], yticks=[])
        label = f"{name}\nbest {found.scores[i]:.2f}".replace("$", r"\$")  # no formulas
        row[0].set_ylabel(label, fontsize=11, family=font_families(name))
    titles = ["picture", *(_TITLES[key] for key in found.maps)]
    for axes, title in zip(panels[0], titles, strict=True):
        axes.set_title(title, fontsize=11)
    bar = ScalarMappable(scale, _CMAP)
    chart.colorbar(bar, ax=panels, shrink=0.9, aspect=20 * words, label="score")
    with replacing(png) as partial:
        chart.savefig(partial, dpi=130, format="png")


def write_words(predictor: Predictor, pictures: Sequence[Path], output: Path) -> Path:
    """Write ``<picture>.png`` of each picture, and ``index.html`` with all of them.

    Returns:
        The page.

    Raises:
        FileNotFoundError, ValueError: a file is no picture, two have one name, or the detector has
            no grid.
    """
    for stem, count in Counter(picture.stem for picture in pictures).items():
        if count > 1:
            raise ValueError(f"{count} pictures would write {output / stem}.png: run them apart.")
    sections = []
    for picture in tqdm(pictures, "Pictures", unit="picture", disable=len(pictures) == 1):
        found = similarity(predictor, picture)
        png = output / f"{picture.stem}.png"
        plot_similarity(picture, found, png)
        caption = f"{picture.name}: {', '.join(found.names)}"
        sections.append(Section(picture.name, [Figure(png, caption, max_width=2000)]))
    page = output / "index.html"
    write_page(page, f"Where it sees {', '.join(predictor.names)}", _lead(predictor), sections)
    return page


def _lead(predictor: Predictor) -> str:
    text = (
        "Each row is a word: the picture with the word's best box and its score, then the scores "
        "of all locations of the grid, of several levels the best. Red is high, and all maps "
        "of a picture have one scale. The head learned its scores from annotated boxes. "
    )
    dense = getattr(predictor.model, "dense_scores", None)
    if dense is None:
        return text + "This detector has no dense scores: the head alone counts."
    others = len(predictor.model.classifier.competitors)
    text += (
        "CLIP's dense map is the probability of the word at the same place by CLIP's own "
        f"features, among these words and {others} names of the training. What counts is both "
        f"together: head^(1 - w) x map^w, with w = {dense.weight:g}"
    )
    if dense.novel_weight is not None:
        text += (
            f", and {dense.novel_weight:g} for words that no training picture was annotated with"
        )
    return f"{text}."


def _light_grey(pixels: NDArray, size: Sequence[int]) -> NDArray:
    """(h, w, 1) from 0.4 to 1, of RGB pixels (H, W, 3)."""
    grey = Image.fromarray(pixels).convert("L").resize((size[1], size[0]))
    return 0.4 + 0.6 / 255 * np.asarray(grey)[..., None]


def _draw_box(axes: Axes, box: Tensor) -> None:
    x0, y0, x1, y1 = box.tolist()
    axes.add_patch(Rectangle((x0, y0), x1 - x0, y1 - y0, fill=False, color=_BOX, linewidth=1.8))
