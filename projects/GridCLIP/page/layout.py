"""The page itself: what stands where, and which action follows what."""

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import gradio as gr

from gridclip.prediction import shorten
from gridclip.predictor import Predictor
from page.actions import Actions
from page.given import Example
from page.taken import DOWNLOADS

MAX_FILE_SIZE = "20mb"
_SCORE = 0.3  # the slider's at first

# The system's own fonts: the page needs no network.
_FONT = ["system-ui", "sans-serif"]
_CSS = """
#canvas img { cursor: crosshair }
#picture img { width: 100%; height: 100%; object-fit: contain }
#gallery .grid-container { grid-template-columns: repeat(4, 1fr) }
"""

# A browser downloads on a click alone: the button makes the file, and then clicks the hidden one.
_PRESS = "() => setTimeout(() => document.querySelector('#file').click(), 200)"
# On a narrow screen the answer is below the question.
_LOOK = "() => document.querySelector('#drawn').scrollIntoView({block: 'nearest'})"


class Page:
    """The page of one detector, which all people share.

    Attributes:
        blocks: for Gradio.
    """

    def __init__(self, predictor: Predictor, samples: Sequence[Path] = ()):
        """``samples`` are pictures to pick."""
        self.actions = Actions(predictor)
        with gr.Blocks(
            title="GridCLIP", analytics_enabled=False, delete_cache=(3600, 86400)
        ) as self.blocks:
            # Of each person: the picture's path, the words with their predictor, what was found,
            # the box that is being drawn, and the examples.
            self.path, self.own, self.found, self.drawing = (gr.State() for _ in range(4))
            self.examples = gr.State(())
            gr.Markdown("# GridCLIP\nChoose a picture, and name or show what to look for in it.")
            with gr.Row():
                with gr.Column():
                    self._question(samples)
                    with gr.Accordion("Show an example", open=False, elem_id="example"):
                        self._example()
                with gr.Column():
                    self._answer()
            self._follow()

    def _question(self, samples: Sequence[Path]) -> None:
        self.picture = gr.Image(
            label="Picture",
            type="filepath",
            sources=["upload", "clipboard"],
            height=300,
            elem_id="picture",
        )
        if samples:
            gr.Examples([[str(sample)] for sample in samples], self.picture, label="Samples")
        names = self.actions.predictor.names
        self.words = gr.Textbox(
            label="Words, between commas",
            placeholder=f"if empty, the detector's own {len(names)}: {shorten(names)}",
            max_lines=6,
            max_length=10_000,
            elem_id="words",
        )
        self.find = gr.Button("Find", variant="primary", elem_id="find")

    def _example(self) -> None:
        gr.Markdown("Click two opposite corners of a box around it, and give it a name.")
        self.canvas = gr.Image(
            format="jpeg", interactive=False, show_label=False, buttons=[], elem_id="canvas"
        )
        self.other = gr.UploadButton(
            "Draw in another picture", file_types=["image"], size="sm", elem_id="other"
        )
        self.label = gr.Textbox(label="Name of the example", max_length=200, elem_id="label")
        self.add = gr.Button("Add the example", elem_id="add")
        self.gallery = gr.Gallery(
            label="Examples: choose one to remove it",
            columns=4,
            height=160,
            object_fit="contain",
            allow_preview=False,
            interactive=False,
            buttons=[],
            visible=False,
            elem_id="gallery",
        )

    def _answer(self) -> None:
        self.drawn = gr.Image(
            label="Found",
            format="jpeg",
            interactive=False,
            height=420,
            buttons=["fullscreen"],
            elem_id="drawn",
        )
        self.score = gr.Slider(0, 1, _SCORE, step=0.01, label="Least score", elem_id="score")
        self.summary = gr.Markdown(elem_id="summary")
        self.table = gr.Dataframe(
            headers=["name", "score", "x0, y0, x1, y1"],
            interactive=False,
            max_height=300,
            elem_id="table",
        )
        gr.Markdown("Download what is shown:")
        with gr.Row():
            self.downloads = {
                kind: gr.Button(kind, size="sm", min_width=80, elem_id=f"download-{kind.lower()}")
                for kind in DOWNLOADS
            }
        self.file = gr.DownloadButton(visible="hidden", elem_id="file")

    def _follow(self) -> None:
        """Which action follows what."""
        do, view = self.actions, [self.drawn, self.summary, self.table]
        private: dict[str, Any] = dict(api_visibility="private")
        drawing = [self.drawing, self.canvas]

        # preprocess=False: Gradio would open a picture before its size is known.
        gr.on(
            [self.picture.change],
            lambda upload: (_path(upload), None, *do.show(None, _SCORE)),
            self.picture,
            [self.path, self.found, *view],
            preprocess=False,
            **private,
        ).then(do.draw_on, self.path, drawing, **private)
        gr.on(
            [self.find.click, self.words.submit],
            do.find,
            [self.path, self.words, self.examples, self.own],
            [self.found, self.own],
            show_progress_on=self.drawn,
            concurrency_limit=1,  # as the detector takes them
            **private,
        ).success(do.show, [self.found, self.score], view, **private).success(
            None, js=_LOOK, **private
        )
        self.score.change(
            do.show,
            [self.found, self.score],
            view,
            trigger_mode="always_last",
            show_progress="hidden",
            **private,
        )
        for kind, button in self.downloads.items():
            button.click(
                partial(do.download, kind), [self.found, self.score], self.file, **private
            ).success(None, js=_PRESS, **private)

        self.other.upload(
            lambda upload: do.draw_on(_path(upload)),
            self.other,
            drawing,
            preprocess=False,
            **private,
        )
        self.canvas.select(do.click, self.drawing, drawing, show_progress="hidden", **private)
        gr.on(
            [self.add.click, self.label.submit],
            do.add_example,
            [self.drawing, self.label, self.examples],
            [self.examples, *drawing, self.label],
            **private,
        )
        self.gallery.select(_without, self.examples, self.examples, **private)
        self.examples.change(_show_examples, self.examples, self.gallery, **private)


def _path(upload: dict | None) -> str | None:
    return None if upload is None else upload["path"]


def _without(examples: tuple[Example, ...], event: gr.SelectData) -> tuple[Example, ...]:
    return tuple(example for i, example in enumerate(examples) if i != event.index)


def _show_examples(examples: tuple[Example, ...]) -> dict:
    # selected_index: a click on the next one must count as a new choice.
    return gr.update(
        value=[(example.crop, example.label) for example in examples],
        visible=bool(examples),
        selected_index=None,
    )


def serve(page: Page, host: str, port: int) -> str:
    """Start a thread that serves the page, and nothing to anyone outside of ``host``.

    Returns:
        The page's address.

    Raises:
        OSError: the port is in use.
    """
    page.blocks.queue(max_size=20, default_concurrency_limit=4)
    try:
        _, url, _ = page.blocks.launch(
            server_name=host,
            server_port=port,
            prevent_thread_lock=True,
            quiet=True,
            share=False,
            ssr_mode=False,
            pwa=False,
            mcp_server=False,
            enable_monitoring=False,
            run_history=False,
            footer_links=[],
            max_file_size=MAX_FILE_SIZE,
            state_session_capacity=100,
            theme=gr.themes.Default(font=_FONT, font_mono=["ui-monospace", "monospace"]),
            css=_CSS,
        )
    except OSError as error:
        raise OSError(f"Port {port} of {host} is in use: choose another by --port.") from error
    return url
