"""The demo's search: where a trained detector sees the user's words in the held-out pictures."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import torch
from detectron2.config import instantiate
from detectron2.structures import Boxes, BoxMode, pairwise_iou
from tqdm import tqdm

from gridclip.data import all_records
from gridclip.drawing import draw_boxes
from gridclip.files import write_json
from gridclip.predictor import Predictor
from laptop_world.shapes import ALL_NAMES

_BEST = 6  # pictures shown of each word
_SIDE = 320  # the least longer side of a shown picture in pixels
_KNOWN_WORDS = {word for name in ALL_NAMES for word in name}


def search_pictures(
    config: Path, overrides: Sequence[str], weights: Path, words: Sequence[str], output: Path
) -> None:
    """Look for words in the config's test pictures.

    Writes ``words.json``, a list with an entry a word: "word"; "trained_on", whether a category
    trained on has it in its name; "best", the pictures with the highest scores. Of each picture
    it holds "picture", the file, "score", and "right", which is null where the ground truth does
    not tell. The picture files lie beside ``words.json``; each shows the detection's box.

    Args:
        config: a LazyConfig file; ``overrides`` are ``key=value`` settings for it.
        weights: a checkpoint of the trained detector.
        words: words or phrases, "fish" or "green moon".
        output: a folder. What it held before is removed.
    """
    predictor = Predictor(config, weights, overrides=overrides)
    data = instantiate(predictor.cfg.data.val)
    records = all_records(data)
    # The names trained on are in the vocabulary too, so that an object that one of them fits better
    # scores lower for the user's word.
    others = [data.names[i] for i in data.base_classes]
    predictor.set_vocabulary([*words, *(name for name in others if name not in words)])

    found: dict[str, list] = {word: [] for word in words}
    for record in tqdm(records, "search", unit="picture"):
        instances = predictor(record["file_name"])
        for i, word in enumerate(words):
            of_word = instances[instances.pred_classes == i]
            if len(of_word):  # best first
                box = of_word.pred_boxes.tensor[0]
                found[word].append((of_word.scores[0].item(), box, record))

    shutil.rmtree(output, ignore_errors=True)
    output.mkdir(parents=True)
    listed = []
    for i, word in enumerate(words):
        best = []
        for k, (score, box, record) in enumerate(sorted(found[word], key=lambda f: -f[0])[:_BEST]):
            picture = f"{i}_{k}.jpg"
            drawn = draw_boxes(
                record["file_name"], [box], [""], classes=[0], novel=[True], min_side=_SIDE
            )
            drawn.save(output / picture, quality=88)
            right = is_right(word, box, record, data.names)
            best.append({"picture": picture, "score": round(score, 4), "right": right})
        trained_on = any(is_called(name, word) for name in others)
        listed.append({"word": word, "trained_on": trained_on, "best": best})
    write_json(output / "words.json", listed, indent=1)


def is_called(category: str, word: str) -> bool:
    """Whether a category's name, "plain red star", has every word of a phrase, "red star"."""
    return set(word.split()) <= set(category.split())


def is_right(word: str, box: torch.Tensor, record: dict, names: Sequence[str]) -> bool | None:
    """Whether an object of that name is annotated at the box, with an IoU of at least 0.5.

    Args:
        word: a word or a phrase.
        box: (4,) float32 XYXY in pixels.
        record: the picture's, of :class:`gridclip.data.records.Records`.
        names: of all categories.

    Returns:
        None where the ground truth does not tell: the world does not have the word, or such an
        object may be in the picture without an annotation.
    """
    if not set(word.split()) <= _KNOWN_WORDS:
        return None
    boxes = [
        BoxMode.convert(a["bbox"], a["bbox_mode"], BoxMode.XYXY_ABS)
        for a in record["annotations"]
        if is_called(names[a["category_id"]], word)
    ]
    if boxes and pairwise_iou(Boxes(box[None]), Boxes(torch.tensor(boxes))).max() >= 0.5:
        return True
    unsure = [names[i] for i in record["not_exhaustive_classes"]]
    return None if any(is_called(name, word) for name in unsure) else False
