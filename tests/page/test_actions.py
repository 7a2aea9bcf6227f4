import time
from types import SimpleNamespace

import gradio as gr
import pytest
from PIL import Image

from page import actions as module
from page.actions import Actions
from page.given import MAX_EXAMPLES


@pytest.fixture
def actions(predictor, uploads):
    return Actions(predictor)


def click(*point):
    return SimpleNamespace(index=list(point))


def test_words_are_those_of_the_person(actions, predictor, picture):
    trained = predictor.names
    found, own = actions.find(str(picture), "", (), None)
    assert found.predictor is predictor and found.seconds > 0
    mine, own = actions.find(str(picture), "kite, red shoe", (), own)
    theirs, _ = actions.find(str(picture), "cat", (), None)
    assert mine.prediction.vocabulary == ("kite", "red shoe")
    assert theirs.prediction.vocabulary == ("cat",)
    assert predictor.names == trained


def test_words_are_embedded_once(actions, picture):
    found, own = actions.find(str(picture), "kite", (), None)
    again, own = actions.find(str(picture), " kite ", (), own)
    assert again.predictor is found.predictor
    other, _ = actions.find(str(picture), "kite, cat", (), own)
    assert other.predictor is not found.predictor


def test_an_example_is_looked_for_beside_the_words(actions, picture):
    drawing, shown = actions.draw_on(str(picture))
    for point in ((100, 100), (300, 400)):
        drawing, shown = actions.click(drawing, click(*point))
    assert shown == drawing.draw() != drawing.view
    examples, drawing, shown, label = actions.add_example(drawing, "thing", ())
    assert shown == drawing.view and label == ""
    found, _ = actions.find(str(picture), "kite", examples, None)
    assert found.prediction.vocabulary == ("kite", "thing")
    assert set(found.prediction.names) == {"kite", "thing"}
    with pytest.raises(gr.Error, match=f"{MAX_EXAMPLES} examples are the most"):
        actions.add_example(drawing, "one more", examples * MAX_EXAMPLES)


def test_the_table_follows_the_score(actions, picture):
    found, _ = actions.find(str(picture), "", (), None)
    score = float(found.prediction.scores[3])
    shown, text, rows = actions.show(found, score)
    assert len(rows) == 4 and text.startswith(f"**4** of {len(found.prediction)} detections")
    assert shown.size == found.view.size and shown != found.view
    assert [row[1] for row in rows] == [f"{s:.2f}" for s in found.prediction.scores[:4].tolist()]
    novel = [row[0].startswith("★ ") for row in rows]
    assert novel == found.prediction.novel[:4]
    assert "Lower the least score" in actions.show(found, 1.0)[1]
    assert actions.show(None, 0.3) == (None, "", [])


def test_novel_names_are_marked(actions, picture):
    found, _ = actions.find(str(picture), "blue thing, red thing", (), None)
    _, text, rows = actions.show(found, 0.0)
    assert {row[0] for row in rows} == {"★ blue thing", "red thing"} and "★ marks" in text


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("word " * 200, "77|token"),
        (",".join(map(str, range(300))), "300 names .* take at most 200"),
    ],
)
def test_what_the_detector_refuses_is_said(actions, picture, words, message):
    with pytest.raises(gr.Error, match=message) as error:
        actions.find(str(picture), words, (), None)
    assert not error.value.print_exception


def test_errors_do_not_say_where_uploads_lie_nor_bring_markup(actions, uploads):
    folder = uploads / "0123abcd"
    folder.mkdir(parents=True)
    path = folder / "<b>cut.png"
    Image.effect_noise((120, 90), 60).save(path)
    path.write_bytes(path.read_bytes()[:2000])
    with pytest.raises(gr.Error) as error:
        actions.find(str(path), "", (), None)
    assert error.value.message.startswith("&lt;b&gt;cut.png can&#x27;t be read as a picture")


def test_no_picture_and_nothing_to_download_are_said(actions):
    with pytest.raises(gr.Error, match="Choose a picture first"):
        actions.find(None, "cat", (), None)
    with pytest.raises(gr.Error, match="press Find first"):
        actions.download("JSON", None, 0.3)
    with pytest.raises(gr.Error, match="Choose a picture first"):
        actions.add_example(None, "cat", ())
    assert actions.draw_on(None) == (None, None) == actions.click(None, click(1, 2))


def test_time_is_limited(actions, picture, monkeypatch):
    monkeypatch.setattr(module, "MAX_SECONDS", 0.05)
    monkeypatch.setattr(actions, "_with", lambda *_: time.sleep(0.5) or actions.predictor)
    with pytest.raises(gr.Error, match="longer than 0.05 s"):
        actions.find(str(picture), "", (), None)
