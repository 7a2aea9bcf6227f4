"""The command that serves the page. The page itself is tested in page/."""

import os
import signal
import socket
import subprocess
import sys
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import gradio as gr
import pytest
from detectron2.config import LazyConfig
from PIL import Image

import app
from gridclip.engine import GridCLIPCheckpointer
from gridclip.engine.train import build_model
from gridclip.predictor import Predictor
from gridclip.text import as_text_embeddings
from page import layout


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--config-file", "c.py"], "--config-file and --weights go together"),
        (["--weights", "w.pth"], "--config-file and --weights go together"),
        (["--detector", "d", "--config-file", "c", "--weights", "w"], "not both"),
    ],
)
def test_options_that_do_not_go_together(options, message, capsys):
    with pytest.raises(SystemExit):
        app.parse_args(options)
    assert message in capsys.readouterr().err


def test_by_default_this_machine_alone_is_answered():
    assert app.parse_args([]).host == "127.0.0.1"


@pytest.fixture
def served(monkeypatch):
    """The pages that would be served, instead of serving them."""
    served = []

    def serve(page, host, port):
        page.blocks.block_thread = lambda: None
        served.append(page)
        return f"http://{host}:{port}/"

    monkeypatch.setattr(layout, "serve", serve)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    for name in ("GRADIO_TEMP_DIR", "DETECTRON2_DATASETS"):
        monkeypatch.setenv(name, "restored afterwards")
    return served


def save_demo(root: Path) -> None:
    """What ``make demo`` leaves, not trained."""
    shapes = root / "output/demo/datasets/shapes"
    (shapes / "shapes_test_val").mkdir(parents=True)
    for i in range(app.SAMPLES + 1):
        Image.new("RGB", (128, 128)).save(shapes / f"shapes_test_val/{i:06}.png")
    cfg = LazyConfig.load(str(app.PROJECT / "configs/laptop/gridclip.py"))
    cfg.clip.weights = str(app.PROJECT / "laptop_world/models/shapes_clip.safetensors")
    cfg.clip.text_embeddings = str(root / "text.safetensors")
    as_text_embeddings(["red star", "moon"], cfg.clip.weights, "single").save(
        root / "text.safetensors"
    )
    cfg.model.federated_weights = None
    GridCLIPCheckpointer(build_model(cfg), str(root)).save("model_final")
    detector = root / "output/demo/detector.safetensors"
    Predictor(cfg, root / "model_final.pth").save(detector, with_clip=True)


def test_the_demo_is_made_where_it_is_missing(tmp_path, monkeypatch, served, capsys):
    monkeypatch.setattr(app, "ROOT", tmp_path / "root")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    commands = []

    def run(command, cwd, env):
        assert str(app.PROJECT) in env["PYTHONPATH"].split(os.pathsep)
        commands.append(command[1:])
        save_demo(cwd)
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(subprocess, "run", run)
    for _ in range(2):
        app.main([])
    assert commands == [["-m", "laptop_world.demo", "--output", "output/demo"]]
    printed = capsys.readouterr().out
    assert "making it takes some minutes" in printed and "Open http://127.0.0.1:7860/" in printed
    for page in served:
        assert page.actions.predictor.names == ("red star", "moon")
        page.actions.predictor.with_vocabulary(["fish"])  # its CLIP is found
        (dataset,) = (b for b in page.blocks.blocks.values() if isinstance(b, gr.Dataset))
        assert len(dataset.samples) == app.SAMPLES


def test_a_demo_that_fails_is_said(tmp_path, monkeypatch, served):
    monkeypatch.setattr(app, "ROOT", tmp_path)
    monkeypatch.setattr(subprocess, "run", lambda *a, **_: subprocess.CompletedProcess(a, 1))
    with pytest.raises(SystemExit, match="error: The demo failed"):
        app.main([])
    assert not served


def test_a_detector_that_is_missing_is_named(served):
    with pytest.raises(SystemExit, match="error: .*no.safetensors"):
        app.main(["--detector", "no.safetensors"])


@pytest.mark.slow
def test_the_command_serves_until_it_is_ended(tmp_path):
    save_demo(tmp_path)
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port = listener.getsockname()[1]
    command = [
        sys.executable,
        "app.py",
        "--detector",
        tmp_path / "output/demo/detector.safetensors",
    ]
    process = subprocess.Popen(
        [*command, "--vocabulary", "fish, kite", "--port", str(port)],
        cwd=app.PROJECT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert f"Open http://127.0.0.1:{port}/" in process.stdout.readline()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/config") as answer:
            assert b"own 2: fish, kite" in answer.read()
        assert list(tmp_path.glob("gridclip-*"))
        with gr.Blocks() as blocks:
            gr.Markdown("another page")
        with pytest.raises(OSError, match=f"Port {port} of 127.0.0.1 is in use"):
            layout.serve(SimpleNamespace(blocks=blocks), "127.0.0.1", port)
    finally:
        process.terminate()
    assert process.wait(timeout=60) == 0
    assert not list(tmp_path.glob("gridclip-*"))  # uploads are gone
