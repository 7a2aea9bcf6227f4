"""A report as one HTML page that stands alone: style and pictures are in the file."""

import base64
import io
import os
from collections.abc import Sequence
from html import escape
from pathlib import Path

from PIL import Image

# Nothing is fetched, whatever a page says.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"
_STYLE = """
:root { color-scheme: light dark; --ink: #1f2328; --soft: #5c6570; --line: #d9dde2;
  --paper: #ffffff; --card: #f6f7f9; --novel: #b85c00; --bar: #4a7fb5; }
@media (prefers-color-scheme: dark) { :root { --ink: #e4e7eb; --soft: #a0a8b3; --line: #363c45;
  --paper: #15181c; --card: #1e2228; --novel: #ffa24d; --bar: #6fa3d8; } }
* { box-sizing: border-box; }
body { margin: 0 auto; padding: 3rem 1.25rem 4rem; max-width: 62rem; background: var(--paper);
  color: var(--ink); font: 1rem/1.6 system-ui, sans-serif; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0 0 .75rem; font-weight: 650; }
h2 { font-size: 1.25rem; margin: 3rem 0 .5rem; font-weight: 600; }
h3 { font-size: 1rem; margin: 1.5rem 0 .5rem; font-weight: 600; }
p { max-width: 44rem; margin: .5rem 0; }
.lead { font-size: 1.1rem; }
summary, .soft, figcaption { color: var(--soft); font-size: .9rem; }
.novel { color: var(--novel); }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; margin: 1rem 0; font-variant-numeric: tabular-nums; }
th, td { padding: .35rem 1.1rem .35rem 0; text-align: left; border-bottom: 1px solid var(--line);
  vertical-align: top; }
th { font-weight: 600; color: var(--soft); font-size: .9rem; }
td.number, th.number { text-align: right; }
figure { margin: 1rem 0; }
img { display: block; max-width: 100%; height: auto; border-radius: 6px; }
figcaption { margin-top: .35rem; }
.grid { display: grid; gap: 1rem; grid-template-columns: repeat(auto-fill, minmax(9rem, 1fr)); }
.grid figure { margin: 0; }
.figures { display: flex; flex-wrap: wrap; gap: 1rem; margin: 1.25rem 0; }
.figures div { background: var(--card); border-radius: 8px; padding: .8rem 1.2rem; }
.figures b { display: block; font-size: 1.5rem; font-weight: 600; line-height: 1.3; }
.figures span { color: var(--soft); font-size: .9rem; }
code, pre { font: .88em/1.5 ui-monospace, monospace; background: var(--card); border-radius: 4px; }
code { padding: .1em .3em; overflow-wrap: anywhere; }
pre { padding: 1rem; overflow-x: auto; }
summary { cursor: pointer; color: var(--soft); margin: 1rem 0; }
"""


def page(title: str, *parts: str) -> str:
    """A whole HTML document.

    Args:
        title: text.
        parts: HTML, as the other functions make it.
    """
    return (
        f'<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n"
        f"<h1>{escape(title)}</h1>\n" + "\n".join(parts) + "\n</body>\n</html>\n"
    )


def section(heading: str, *parts: str) -> str:
    return "\n".join([f"<section>\n<h2>{escape(heading)}</h2>", *parts, "</section>"])


def paragraph(text: str, css_class: str = "") -> str:
    """Text; `code` between backquotes."""
    pieces = escape(text).split("`")
    html = "".join(f"<code>{p}</code>" if i % 2 else p for i, p in enumerate(pieces))
    return f'<p class="{css_class}">{html}</p>' if css_class else f"<p>{html}</p>"


def table(headers: Sequence[str], rows: Sequence[Sequence[str | int | float | None]]) -> str:
    """Numbers are set to the right, floats with one decimal; None is a dash."""
    numeric = [
        all(not isinstance(row[i], str) for row in rows) and bool(rows) for i in range(len(headers))
    ]
    head = "".join(_cell("th", h, n) for h, n in zip(headers, numeric, strict=True))
    body = "".join(
        "<tr>" + "".join(_cell("td", v, n) for v, n in zip(row, numeric, strict=True)) + "</tr>\n"
        for row in rows
    )
    return f'<div class="scroll"><table>\n<tr>{head}</tr>\n{body}</table></div>'


def _cell(tag: str, value: str | int | float | None, numeric: bool) -> str:
    if value is None:
        value = "–"
    text = f"{value:.1f}" if isinstance(value, float) else escape(str(value))
    return f'<{tag} class="number">{text}</{tag}>' if numeric else f"<{tag}>{text}</{tag}>"


def details(summary: str, *parts: str) -> str:
    """Something long, shown on a click."""
    return f"<details><summary>{escape(summary)}</summary>\n" + "\n".join(parts) + "\n</details>"


def key_figures(figures: Sequence[tuple[str, str]]) -> str:
    """A few numbers, large, each with what it is."""
    cells = "".join(
        f"<div><b>{escape(value)}</b><span>{escape(name)}</span></div>" for value, name in figures
    )
    return f'<div class="figures">{cells}</div>'


def figure(picture: str | os.PathLike, caption: str = "", max_width: int = 1500) -> str:
    """A picture file, PNG or JPEG, shrunk to ``max_width`` pixels, with a caption below.

    Raises:
        FileNotFoundError: there is no such picture.
    """
    below = f"\n<figcaption>{escape(caption)}</figcaption>" if caption else ""
    alt = escape(caption or Path(picture).stem)
    return f'<figure><img alt="{alt}" src="{data_uri(picture, max_width)}">{below}</figure>'


def figure_grid(figures: Sequence[str]) -> str:
    """Small figures side by side."""
    return '<div class="grid">' + "\n".join(figures) + "</div>"


def data_uri(picture: str | os.PathLike, max_width: int) -> str:
    """A picture file as a data URI, in the file's format."""
    with Image.open(picture) as image:
        kind = image.format
        if image.width > max_width:
            height = round(image.height * max_width / image.width)
            image = image.resize((max_width, height), Image.Resampling.LANCZOS)
        content = io.BytesIO()
        image.save(content, kind, **({"quality": 85} if kind == "JPEG" else {"optimize": True}))
    encoded = base64.b64encode(content.getvalue()).decode("ascii")
    return f"data:image/{kind.lower()};base64,{encoded}"
