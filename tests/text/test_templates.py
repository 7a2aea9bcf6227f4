import pytest
from open_clip.zero_shot_metadata import OPENAI_IMAGENET_TEMPLATES

from gridclip.text.templates import TEMPLATES, article, get_templates, render_prompts


def test_imagenet_templates_are_openais():
    assert render_prompts("tench", "imagenet") == [t("tench") for t in OPENAI_IMAGENET_TEMPLATES]


@pytest.mark.parametrize(
    "name, count", [("single", 1), ("name", 1), ("imagenet", 80), ("vild", 63)]
)
def test_sets_hold_distinct_prompts(name, count):
    prompts = render_prompts("apple", name)
    assert len(set(prompts)) == len(prompts) == count
    assert all("apple" in prompt and "{" not in prompt for prompt in prompts)


def test_detics_prompt_has_a_plain_article():
    assert render_prompts("apple", "name") == ["a apple"]


def test_vild_prompts_take_the_article_of_the_name():
    apple, dog = render_prompts("apple", "vild"), render_prompts("dog", "vild")
    assert apple[0] == "There is an apple in the scene."
    assert dog[0] == "There is a dog in the scene."
    assert apple[2] == "This is a photo of an apple in the scene."
    assert "itap of an apple." in apple and "itap of a dog." in dog
    # Only what opens with an article gets "This is".
    assert {prompt.split()[0] for prompt in apple} == {"There", "itap", "This"}


@pytest.mark.parametrize(
    "name, expected",
    [
        ("dog", "a"), ("umbrella", "an"), ("Apple", "an"), ("Bible", "a"), ("iPod", "an"),
        ("unicycle", "a"), ("urinal", "a"), ("urn", "an"), ("ewer", "a"), ("onion", "an"),
        ("hourglass", "an"), ("horse", "a"), ("eyepatch", "an"), ("CD player", "a"),
        ("SUV", "an"), ("TV monitor", "a"), ("X-ray", "an"), ("T-shirt", "a"),
        ("8-ball", "an"), ("18-wheeler", "an"), ("2x4 plank", "a"), ("1800s lamp", "a"),
        ("(thing)", "a"), ("", "a"),
    ],
)  # fmt: skip
def test_article(name, expected):
    assert article(name) == expected


def test_own_templates_and_braces_in_names():
    assert render_prompts("{x}", ["{}, {article} one", "{}"]) == ["{x}, a one", "{x}"]


@pytest.mark.parametrize(
    "bad",
    [
        *("imagnet", [], ["a photo of a dog"], ["{}", "a {} of {}"], ["{0}"], ["{name} {}"]),
        *(["{} {"], ["{}}"], ["{{}} {}"], ["{:d}"], ["{article}"]),
    ],
)
def test_unusable_templates_are_refused(bad):
    with pytest.raises(ValueError, match="template"):
        get_templates(bad)


def test_templates_pass_through_unchanged():
    assert get_templates("vild") is TEMPLATES["vild"]
    own = ("the {}", "{article} {},\n{article} one")
    assert get_templates(own) == own
