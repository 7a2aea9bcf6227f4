"""Prompt templates: the sentences that a category's name is put into before CLIP reads it.

A template holds ``{}`` where the name goes and may hold ``{article}`` where "a" or "an" goes.
"""

import re
from collections.abc import Sequence

# OpenAI's ensemble for ImageNet. The article is a plain "a" there, and stays so.
_IMAGENET = """\
a bad photo of a {}.
a photo of many {}.
a sculpture of a {}.
a photo of the hard to see {}.
a low resolution photo of the {}.
a rendering of a {}.
graffiti of a {}.
a bad photo of the {}.
a cropped photo of the {}.
a tattoo of a {}.
the embroidered {}.
a photo of a hard to see {}.
a bright photo of a {}.
a photo of a clean {}.
a photo of a dirty {}.
a dark photo of the {}.
a drawing of a {}.
a photo of my {}.
the plastic {}.
a photo of the cool {}.
a close-up photo of a {}.
a black and white photo of the {}.
a painting of the {}.
a painting of a {}.
a pixelated photo of the {}.
a sculpture of the {}.
a bright photo of the {}.
a cropped photo of a {}.
a plastic {}.
a photo of the dirty {}.
a jpeg corrupted photo of a {}.
a blurry photo of the {}.
a photo of the {}.
a good photo of the {}.
a rendering of the {}.
a {} in a video game.
a photo of one {}.
a doodle of a {}.
a close-up photo of the {}.
a photo of a {}.
the origami {}.
the {} in a video game.
a sketch of a {}.
a doodle of the {}.
a origami {}.
a low resolution photo of a {}.
the toy {}.
a rendition of the {}.
a photo of the clean {}.
a photo of a large {}.
a rendition of a {}.
a photo of a nice {}.
a photo of a weird {}.
a blurry photo of a {}.
a cartoon {}.
art of a {}.
a sketch of the {}.
a embroidered {}.
a pixelated photo of a {}.
itap of the {}.
a jpeg corrupted photo of the {}.
a good photo of a {}.
a plushie {}.
a photo of the nice {}.
a photo of the small {}.
a photo of the weird {}.
the cartoon {}.
art of the {}.
a drawing of the {}.
a photo of the large {}.
a black and white photo of a {}.
the plushie {}.
a dark photo of a {}.
itap of a {}.
graffiti of the {}.
a toy {}.
itap of my {}.
a photo of a cool {}.
a photo of a small {}.
a tattoo of the {}."""

# ViLD's ensemble, with the "This is" that its authors' code puts before every phrase of the list
# that opens with an article.
_VILD = """\
There is {article} {} in the scene.
There is the {} in the scene.
This is a photo of {article} {} in the scene.
This is a photo of the {} in the scene.
This is a photo of one {} in the scene.
itap of {article} {}.
itap of my {}.
itap of the {}.
This is a photo of {article} {}.
This is a photo of my {}.
This is a photo of the {}.
This is a photo of one {}.
This is a photo of many {}.
This is a good photo of {article} {}.
This is a good photo of the {}.
This is a bad photo of {article} {}.
This is a bad photo of the {}.
This is a photo of a nice {}.
This is a photo of the nice {}.
This is a photo of a cool {}.
This is a photo of the cool {}.
This is a photo of a weird {}.
This is a photo of the weird {}.
This is a photo of a small {}.
This is a photo of the small {}.
This is a photo of a large {}.
This is a photo of the large {}.
This is a photo of a clean {}.
This is a photo of the clean {}.
This is a photo of a dirty {}.
This is a photo of the dirty {}.
This is a bright photo of {article} {}.
This is a bright photo of the {}.
This is a dark photo of {article} {}.
This is a dark photo of the {}.
This is a photo of a hard to see {}.
This is a photo of the hard to see {}.
This is a low resolution photo of {article} {}.
This is a low resolution photo of the {}.
This is a cropped photo of {article} {}.
This is a cropped photo of the {}.
This is a close-up photo of {article} {}.
This is a close-up photo of the {}.
This is a jpeg corrupted photo of {article} {}.
This is a jpeg corrupted photo of the {}.
This is a blurry photo of {article} {}.
This is a blurry photo of the {}.
This is a pixelated photo of {article} {}.
This is a pixelated photo of the {}.
This is a black and white photo of the {}.
This is a black and white photo of {article} {}.
This is a plastic {}.
This is the plastic {}.
This is a toy {}.
This is the toy {}.
This is a plushie {}.
This is the plushie {}.
This is a cartoon {}.
This is the cartoon {}.
This is an embroidered {}.
This is the embroidered {}.
This is a painting of the {}.
This is a painting of a {}."""

TEMPLATES: dict[str, tuple[str, ...]] = {
    "single": ("a photo of a {}.",),  # the CLIP paper's default
    "name": ("a {}",),  # the tables that Detic publishes, "*_a+cname.npy"
    "imagenet": tuple(_IMAGENET.splitlines()),
    "vild": tuple(_VILD.splitlines()),
}

# "an" goes by sound: "an hourglass" and "an 8-ball", but "a unicycle", "a ewer" and "a onesie".
_OPENS_WITH_VOWEL = re.compile(
    r"(?!uni|uk|ur[ei]|use|ut[ei]|eu|ewe|one)[aeiou]|hour|heir|8|1[18]\b"
)
_LETTERS_WITH_VOWEL = "AEFHILMNORSX"  # "an SUV", but "a CD player"


def get_templates(templates: str | Sequence[str]) -> tuple[str, ...]:
    """The templates of a set's name in ``TEMPLATES``, or the given templates themselves, checked.

    Raises:
        ValueError: there is no such set, no template, or one without ``{}``.
    """
    if isinstance(templates, str):
        if templates not in TEMPLATES:
            raise ValueError(f"No templates '{templates}'; there are {', '.join(TEMPLATES)}.")
        return TEMPLATES[templates]
    if not templates:
        raise ValueError("The list of prompt templates is empty; give at least '{}'.")
    for template in templates:
        if "{}" not in template:
            raise ValueError(f"Prompt template {template!r} has no '{{}}' for the name.")
    return tuple(templates)


def article(name: str) -> str:
    """The indefinite article for a name, "a" or "an", by how its first word is spoken."""
    word = re.match(r"\w*", name)[0]
    if word.isupper():
        return "an" if word[0] in _LETTERS_WITH_VOWEL else "a"
    return "an" if _OPENS_WITH_VOWEL.match(name.lower()) else "a"


def render_prompts(name: str, templates: str | Sequence[str]) -> list[str]:
    """Put a name into each template, in the templates' order.

    A capital stays as it is: CLIP's tokenizer lower-cases the prompt.
    """
    return [template.format(name, article=article(name)) for template in get_templates(templates)]
