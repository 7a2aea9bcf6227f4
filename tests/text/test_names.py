import hashlib
import json
from pathlib import Path

import pytest
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES

from gridclip.text import Category, load_categories, prompt_phrases, render_prompts
from gridclip.text.names import make_categories, parse_vocabulary


def names_of(source):
    return [category.name for category in load_categories(source)]


@pytest.mark.parametrize(
    "source, count, first, last",
    [
        ("lvis_v1", 1203, "aerosol can", "zucchini"),
        ("coco", 80, "person", "toothbrush"),
        ("voc", 20, "aeroplane", "tvmonitor"),
        ("objects365", 365, "Person", "Table Tennis"),
    ],
)
def test_datasets(source, count, first, last):
    names = names_of(source)
    assert len(names) == len(set(names)) == count
    assert (names[0], names[-1]) == (first, last)


def test_lvis_is_in_the_order_of_its_ids():
    by_id = sorted(LVIS_CATEGORIES, key=lambda entry: entry["id"])
    assert names_of("lvis_v1") == [entry["name"].replace("_", " ") for entry in by_id]


def test_objects365_ids():
    names = names_of("objects365")
    ids = {50: "Van", 100: "Sheep", 150: "Gas stove", 200: "Heavy Truck", 250: "Parking meter",
           300: "Tape Measur/ Ruler", 309: "Formula 1", 350: "Scallop"}  # fmt: skip
    assert {i: names[i - 1] for i in ids} == ids


def test_qualifiers_stay_in_display_names_and_leave_prompts():
    categories = load_categories("lvis_v1")
    phrases = dict(zip([c.name for c in categories], prompt_phrases(categories), strict=True))
    assert phrases["bat (animal)"] == ("bat",)
    assert phrases["flip-flop (sandal)"] == ("flip-flop",)
    assert phrases["monitor (computer equipment) computer monitor"] == ("computer monitor",)


def test_the_five_collisions_of_lvis_keep_their_qualifiers():
    categories = load_categories("lvis_v1")
    phrases = [phrase for (phrase,) in prompt_phrases(categories)]
    assert sorted(phrase for phrase in phrases if "(" in phrase) == [
        "bow (decorative ribbons)",
        "bow (weapon)",
        "fish (food)",
        "octopus (animal)",
        "octopus (food)",
        "pan (for cooking)",
        "pan (metal container)",
        "salmon (fish)",
        "salmon (food)",
    ]
    assert "fish" in phrases  # the fifth pair: only one of the two has a qualifier


@pytest.mark.parametrize("source", ["lvis_v1", "coco", "voc", "objects365"])
@pytest.mark.parametrize("templates", ["single", "name", "imagenet", "vild"])
def test_prompts_of_different_categories_differ(source, templates):
    categories = load_categories(source)
    prompts = [render_prompts(phrase, templates)[0] for (phrase,) in prompt_phrases(categories)]
    # CLIP's tokenizer lower-cases.
    assert len({prompt.lower() for prompt in prompts}) == len(categories)


def test_dataset_spellings_are_corrected_in_prompts_only():
    categories = [Category("Moniter/TV"), Category("Bakset"), Category("diningtable")]
    assert prompt_phrases(categories) == [("Monitor or TV",), ("Basket",), ("dining table",)]
    assert names_of("objects365")[37] == "Moniter/TV"


def test_own_words_stay_as_they_are_written(tmp_path):
    words = ["item #5", "w/o lid", "1/2 inch pipe", "black / white cat", "No. 5 bolt"]
    (tmp_path / "names.txt").write_text("\n".join(words))
    entries = [dict(id=i, name=word) for i, word in enumerate(words)]
    (tmp_path / "own.json").write_text(json.dumps({"categories": entries}))
    for categories in (
        load_categories(tmp_path / "names.txt"),
        load_categories(tmp_path / "own.json"),
        make_categories(words),
    ):
        assert [category.name for category in categories] == words
        assert prompt_phrases(categories) == [(word,) for word in words]


@pytest.mark.parametrize(
    ("source", "names", "with_synonyms"),
    [
        ("lvis_v1", "fb77cadb1925c76f", "ce5cddfa0d0b32e3"),
        ("coco", "1f2d2b7b4f9d7f8f", "1f2d2b7b4f9d7f8f"),
        ("voc", "0287452254db1e78", "0287452254db1e78"),
        ("objects365", "b69820a90e9bd486", "b69820a90e9bd486"),
    ],
)
def test_words_of_known_datasets_never_change(source, names, with_synonyms):
    """Text embeddings that were made of them would no longer be those of the prompts."""
    for use_synonyms, digest in ((False, names), (True, with_synonyms)):
        words = json.dumps(prompt_phrases(load_categories(source), use_synonyms))
        assert hashlib.sha256(words.encode()).hexdigest().startswith(digest)


def test_no_slash_is_left_in_names_of_known_datasets():
    for source in ("lvis_v1", "coco", "voc", "objects365"):
        phrases = prompt_phrases(load_categories(source))
        assert not [phrase for (phrase,) in phrases if "/" in phrase]


def test_synonyms_of_lvis():
    lvis = {category.name: category for category in load_categories("lvis_v1")}
    assert lvis["bull"].synonyms == ("horned cow",)  # the one name that is no synonym of itself
    assert lvis["aerosol can"].synonyms == ("spray can",)
    assert lvis["zebra"].synonyms == ()


def test_synonyms_in_prompts():
    categories = [
        Category("bottle cap", ("cap (container lid)",)),
        Category("cap (headwear)", ("cap (headwear)", "hat (headwear)", "hat")),
    ]
    assert prompt_phrases(categories) == [("bottle cap",), ("cap",)]
    assert prompt_phrases(categories, use_synonyms=True) == [
        ("bottle cap", "cap (container lid)"),  # "cap" is the other category's
        ("cap", "cap (headwear)", "hat"),
    ]


def test_a_name_that_is_all_qualifier_stays():
    assert prompt_phrases([Category("(unknown)")]) == [("(unknown)",)]


def test_no_categories():
    assert prompt_phrases([]) == []


def test_text_file(tmp_path):
    file = tmp_path / "names.txt"
    file.write_text(
        "\ufeff# a comment\n\nfire_hydrant\n  cat ,kitty,  house_cat, cat\nC#-tuner\n  # no dog\n"
        "item #5\nw/o lid\n",
        encoding="utf-8",
    )
    assert load_categories(file) == [
        Category("fire hydrant"),
        Category("cat", ("kitty", "house cat")),
        Category("C#-tuner"),
        Category("item #5"),
        Category("w/o lid"),
    ]


@pytest.mark.parametrize("text", ["person,car,dog\n", "# to find\n\n person, car , dog"])
def test_commas_in_the_only_line_are_ambiguous(tmp_path, text):
    file = tmp_path / "names.txt"
    file.write_text(text)
    with pytest.raises(ValueError, match="names.txt has commas.*one a line") as error:
        load_categories(file)
    # Both forms that the message tells do work.
    form = str(error.value).partition("write .json: ")[2]
    (tmp_path / "one.json").write_text(form)
    assert load_categories(tmp_path / "one.json") == [Category("person", ("car", "dog"))]
    file.write_text("person\ncar\ndog\n")
    assert names_of(file) == ["person", "car", "dog"]


def test_one_line_without_a_second_word_is_one_category(tmp_path):
    (tmp_path / "names.txt").write_text("traffic cone,\n")
    assert load_categories(tmp_path / "names.txt") == [Category("traffic cone")]


def test_json_file_is_ordered_by_id(tmp_path):
    file = tmp_path / "instances.json"
    entries = [
        {"id": 7, "name": "dog", "synonyms": ["dog", "hound"]},
        {"id": 2, "name": "traffic_light"},
        {"id": 3, "name": "sky", "isthing": 0},
    ]
    file.write_text(json.dumps({"images": [], "categories": entries}))
    assert load_categories(str(file)) == [Category("traffic light"), Category("dog", ("hound",))]


def test_real_annotation_files(mini_datasets):
    lvis = load_categories(mini_datasets / "lvis" / "lvis_v1_val.json")
    assert lvis == load_categories("lvis_v1")
    coco = load_categories(mini_datasets / "coco" / "annotations" / "instances_train2017.json")
    assert coco == load_categories("coco")


@pytest.mark.parametrize(
    "name, content, message",
    [
        ("a.txt", "# nothing\n", "no category names"),
        ("a.txt", "dog\ncat\nDog\n", "0 and 2 have the same name 'Dog'"),
        ("a.txt", "dog\n , hound\n", "category 1 has an empty name"),
        ("a.json", "{", "can't be read as category names"),
        ("a.json", "[]", "can't be read as category names"),
        ("a.json", '{"images": []}', "KeyError: 'categories'"),
        ("a.json", '{"categories": ["dog"]}', "can't be read as category names"),
        ("a.json", '{"categories": [{"id": 1, "name": null}]}', "can't be read as category names"),
        ("a.json", '{"categories": []}', "no category names"),
    ],
)
def test_unusable_files_are_refused(tmp_path, name, content, message):
    file = tmp_path / name
    file.write_text(content)
    with pytest.raises(ValueError, match=message) as error:
        load_categories(file)
    assert str(file) in str(error.value)


def test_binary_file_is_refused(tmp_path):
    file = tmp_path / "names.txt"
    file.write_bytes(b"\xff\xfe\x80dog")
    with pytest.raises(ValueError, match="can't be read as category names"):
        load_categories(file)


def test_unknown_source():
    with pytest.raises(FileNotFoundError, match="'lvis'.*lvis_v1, coco, voc, objects365"):
        load_categories("lvis")


def test_parse_vocabulary(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("names").write_text("cat")
    assert parse_vocabulary(" red shoe,traffic cone ,") == ["red shoe", "traffic cone"]
    assert parse_vocabulary("cat") == ["cat"]
    for kept in ("coco", "names", "gone.txt", "a, b.safetensors"):
        assert parse_vocabulary(kept) == kept
    many = [f"thing {i}" for i in range(1000)]  # longer than a file's name may be
    assert parse_vocabulary(", ".join(many)) == many


@pytest.mark.parametrize(
    "name",
    ["No. 5 bolt", "w/o lid", "1/2 inch pipe", "Dr. Pepper", "3.5 mm jack", "size 4.5", "item #5"],
)
def test_names_with_dots_and_slashes_are_names(name):
    assert parse_vocabulary(name) == [name]
    assert parse_vocabulary(f"cat, {name}") == ["cat", name]


@pytest.mark.parametrize("file", ["coco.nmes", "names/mine", "./my names", "~/x", "/a b/c", "a/"])
def test_a_file_that_is_not_there_is_no_name(file):
    with pytest.raises(FileNotFoundError, match=f"no file '{file}'.*put a comma behind it"):
        parse_vocabulary(file)
    assert parse_vocabulary(f"{file},") == [file]
