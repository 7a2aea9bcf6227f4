"""The page as a person uses it, in Chromium. Skipped where there is none."""

import json
import re
import shutil
import socket
from pathlib import Path

import pytest
from PIL import Image
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

from gridclip.predictor import Predictor
from page import layout

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(CHROMIUM is None, reason="Chromium is not installed"),
]
WIDE, NARROW = (1280, 900), (390, 844)


@pytest.fixture(scope="module")
def browser():
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def samples(tmp_path_factory):
    folder = tmp_path_factory.mktemp("samples")
    for name, size in (("street.png", (120, 90)), ("desk.png", (96, 96))):
        Image.effect_noise(size, 60).convert("RGB").save(folder / name)
    return [folder / "street.png", folder / "desk.png"]


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


@pytest.fixture(scope="module")
def address(predictor, samples, tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("GRADIO_TEMP_DIR", str(tmp_path_factory.mktemp("uploads")))
        page = layout.Page(predictor, samples)
        yield layout.serve(page, "127.0.0.1", free_port())
        page.blocks.close()


@pytest.fixture
def visit(browser: Browser, address):
    """Opens the page for a person of their own; at the end it has asked no other machine."""
    contexts, requests = [], []
    expect.set_options(timeout=15_000)  # the machine may be busy

    def visit(size=WIDE, **options) -> Page:
        width, height = size
        context = browser.new_context(viewport={"width": width, "height": height}, **options)
        contexts.append(context)
        page = context.new_page()
        page.on("request", lambda request: requests.append(request.url))
        page.goto(address)
        expect(page.locator("#find")).to_be_visible()
        return page

    yield visit
    for context in contexts:
        context.close()
    outside = [url for url in requests if not url.startswith((address, "data:", "blob:"))]
    assert requests and not outside


@pytest.fixture
def calls(monkeypatch):
    """The pictures that the detector has been given."""
    calls = []
    stream = Predictor.stream

    def counted(self, pictures, **options):
        calls.append(pictures)
        return stream(self, pictures, **options)

    monkeypatch.setattr(Predictor, "stream", counted)
    return calls


def upload(page: Page, picture: Path) -> None:
    page.set_input_files("#picture input[type=file]", picture)
    expect(page.locator("#picture img")).to_be_visible()


def find(page: Page, words: str = "") -> None:
    page.fill("#words textarea", words)
    page.click("#find")
    expect(page.locator("#summary")).to_contain_text("The detector took")


def shown(page: Page) -> int:
    """How many detections the page says that it shows."""
    return int(re.match(r"\d+", page.inner_text("#summary"))[0])


def row(page: Page, index: int) -> list[str]:
    cells = page.locator(f'#table [role=gridcell][data-row="{index}"]')
    return [text.strip() for text in cells.all_inner_texts()]


def download(page: Page, kind: str, folder: Path) -> Path:
    with page.expect_download() as given:
        page.click(f"#download-{kind}")
    path = folder / given.value.suggested_filename
    given.value.save_as(path)
    return path


@pytest.fixture
def names(tmp_path):
    """The names on a page, by its download: of the table only some rows are in the page."""

    def names(page: Page) -> set[str]:
        found = json.loads(download(page, "json", tmp_path).read_text())
        assert len(found["detections"]) == shown(page)
        return {detection["name"] for detection in found["detections"]}

    return names


def set_score(page: Page, score: float) -> None:
    number = page.locator("#score input[type=number]")
    number.fill(str(score))
    number.press("Enter")
    expect(page.locator("#summary")).to_contain_text(f"score {score:.2f} or more")


def click_at(image: Locator, x: float, y: float) -> None:
    """At a part of its width and height."""
    before = image.get_attribute("src")
    box = image.bounding_box()
    image.click(position={"x": x * box["width"], "y": y * box["height"]})
    expect(image).not_to_have_attribute("src", before)


def test_upload_type_see_move_download(visit, samples, calls, tmp_path):
    page = visit()
    upload(page, samples[0])
    find(page, "kite, red thing")
    set_score(page, 0)
    everything, drawn = shown(page), page.locator("#drawn img").get_attribute("src")
    best = float(row(page, 0)[1])
    assert everything > 10 and best > 0.1

    set_score(page, best - 0.01)
    expect(page.locator("#drawn img")).not_to_have_attribute("src", drawn)
    assert 0 < shown(page) < everything

    files = {kind: download(page, kind, tmp_path) for kind in ("json", "coco", "picture")}
    found, coco = (json.loads(files[kind].read_text()) for kind in ("json", "coco"))
    assert files["json"].name == "street_detections.json"
    assert (found["image"], found["width"], found["height"]) == ("street.png", 120, 90)
    assert len(found["detections"]) == len(coco["annotations"]) == shown(page)
    first = found["detections"][0]
    assert row(page, 0) == [
        "★ " * first["novel"] + first["name"],
        f"{first['score']:.2f}",
        ", ".join(f"{x:.0f}" for x in first["box"]),
    ]
    assert [c["name"] for c in coco["categories"]] == ["kite", "red thing"]
    assert Image.open(files["picture"]).size == (640, 480)  # enlarged
    assert len(calls) == 1  # neither the slider nor the downloads run the model


def test_pick_a_sample_without_words(visit, names, predictor, calls):
    page = visit()
    page.locator(".gallery-item").nth(1).click()
    expect(page.locator("#picture img")).to_be_visible()
    find(page)
    set_score(page, 0)
    assert set() < names(page) <= set(predictor.names)
    page.locator(".gallery-item").nth(0).click()  # another picture: what was found is gone
    expect(page.locator("#summary")).to_be_empty()
    assert len(calls) == 1


def test_paste(visit):
    page = visit(permissions=["clipboard-read", "clipboard-write"])
    page.evaluate(
        """async () => {
            const canvas = Object.assign(document.createElement("canvas"), {width: 64, height: 48});
            canvas.getContext("2d").fillRect(9, 9, 20, 20);
            const blob = await new Promise(done => canvas.toBlob(done, "image/png"));
            await navigator.clipboard.write([new ClipboardItem({"image/png": blob})]);
        }"""
    )
    page.locator("#picture .source-selection button").nth(1).click()
    expect(page.locator("#picture img")).to_have_js_property("naturalWidth", 64)
    find(page, "kite")


def test_show_an_example_and_remove_it(visit, names, samples, calls):
    page = visit()
    upload(page, samples[0])
    page.get_by_role("button", name="Show an example").click()
    canvas = page.locator("#canvas img")
    for label, (x0, y0, x1, y1) in {
        "thing": (0.2, 0.2, 0.6, 0.7),
        "other": (0.9, 0.8, 0.5, 0.4),
    }.items():
        click_at(canvas, x0, y0)
        click_at(canvas, x1, y1)
        page.fill("#label textarea, #label input", label)
        page.click("#add")
        expect(page.locator("#gallery")).to_contain_text(label)
    find(page, "kite")
    set_score(page, 0)
    ((only,),) = calls
    assert names(page) == {"kite", "thing", "other"}

    page.locator("#gallery button").filter(has_text="thing").click()
    expect(page.locator("#gallery")).not_to_contain_text("thing")
    with page.expect_file_chooser() as chooser:  # and one in another picture
        page.click("#other")
    chooser.value.set_files(samples[1])
    expect(canvas).to_have_js_property("naturalHeight", 640)
    click_at(canvas, 0.1, 0.1)
    click_at(canvas, 0.5, 0.5)
    page.fill("#label textarea, #label input", "Kite")
    page.click("#add")
    expect(page.locator("#gallery")).to_contain_text("Kite")
    page.click("#find")
    expect(page.locator("#table")).not_to_contain_text("thing")
    set_score(page, 0.01)
    assert names(page) == {"kite", "other"} and calls[1][0] == only


def test_two_people_keep_their_own_words(visit, names, samples):
    mine, theirs = visit(), visit()
    for page in (mine, theirs):
        upload(page, samples[0])
    find(mine, "kite, cat")
    find(theirs, "red shoe")
    set_score(mine, 0)
    set_score(theirs, 0)
    assert names(mine) == {"kite", "cat"} and names(theirs) == {"red shoe"}
    mine.click("#find")
    set_score(mine, 0.01)
    assert names(mine) == {"kite", "cat"}


@pytest.mark.parametrize("content", [b"no picture", b"P4\n90000 90000\n"])
def test_what_is_no_picture_or_too_large_is_said(visit, tmp_path, content):
    page = visit()
    (tmp_path / "given.png").write_bytes(content)
    page.set_input_files("#picture input[type=file]", tmp_path / "given.png")
    message = page.get_by_test_id("toast-body")
    expect(message).to_contain_text("given.png")
    assert "Traceback" not in page.content() and str(tmp_path.parent) not in message.inner_text()


def test_too_large_a_file_is_refused(visit, tmp_path):
    page = visit()
    (tmp_path / "large.png").write_bytes(bytes(21_000_000))
    page.set_input_files("#picture input[type=file]", tmp_path / "large.png")
    expect(page.get_by_test_id("toast-body")).to_contain_text(re.compile("file size|20", re.I))
    page.click("#find")
    expect(page.get_by_test_id("toast-body").last).to_contain_text("Choose a picture first")


def test_a_narrow_screen_needs_no_scrolling_sideways(visit, samples):
    page = visit(NARROW, is_mobile=True, has_touch=True)

    def is_narrow():
        return page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")

    assert is_narrow()
    upload(page, samples[0])
    page.get_by_role("button", name="Show an example").tap()
    find(page, "kite, something with quite a long name that does not fit into a line")
    expect(page.locator("#drawn img")).to_be_in_viewport()
    set_score(page, 0)
    assert shown(page) and is_narrow()
    assert page.evaluate("window.innerWidth") == NARROW[0]


def test_a_made_up_upload_reads_no_other_file(visit, address, samples):
    """The browser sends a path of this machine in place of what was uploaded: Gradio refuses."""
    page = visit()
    answers = page.evaluate(
        """async ([path, address]) => {
          const config = await (await fetch(address + 'config')).json();
          const picture = config.components.find(c => c.props.elem_id === 'picture').id;
          const changes = d => d.inputs.join() === `${picture}` && d.targets[0][1] === 'change';
          const call = config.dependencies.find(changes);
          const hash = 'stranger';
          await fetch(address + 'gradio_api/queue/join', {
            method: 'POST', headers: {'Content-Type': 'application/json'},
            body: JSON.stringify({data: [{path, meta: {_type: 'gradio.FileData'}}],
                                  fn_index: call.id, session_hash: hash}),
          });
          return await (await fetch(address + 'gradio_api/queue/data?session_hash=' + hash)).text();
        }""",
        [str(samples[0].parent.parent / "secret.png"), address],
    )
    assert '"success":false' in answers and '"output":{"error":null}' in answers
