"""Category names: where a vocabulary comes from, and the words that stand for it in a prompt."""

import json
import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASS_NAMES

_LISTS = resources.files("gridclip.text") / "lists"

# What a known dataset means where its name is misspelt, run together, cut short, or has a slash,
# which is "or" there. For prompts only.
_RESPELLED = json.loads((_LISTS / "respelled.json").read_text(encoding="utf-8"))

# "coco.nmes", "names/mine", "~/my names": but neither "No. 5 bolt" nor "w/o lid".
_LIKE_A_FILE = re.compile(r"(~|\.{0,2})/.*|\S+/\S*|\S+\.[A-Za-z]\w*")
_QUALIFIER = re.compile(r"\s*\([^)]*\)")


@dataclass(frozen=True)
class Category:
    """One category of a vocabulary.

    Attributes:
        name: the name to display, unique in its vocabulary: the dataset's own, with spaces for
            underscores and with the qualifier in parentheses kept ("bow (weapon)").
        synonyms: other words for it, without the name itself.
    """

    name: str
    synonyms: tuple[str, ...] = ()


def load_categories(source: str | os.PathLike) -> list[Category]:
    """The categories of a dataset in the order of its ids, or of a file.

    Args:
        source: ``lvis_v1``, ``coco``, ``voc``, ``objects365``; or a ``.json`` file in the format of
            COCO, LVIS or Objects365, of which only ``categories`` is used; or a text file with one
            category a line, ``name`` or ``name, synonym, synonym``. Lines that start with ``#``
            are comments.

    Raises:
        FileNotFoundError: ``source`` is neither a known dataset nor a file.
        ValueError: the file holds no categories, names are missing or not unique, or its only
            line has commas.
    """
    if source in DATASETS:
        return _unique(DATASETS[str(source)](), source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"No category names at '{source}': it is neither a file nor one of "
            f"{', '.join(DATASETS)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        if path.suffix == ".json":
            return _unique(_from_entries(json.loads(text)["categories"]), path)
        return _unique(_from_lines(text, path), path)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} can't be read as category names ({type(error).__name__}: {error}). It should "
            "be a text file with one name a line, or a .json file whose 'categories' is a list of "
            "entries with 'id' and 'name'."
        ) from error


def make_categories(names: Iterable[str]) -> list[Category]:
    """Categories of names. Superfluous spaces are removed, and underscores become spaces.

    Raises:
        ValueError: there are no names, one is empty, or two are the same.
    """
    return _unique([_category(name) for name in names], "The vocabulary")


def category_name(name: str) -> str:
    """A data set's name of a category as it is shown: with spaces for underscores."""
    return " ".join(name.replace("_", " ").split())


def prompt_phrases(
    categories: Sequence[Category], use_synonyms: bool = False
) -> list[tuple[str, ...]]:
    """The words to put into prompts for each category: its name, then the synonyms if asked for.

    A qualifier in parentheses is for annotators and is dropped ("bat (animal)" is "bat"). It stays
    where two categories would otherwise become one ("bow (weapon)" and "bow (decorative
    ribbons)"), as in OpenAI's class names for ImageNet ("kite (bird of prey)"). Names of the known
    datasets are respelled where they are misspelt or have a slash; all others stay as they are.
    """
    names = _count_short_forms((category.name,) for category in categories)
    words = _count_short_forms((category.name, *category.synonyms) for category in categories)
    phrases = []
    for category in categories:
        synonyms = category.synonyms if use_synonyms else ()
        own = (_phrase(category.name, names), *(_phrase(word, words) for word in synonyms))
        phrases.append(tuple(dict.fromkeys(own)))  # each once, in order
    return phrases


def _count_short_forms(words_of_categories: Iterable[tuple[str, ...]]) -> Counter[str]:
    # A short form counts once a category: its own synonyms may well agree with its name.
    return Counter(
        form for words in words_of_categories for form in {_shorten(w).lower() for w in words}
    )


def _phrase(word: str, short_forms: Counter[str]) -> str:
    short = _shorten(word)
    return short if short_forms[short.lower()] == 1 else _RESPELLED.get(word, word)


def _shorten(word: str) -> str:
    word = _RESPELLED.get(word, word)
    # A name that is nothing but a qualifier stays whole.
    return _QUALIFIER.sub("", word).strip() or word


def _category(name: str, synonyms: Iterable[str] = ()) -> Category:
    name, *others = (category_name(word) for word in (name, *synonyms))
    others = [word for word in dict.fromkeys(others) if word and word != name]  # each once
    return Category(name, tuple(others))


def _from_entries(entries: Iterable[dict]) -> list[Category]:
    things = [entry for entry in entries if entry.get("isthing", 1)]
    return [
        _category(entry["name"], entry.get("synonyms", ()))
        for entry in sorted(things, key=lambda entry: entry["id"])
    ]


def _from_lines(text: str, source: str | os.PathLike) -> list[Category]:
    lines = [line for line in map(str.strip, text.splitlines()) if line and line[0] != "#"]
    categories = [_category(name, syns) for name, *syns in (line.split(",") for line in lines)]
    if len(categories) == 1 and categories[0].synonyms:
        entry = json.dumps({"id": 1, **vars(categories[0])}, ensure_ascii=False)
        raise ValueError(
            f"{source} has commas in its only line. Write categories one a line. If the first word "
            f'is the category and the others are synonyms, write .json: {{"categories": [{entry}]}}'
        )
    return categories


def _unique(categories: list[Category], source: str | os.PathLike) -> list[Category]:
    if not categories:
        raise ValueError(f"{source} holds no category names.")
    # CLIP's tokenizer ignores case: names that differ in nothing else are one category to it.
    seen: dict[str, int] = {}
    for index, category in enumerate(categories):
        if not category.name:
            raise ValueError(f"{source}: category {index} has an empty name.")
        first = seen.setdefault(category.name.lower(), index)
        if first != index:
            raise ValueError(
                f"{source}: categories {first} and {index} have the same name "
                f"'{category.name}'; make it unique, for example 'name (what it is)'."
            )
    return categories


DATASETS: dict[str, Callable[[], list[Category]]] = {
    "lvis_v1": lambda: _from_entries(LVIS_CATEGORIES),
    "coco": lambda: _from_entries(COCO_CATEGORIES),
    "voc": lambda: make_categories(VOC_CLASS_NAMES),
    # The official names of version 2 in the order of their ids, misspellings included: the
    # annotation files hold them so.
    "objects365": lambda: make_categories(
        (_LISTS / "objects365_names.txt").read_text(encoding="utf-8").splitlines()
    ),
}


def parse_vocabulary(vocabulary: str) -> str | list[str]:
    """A file or a known data set stays as it is. Anything else is names between commas.

    Raises:
        FileNotFoundError: it looks like a file that is not there.
    """
    # Path.is_file() fails on a list of names that is longer than a file's name may be.
    if Path(vocabulary).suffix in (".safetensors", ".txt", ".json") or os.path.isfile(vocabulary):
        return vocabulary
    if vocabulary in DATASETS:
        return vocabulary
    if _LIKE_A_FILE.fullmatch(vocabulary) and "," not in vocabulary:
        raise FileNotFoundError(
            f"There is no file '{vocabulary}'. If it is a name, put a comma behind it."
        )
    return [name for name in map(str.strip, vocabulary.split(",")) if name]
