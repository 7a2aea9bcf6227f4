"""Category names: where a vocabulary comes from, and the words that stand for it in a prompt."""

import json
import os
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detectron2.data.datasets.builtin_meta import COCO_CATEGORIES
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.data.datasets.pascal_voc import CLASS_NAMES as VOC_CLASS_NAMES

# The official names of Objects365 v2 in the order of their ids, misspellings included: they are
# what the annotation files hold.
_OBJECTS365 = """
Person, Sneakers, Chair, Other Shoes, Hat, Car, Lamp, Glasses, Bottle, Desk, Cup, Street Lights,
Cabinet/shelf, Handbag/Satchel, Bracelet, Plate, Picture/Frame, Helmet, Book, Gloves, Storage box,
Boat, Leather Shoes, Flower, Bench, Potted Plant, Bowl/Basin, Flag, Pillow, Boots, Vase,
Microphone, Necklace, Ring, SUV, Wine Glass, Belt, Moniter/TV, Backpack, Umbrella, Traffic Light,
Speaker, Watch, Tie, Trash bin Can, Slippers, Bicycle, Stool, Barrel/bucket, Van, Couch, Sandals,
Bakset, Drum, Pen/Pencil, Bus, Wild Bird, High Heels, Motorcycle, Guitar, Carpet, Cell Phone,
Bread, Camera, Canned, Truck, Traffic cone, Cymbal, Lifesaver, Towel, Stuffed Toy, Candle,
Sailboat, Laptop, Awning, Bed, Faucet, Tent, Horse, Mirror, Power outlet, Sink, Apple,
Air Conditioner, Knife, Hockey Stick, Paddle, Pickup Truck, Fork, Traffic Sign, Ballon, Tripod,
Dog, Spoon, Clock, Pot, Cow, Cake, Dinning Table, Sheep, Hanger, Blackboard/Whiteboard, Napkin,
Other Fish, Orange/Tangerine, Toiletry, Keyboard, Tomato, Lantern, Machinery Vehicle, Fan,
Green Vegetables, Banana, Baseball Glove, Airplane, Mouse, Train, Pumpkin, Soccer, Skiboard,
Luggage, Nightstand, Tea pot, Telephone, Trolley, Head Phone, Sports Car, Stop Sign, Dessert,
Scooter, Stroller, Crane, Remote, Refrigerator, Oven, Lemon, Duck, Baseball Bat,
Surveillance Camera, Cat, Jug, Broccoli, Piano, Pizza, Elephant, Skateboard, Surfboard, Gun,
Skating and Skiing shoes, Gas stove, Donut, Bow Tie, Carrot, Toilet, Kite, Strawberry, Other Balls,
Shovel, Pepper, Computer Box, Toilet Paper, Cleaning Products, Chopsticks, Microwave, Pigeon,
Baseball, Cutting/chopping Board, Coffee Table, Side Table, Scissors, Marker, Pie, Ladder,
Snowboard, Cookies, Radiator, Fire Hydrant, Basketball, Zebra, Grape, Giraffe, Potato, Sausage,
Tricycle, Violin, Egg, Fire Extinguisher, Candy, Fire Truck, Billards, Converter, Bathtub,
Wheelchair, Golf Club, Briefcase, Cucumber, Cigar/Cigarette, Paint Brush, Pear, Heavy Truck,
Hamburger, Extractor, Extention Cord, Tong, Tennis Racket, Folder, American Football, earphone,
Mask, Kettle, Tennis, Ship, Swing, Coffee Machine, Slide, Carriage, Onion, Green beans, Projector,
Frisbee, Washing Machine/Drying Machine, Chicken, Printer, Watermelon, Saxophone, Tissue,
Toothbrush, Ice cream, Hotair ballon, Cello, French Fries, Scale, Trophy, Cabbage, Hot dog,
Blender, Peach, Rice, Wallet/Purse, Volleyball, Deer, Goose, Tape, Tablet, Cosmetics, Trumpet,
Pineapple, Golf Ball, Ambulance, Parking meter, Mango, Key, Hurdle, Fishing Rod, Medal, Flute,
Brush, Penguin, Megaphone, Corn, Lettuce, Garlic, Swan, Helicopter, Green Onion, Sandwich, Nuts,
Speed Limit Sign, Induction Cooker, Broom, Trombone, Plum, Rickshaw, Goldfish, Kiwi fruit,
Router/modem, Poker Card, Toaster, Shrimp, Sushi, Cheese, Notepaper, Cherry, Pliers, CD, Pasta,
Hammer, Cue, Avocado, Hamimelon, Flask, Mushroon, Screwdriver, Soap, Recorder, Bear, Eggplant,
Board Eraser, Coconut, Tape Measur/ Ruler, Pig, Showerhead, Globe, Chips, Steak, Crosswalk Sign,
Stapler, Campel, Formula 1, Pomegranate, Dishwasher, Crab, Hoverboard, Meat ball, Rice Cooker,
Tuba, Calculator, Papaya, Antelope, Parrot, Seal, Buttefly, Dumbbell, Donkey, Lion, Urinal,
Dolphin, Electric Drill, Hair Dryer, Egg tart, Jellyfish, Treadmill, Lighter, Grapefruit,
Game board, Mop, Radish, Baozi, Target, French, Spring Rolls, Monkey, Rabbit, Pencil Case, Yak,
Red Cabbage, Binoculars, Asparagus, Barbell, Scallop, Noddles, Comb, Dumpling, Oyster,
Table Teniis paddle, Cosmetics Brush/Eyeliner Pencil, Chainsaw, Eraser, Lobster, Durian, Okra,
Lipstick, Cosmetics Mirror, Curling, Table Tennis
"""

# What a dataset's name says if it is misspelt, run together or cut short there. For prompts only.
_RESPELLED = {
    "diningtable": "dining table",
    "pottedplant": "potted plant",
    "tvmonitor": "TV monitor",
    "monitor (computer equipment) computer monitor": "computer monitor",
    "Moniter/TV": "Monitor/TV",
    "Trash bin Can": "Trash bin/can",
    "Bakset": "Basket",
    "Ballon": "Balloon",
    "Dinning Table": "Dining Table",
    "Billards": "Billiards",
    "Extention Cord": "Extension Cord",
    "Hotair ballon": "Hot air balloon",
    "Hamimelon": "Hami melon",
    "Mushroon": "Mushroom",
    "Tape Measur/ Ruler": "Tape Measure/Ruler",
    "Campel": "Camel",
    "Buttefly": "Butterfly",
    "French": "French horn",
    "Noddles": "Noodles",
    "Table Teniis paddle": "Table Tennis paddle",
}

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
            category a line, ``name`` or ``name, synonym, synonym``, and ``#`` before a comment.

    Raises:
        FileNotFoundError: ``source`` is neither a known dataset nor a file.
        ValueError: the file holds no categories, or names are missing or not unique.
    """
    if source in DATASETS:
        return _unique(DATASETS[source](), source)
    path = Path(source)
    if not path.is_file():
        raise FileNotFoundError(
            f"No category names at '{source}': it is neither a file nor one of "
            f"{', '.join(DATASETS)}."
        )
    try:
        text = path.read_text(encoding="utf-8-sig")
        categories = _parse_json(text) if path.suffix == ".json" else _parse_lines(text)
    except (UnicodeDecodeError, json.JSONDecodeError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(
            f"{path} can't be read as category names ({type(error).__name__}: {error}). It should "
            "be a text file with one name a line, or a .json file whose 'categories' is a list of "
            "entries with 'id' and 'name'."
        ) from error
    return _unique(categories, path)


def prompt_phrases(
    categories: Sequence[Category], use_synonyms: bool = False
) -> list[tuple[str, ...]]:
    """The words to put into prompts for each category: its name, then the synonyms if asked for.

    A qualifier in parentheses is for annotators and is dropped ("bat (animal)" is "bat"), except
    where this would make two categories of the vocabulary one ("bow (weapon)" and "bow (decorative
    ribbons)"). There it stays as it stands, as in OpenAI's class names for ImageNet ("kite (bird
    of prey)"). A slash becomes "or", known misspellings of datasets are corrected.
    """
    names = _count_short_forms((category.name,) for category in categories)
    words = _count_short_forms((category.name, *category.synonyms) for category in categories)
    phrases = []
    for category in categories:
        synonyms = category.synonyms if use_synonyms else ()
        own = (_phrase(category.name, names), *(_phrase(word, words) for word in synonyms))
        phrases.append(tuple(dict.fromkeys(own)))  # each once, in order
    return phrases


def _count_short_forms(words_of_categories: Iterable[tuple[str, ...]]) -> Counter:
    # A short form counts once a category: its own synonyms may well agree with its name.
    return Counter(
        form for words in words_of_categories for form in {_shorten(w).lower() for w in words}
    )


def _phrase(word: str, short_forms: Counter) -> str:
    short = _shorten(word)
    return short if short_forms[short.lower()] == 1 else _respell(word)


def _shorten(word: str) -> str:
    # A name that is nothing but a qualifier stays whole.
    return _QUALIFIER.sub("", _respell(word)).strip() or _respell(word)


def _respell(word: str) -> str:
    return re.sub(r"\s*/\s*", " or ", _RESPELLED.get(word, word))


def _category(name: str, synonyms: Iterable[str] = ()) -> Category:
    name = _clean(name)
    synonyms = dict.fromkeys(map(_clean, synonyms))  # each once, in order
    return Category(name, tuple(word for word in synonyms if word and word != name))


def _clean(word: str) -> str:
    return " ".join(word.replace("_", " ").split())


def _from_entries(entries: Iterable[dict]) -> list[Category]:
    things = [entry for entry in entries if entry.get("isthing", 1)]
    return [
        _category(entry["name"], entry.get("synonyms", ()))
        for entry in sorted(things, key=lambda entry: entry["id"])
    ]


def _parse_json(text: str) -> list[Category]:
    return _from_entries(json.loads(text)["categories"])


def _parse_lines(text: str) -> list[Category]:
    lines = (re.split(r"(?:^|\s)#", line)[0].strip() for line in text.splitlines())
    return [_category(name, synonyms) for name, *synonyms in (ln.split(",") for ln in lines if ln)]


def _unique(categories: list[Category], source: str | os.PathLike) -> list[Category]:
    if not categories:
        raise ValueError(f"{source} holds no category names.")
    # CLIP's tokenizer ignores case, so names that differ in case only are one category to it.
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


DATASETS = {
    "lvis_v1": lambda: _from_entries(LVIS_CATEGORIES),
    "coco": lambda: _from_entries(COCO_CATEGORIES),
    "voc": lambda: [_category(name) for name in VOC_CLASS_NAMES],
    "objects365": lambda: [_category(name) for name in _OBJECTS365.split(",")],
}
