"""Prompt templates: the sentences that a category's name is put into before CLIP reads it.

A template holds one ``{}``, where the name goes, and may hold ``{article}``, for "a" or "an".
"""

import re
from collections.abc import Sequence
from importlib import resources


def _read(name: str) -> tuple[str, ...]:
    path = resources.files("gridclip.text") / f"lists/{name}_templates.txt"
    return tuple(path.read_text(encoding="utf-8").splitlines())


TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),  # the CLIP paper's default
    "name": ("a {}",),  # the tables that Detic publishes, "*_a+cname.npy"
    # OpenAI's ensemble for ImageNet. Its article is always a plain "a".
    "imagenet": _read("imagenet"),
    # ViLD's ensemble. The authors' code puts "This is" before each phrase of their list that
    # starts with an article; the file has the sentences with it.
    "vild": _read("vild"),
}

# "an" goes by sound: "an hourglass" and "an 8-ball", but "a unicycle", "a ewer" and "a onesie".
_OPENS_WITH_VOWEL = re.compile(
    r"(?!uni|uk|ur[ei]|use|ut[ei]|eu|ewe|one)[aeiou]|hour|heir|8|1[18]\b"
)
_LETTERS_WITH_VOWEL = "AEFHILMNORSX"  # "an SUV", but "a CD player"
_TEMPLATE = re.compile(r"([^{}]|\{article\})*\{\}([^{}]|\{article\})*")


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of a set's name in ``TEMPLATES``, or the given templates themselves, checked.

    Raises:
        ValueError: there is no such set, no template, or one of another form.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(f"No templates '{templates}'; there are {', '.join(TEMPLATES)}.")
        return TEMPLATES[templates]
    if not templates:
        raise ValueError("The list of prompt templates is empty; give at least '{}'.")
    for text in templates:
        if not _TEMPLATE.fullmatch(text):
            raise ValueError(f"A template has one '{{}}' and may have '{{article}}', not {text!r}.")
    return tuple(templates)


def article(name: str) -> str:
    """The indefinite article for a name, "a" or "an", by how its first word is spoken."""
    word = re.split(r"\W", name, maxsplit=1)[0]
    if word.isupper():
        return "an" if word[0] in _LETTERS_WITH_VOWEL else "a"
    return "an" if _OPENS_WITH_VOWEL.match(name.lower()) else "a"


def render_prompts(name: str, templates: str | Sequence[str]) -> list[str]:
    """Put a name into each template, in the templates' order.

    A capital stays as it is: CLIP's tokenizer lower-cases the prompt.
    """
    return [template.format(name, article=article(name)) for template in get_templates(templates)]
