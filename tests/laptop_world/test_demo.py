import json
import os
import re
import signal
import subprocess
import sys
import time

import pytest
from PIL import Image

from gridclip.files import sha256_of_file
from laptop_world import demo as run_demo
from laptop_world import demo_page
from laptop_world.record import TaskRecord
from laptop_world.shapes import load_world

STAGES = {
    *("data", "text_embeddings", "image_embeddings", "training", "evaluation", "pictures"),
    *("detector", "speed", "words"),
}
SPEED = {
    "setup": {"size": [256, 416], "processor": "a CPU", "threads": 2, "runs": 3},
    "inference": {
        "gridclip": {
            "title": "GridCLIP R50",
            "p50": 0.25,
            "images_per_second": 4.0,
            "detections_per_image": 300.0,
        },
        "fcos": {
            "title": "FCOS <1203>",
            "p50": 0.5,
            "images_per_second": 2.0,
            "detections_per_image": 12.0,
        },
    },
    "arithmetic": {"gridclip": {"gmac": 24.5}},
    "ratios": {"inference_gridclip_over_fcos": 0.5, "lvis_eval_api_over_ours": None},
}


def compare_speed_before(folder):
    """Leaves what a complete comparison leaves: it takes minutes and has tests of its own."""
    (folder / "speed.json").write_text(json.dumps(SPEED))
    Image.new("RGB", (8, 8)).save(folder / "speed.png")
    script = run_demo.ROOT / "scripts/compare_speed.py"
    record = TaskRecord(folder / "logs/speed.json", {"script_sha256": sha256_of_file(script)})
    record.complete = True
    record.write()


def start(output, clip, *arguments):
    return subprocess.Popen(
        [sys.executable, "-W", "ignore", "-m", "laptop_world.demo"]
        + ["--output", output, "--train", "24", "--val", "16", "--size", "64"]
        + ["--iterations", "12", *arguments, "--override", "train.log_period=1"]
        + ["train.checkpointer.period=2", "dataloader.train.total_batch_size=4"]
        + [f"clip.weights={clip}"],
        cwd=run_demo.ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process):
    printed = process.communicate()[0]
    assert process.returncode == 0, printed
    return printed


@pytest.mark.slow
def test_kill_resume_second_run_and_other_words(tmp_path, laptop_clip):
    compare_speed_before(tmp_path)
    killed = start(tmp_path, laptop_clip)
    deadline = time.monotonic() + 300
    while not (tmp_path / "run/last_checkpoint").is_file():
        assert killed.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not (tmp_path / "results.json").exists()

    printed = finish(start(tmp_path, laptop_clip))
    assert printed.count("complete, took") == 4  # what came before training, and speed
    log = (tmp_path / "logs/training.txt").read_text()
    assert re.search(r"Starting training from iteration [1-9]", log)
    results = json.loads((tmp_path / "results.json").read_text())
    assert results["metrics"]["AP"] >= 0 and "APr_shape" in results["metrics"]
    assert set(results["seconds"]) == STAGES | {"total"}
    parts = [value for name, value in results["seconds"].items() if name != "total"]
    assert min(parts) >= 0 and sum(parts) == pytest.approx(results["seconds"]["total"], abs=0.5)

    report = (tmp_path / "report.html").read_text()
    assert not re.search(r"https?:|<script|<link|url\(", report)
    sources = re.findall(r'src="([^"]{,30})', report)
    assert len(sources) > 5 and all(s.startswith("data:image/") for s in sources)
    world = load_world("test")
    names = [str(world.names[i]) for i in world.novel_axes["shape"]]
    assert sum(name in report for name in names) > 0 and "APr_shape" in report
    assert "not photographs" in report and "prefers-color-scheme" in report

    again = finish(start(tmp_path, laptop_clip))
    assert again.count("complete, took") == len(STAGES) - 1  # evaluation is a part of training
    assert json.loads((tmp_path / "results.json").read_text()) == results

    other = finish(start(tmp_path, laptop_clip, "--words", "green fish, banana"))
    assert other.count("complete, took") == len(STAGES) - 2
    found = json.loads((tmp_path / "run/words/words.json").read_text())
    assert [entry["word"] for entry in found] == ["green fish", "banana"]
    assert not any(entry["trained_on"] for entry in found)
    assert all(best["right"] is None for best in found[1]["best"])
    assert "banana" in (tmp_path / "report.html").read_text()


def test_speed_section(tmp_path):
    demo = run_demo.parse_args(["--output", str(tmp_path)])
    assert "Speed" not in demo_page.render(speed=demo_page.speed(demo))
    compare_speed_before(tmp_path)
    section = demo_page.render(speed=demo_page.speed(demo))
    assert "256 x 416: a CPU, 2 threads" in section and "data:image/png" in section
    assert re.search(r"GridCLIP R50</td>.*>250.0<.*>4.0<.*>300.0<.*>24.5<", section)
    assert "FCOS &lt;1203&gt;" in section and ">–<" in section  # its arithmetic is not there
    assert "inference_gridclip_over_fcos" in section and "lvis_eval" not in section


def test_a_failing_stage_is_named_with_its_log(tmp_path):
    demo = run_demo.parse_args(["--output", str(tmp_path)])

    def fail(demo):
        raise ValueError("no room")

    stage = run_demo.Stage("data", "Data", fail, lambda: {}, [])
    with pytest.raises(run_demo.StageError, match=r"stage 'data' failed: no room\nIts log: .*data"):
        run_demo.run_stage(demo, stage)
    assert "ValueError: no room" in (tmp_path / "logs/data.txt").read_text()


def test_what_was_made_otherwise_or_is_gone_is_made_anew(tmp_path):
    demo = run_demo.parse_args(["--output", str(tmp_path)])
    made, calls = tmp_path / "made", []

    def make(demo):
        calls.append(made.exists())
        made.mkdir()

    def run(identity):
        stage = run_demo.Stage("x", "X", make, lambda: identity, [made], [made])
        return run_demo.run_stage(demo, stage)

    seconds = run({"a": 1})
    assert run({"a": 1}) == seconds and calls == [False]
    run({"a": 2})
    assert calls == [False, False]
    made.rmdir()
    run({"a": 2})
    assert calls == [False, False, False]


def test_arguments(capsys):
    assert run_demo.parse_args(["--words", " red star,green fish,, red star"]).words == (
        "red star",
        "green fish",
    )
    for arguments in (["--words", " , "], ["--iterations", "0"]):
        with pytest.raises(SystemExit):
            run_demo.parse_args(arguments)
        assert "at least" in capsys.readouterr().err
