"""What the page does for a person. Nothing of a person is kept here: the page's session has it."""

import functools
import html
import logging
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import gradio as gr
from gradio.processing_utils import save_bytes_to_cache
from gradio.utils import get_upload_folder
from PIL import Image

from gridclip.predictor import Predictor
from page.given import (
    MAX_EXAMPLES,
    Drawing,
    Example,
    Queries,
    check_picture,
    make_queries,
    make_view,
)
from page.taken import DOWNLOADS, Found

MAX_SECONDS = 60

logger = logging.getLogger("gridclip.app")
Result = TypeVar("Result")


def shown_to_the_person(action: Callable[..., Result]) -> Callable[..., Result]:
    """Errors that say what is wrong become the page's message, without a traceback."""

    @functools.wraps(action)
    def run(*args: Any) -> Result:
        try:
            return action(*args)
        except (OSError, ValueError, RuntimeError) as error:
            # Where an upload lies is of no use to the person.
            text = re.sub(rf"{re.escape(get_upload_folder())}/(\w+/)?", "", str(error))
            logger.warning("refused: %s", text)
            raise gr.Error(html.escape(text), print_exception=False) from None

    return run


class Actions:
    """The page's actions, on one detector that all people share."""

    def __init__(self, predictor: Predictor):
        self.predictor = predictor
        # One picture at a time: a detector uses all cores, or the whole GPU.
        self._worker = ThreadPoolExecutor(1, "detector")

    @shown_to_the_person
    def find(
        self,
        path: str | None,
        words: str,
        examples: Sequence[Example],
        own: tuple[Queries, Predictor] | None,
    ) -> tuple[Found, tuple[Queries, Predictor]]:
        """
        Args:
            path: of the picture.
            words: between commas; without words and examples the detector's own vocabulary counts.
            examples: of what is looked for.
            own: what this person looked for last, and the predictor that did.

        Returns:
            What was found, and the new ``own``.
        """
        if path is None:
            raise ValueError("Choose a picture first.")
        check_picture(path)
        queries = make_queries(words, examples)

        def work() -> Found:
            predictor = self._with(queries, own)
            start = time.perf_counter()
            prediction = predictor(path)
            seconds = time.perf_counter() - start
            return Found(predictor, path, make_view(path)[0], prediction, seconds)

        found = self._within_limit(work)
        return found, (queries, found.predictor)

    def _with(self, queries: Queries, own: tuple[Queries, Predictor] | None) -> Predictor:
        if not queries:
            return self.predictor
        if own is not None and own[0] == queries:
            return own[1]  # CLIP need not embed them again
        return self.predictor.with_vocabulary(queries)

    def _within_limit(self, work: Callable[[], Result]) -> Result:
        future = self._worker.submit(work)
        try:
            return future.result(MAX_SECONDS)
        except TimeoutError:
            future.cancel()
            raise RuntimeError(
                f"It took longer than {MAX_SECONDS} s: take fewer names, or try again later."
            ) from None

    def show(
        self, found: Found | None, threshold: float
    ) -> tuple[Image.Image | None, str, list[list[str]]]:
        """The picture with its boxes, a line about it, and the table's rows. No model runs."""
        if found is None:
            return None, "", []
        rows = found.prediction.above(threshold).to_dicts()
        count, milliseconds = len(found.prediction), 1000 * found.seconds
        text = (
            f"**{len(rows)}** of {count} detections score {threshold:.2f} or more. "
            f"The detector took {milliseconds:.0f} ms."
        )
        if count and not rows:
            text += " Lower the least score to see some."
        if any(row.get("novel") for row in rows):
            text += " ★ marks names that no training picture was annotated with."
        table = [
            [
                f"★ {row['name']}" if row.get("novel") else row["name"],
                f"{row['score']:.2f}",
                ", ".join(f"{x:.0f}" for x in row["box"]),
            ]
            for row in rows
        ]
        return found.draw_view(threshold), text, table

    @shown_to_the_person
    def download(self, kind: str, found: Found | None, threshold: float) -> str:
        """The path of a file of that kind, which the browser takes."""
        if found is None:
            raise ValueError("There is nothing to download yet: press Find first.")
        ending, make = DOWNLOADS[kind]
        name = f"{Path(found.path).stem}_{ending}"
        return save_bytes_to_cache(make(found, threshold), name, get_upload_folder())

    @shown_to_the_person
    def draw_on(self, path: str | None) -> tuple[Drawing | None, Image.Image | None]:
        """A picture to draw a box in. Refuses what is not usable as a picture at all."""
        if path is None:
            return None, None
        drawing = Drawing.on(path)
        return drawing, drawing.draw()

    @shown_to_the_person
    def click(
        self, drawing: Drawing | None, event: gr.SelectData
    ) -> tuple[Drawing | None, Image.Image | None]:
        if drawing is None:
            return None, None
        drawing = drawing.clicked(tuple(event.index))
        return drawing, drawing.draw()

    @shown_to_the_person
    def add_example(
        self, drawing: Drawing | None, label: str, examples: Sequence[Example]
    ) -> tuple[tuple[Example, ...], Drawing, Image.Image, str]:
        """Returns all examples, the drawing without its box, and an empty label."""
        if drawing is None:
            raise ValueError("Choose a picture first.")
        if len(examples) >= MAX_EXAMPLES:
            raise ValueError(f"{MAX_EXAMPLES} examples are the most: remove one first.")
        examples = (*examples, drawing.example(label))
        drawing = drawing._replace(corners=())
        return examples, drawing, drawing.draw(), ""
