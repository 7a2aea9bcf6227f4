"""A page of tables and pictures that stands alone: style and pictures are in it, and it fetches
nothing."""

import base64
import io
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from PIL import Image

from gridclip.files import replacing

Cell = str | int | float | None


@dataclass(frozen=True)
class Figure:
    """A PNG or JPEG file, shrunk to ``max_width`` pixels in the page; the caption is its text
    for those who can't see it, too."""

    path: Path
    caption: str
    max_width: int = 1500


@dataclass(frozen=True)
class Table:
    """Cells as :func:`cell` writes them. With a summary it is folded until one clicks on that."""

    headers: Sequence[str]
    rows: Sequence[Sequence[Cell]]
    summary: str | None = None


Content = str | Figure | Table


@dataclass(frozen=True)
class Section:
    """A part of a page; ``contents`` in their order, a string being a paragraph."""

    title: str
    contents: Sequence[Content]


def write_page(path: Path, title: str, lead: str, sections: Sequence[Section]) -> None:
    """Write the page as HTML.

    Raises:
        FileNotFoundError: a picture does not exist; names the file.
    """
    environment = page_environment(Path(__file__).parent)
    environment.tests.update(
        figure=lambda x: isinstance(x, Figure), table=lambda x: isinstance(x, Table)
    )
    template = environment.get_template("page.html.j2")
    html = template.render(title=title, lead=lead, sections=sections)
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8")


def page_environment(templates: Path) -> Environment:
    """Jinja2's, for the templates of a folder, with the filters ``cell``, ``numeric_columns`` and
    ``data_uri``."""
    environment = Environment(
        loader=FileSystemLoader(templates),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters.update(cell=cell, numeric_columns=numeric_columns, data_uri=data_uri)
    return environment


def cell(value: Cell) -> str:
    """A table's value as text: floats with one decimal, None and NaN as a dash."""
    if value is None or value != value:
        return "–"
    return f"{value:.1f}" if isinstance(value, float) else str(value)


def numeric_columns(rows: Sequence[Sequence]) -> set[int]:
    """Indices of the columns that hold no text."""
    columns = enumerate(zip(*rows, strict=True))
    return {i for i, column in columns if not any(isinstance(value, str) for value in column)}


def data_uri(picture: str | os.PathLike, max_width: int) -> str:
    """A PNG or JPEG file as a data URI of the same format, at most ``max_width`` pixels wide."""
    content = Path(picture).read_bytes()
    with Image.open(io.BytesIO(content)) as image:
        kind = image.format
        assert kind in ("PNG", "JPEG"), f"{picture} is a {kind}"
        if image.width > max_width:
            height = round(image.height * max_width / image.width)
            smaller = io.BytesIO()
            shrunk = image.resize((max_width, height), Image.Resampling.LANCZOS)
            options = {"quality": 85} if kind == "JPEG" else {"optimize": True}
            shrunk.save(smaller, kind, **options)
            content = smaller.getvalue()
    return f"data:image/{kind.lower()};base64,{base64.b64encode(content).decode('ascii')}"
