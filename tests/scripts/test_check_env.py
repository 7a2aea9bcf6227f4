"""scripts/check_env.py: every fault gets a row that names it, and only real faults fail."""

import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

import check_env
from check_env import MISSING, OK, WARNING
from gridclip import machine


def row(name: str) -> tuple[str, str, str]:
    """Status, detail and fix of the check of that name."""
    return check_env.run(check_env.checks()[name])


@pytest.fixture
def distributions(monkeypatch) -> dict[str, str]:
    """Replaces the installed distributions, {name: version}, as check_env sees them."""
    versions: dict[str, str] = {}
    monkeypatch.setattr(check_env, "version", versions.get)
    return versions


@pytest.fixture
def other_clip(monkeypatch, tmp_path) -> Path:
    """A module `clip` which is not OpenAI's, importable first."""
    module = tmp_path / "clip.py"
    module.write_text("def copy_to_clipboard(text): ...\n")
    for name in [name for name in sys.modules if name.split(".")[0] == "clip"]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.syspath_prepend(tmp_path)
    yield module
    sys.modules.pop("clip", None)


def test_everything_required_is_installed_here(capsys):
    check_env.main([])
    assert MISSING not in capsys.readouterr().out


def test_runs_without_site_packages_and_names_all_that_is_missing():
    command = [sys.executable, "-I", "-S", check_env.__file__]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 1, done.stderr
    assert "Traceback" not in done.stderr
    for name in ("torch", "torchvision", "numpy", "detectron2", "clip", "lvis", "OpenCV"):
        assert name in done.stderr
        assert f"No module named '{'cv2' if name == 'OpenCV' else name}'" in done.stdout
    assert done.stdout.count("fix: make env") >= 8


@pytest.mark.parametrize(
    ("version", "wanted"),
    [((3, 9, 18), MISSING), ((3, 10, 14), MISSING), ((3, 11, 0), OK), ((3, 14, 1), OK)],
)
def test_python_version(version, wanted):
    status, detail, _ = check_env.run(partial(check_env.check_python, version))
    assert status == wanted
    assert ".".join(map(str, version)) in detail


def test_main_fails_when_detectron2_cannot_be_imported(monkeypatch):
    monkeypatch.setitem(sys.modules, "detectron2", None)  # makes `import detectron2` fail
    assert row("detectron2")[0] == MISSING
    with pytest.raises(SystemExit, match="Missing: detectron2$"):
        check_env.main([])


def test_a_module_that_fails_with_another_error_is_missing(monkeypatch, tmp_path):
    (tmp_path / "broken_binary.py").write_text("raise OSError('libGL.so.1: cannot open')\n")
    monkeypatch.syspath_prepend(tmp_path)
    status, detail, fix = check_env.run(partial(check_env.check_module, "broken_binary"))
    assert (status, detail) == (MISSING, "OSError: libGL.so.1: cannot open")
    assert fix


@pytest.mark.parametrize(
    ("builds", "status", "word"),
    [
        ({"sal-detectron2": "0.7.2"}, OK, "index build"),
        ({"detectron2": "0.6"}, OK, "source build"),
        ({"sal-detectron2": "0.7.2", "detectron2": "0.6"}, MISSING, "more than one"),
    ],
)
def test_detectron2_builds(distributions, builds, status, word):
    distributions.update(builds)
    found, detail, _ = row("detectron2")
    assert found == status
    assert word in detail


@pytest.mark.parametrize("loaded", [True, False])
def test_detectron2_row_tells_of_the_compiled_extension(monkeypatch, loaded):
    monkeypatch.setitem(sys.modules, "detectron2._C", sys if loaded else None)
    status, detail, _ = row("detectron2")
    assert status == OK
    assert ("_C loaded" in detail, "_C not loaded" in detail) == (loaded, not loaded)


def test_what_does_not_fit_the_machine_only_warns(monkeypatch, capsys):
    monkeypatch.setattr(machine, "describe_gpus", lambda: ("Tesla V100 is sm_70", "another torch"))
    assert row("GPU") == (WARNING, "Tesla V100 is sm_70", "another torch")
    check_env.main([])
    assert "GPU                      warning  Tesla V100" in capsys.readouterr().out


def test_the_machine_is_not_looked_at_without_torch(monkeypatch):
    monkeypatch.setitem(sys.modules, "gridclip.machine", None)
    assert [row(name)[0] for name in check_env.MACHINE] == [WARNING] * 4


def test_another_package_named_clip_is_a_fault(other_clip):
    status, detail, _ = row("clip")
    assert status == MISSING
    assert str(other_clip) in detail


def test_two_distributions_of_clip_are_a_fault(distributions):
    distributions.update({"clip-anytorch": "2.6.0", "clip": "1.0"})
    status, detail, _ = row("clip")
    assert status == MISSING
    assert "clip-anytorch 2.6.0, clip 1.0" in detail


@pytest.mark.parametrize(
    ("builds", "status"),
    [
        (["opencv-python-headless"], OK),
        (["opencv-python"], OK),
        (["opencv-python", "opencv-python-headless"], MISSING),
        (["opencv-contrib-python-headless", "opencv-python-headless"], MISSING),
    ],
)
def test_exactly_one_opencv(distributions, builds, status):
    distributions.update(dict.fromkeys(builds, "4.10.0"))
    found, detail, _ = row("OpenCV")
    assert found == status
    assert all(name in detail for name in builds)


def test_requirements_that_are_not_met(distributions, monkeypatch):
    distributions.update({"gridclip": "0.1.0", "numpy": "2.3.5", "setuptools": "82.0.0"})
    wanted = ["numpy<3,>=1.26", "setuptools<81,>=77", "yacs>=0.1.8"]
    monkeypatch.setattr(check_env.metadata, "requires", lambda name: wanted)
    status, detail, _ = row("gridclip")
    assert status == MISSING
    assert detail == (
        "setuptools<81,>=77 is wanted, 82.0.0 installed; yacs>=0.1.8 is wanted, nothing installed"
    )


def test_a_requirement_out_of_range_is_a_fault_of_gridclip(monkeypatch):
    monkeypatch.setattr(check_env.metadata, "requires", lambda name: ["numpy>=99"])
    status, detail, _ = row("gridclip")
    assert status == MISSING
    assert "numpy>=99" in detail


def test_gridclip_on_the_path_alone_is_not_installed(distributions):
    assert row("gridclip")[:2] == (MISSING, "not installed")


def test_dataset_rows(monkeypatch, tmp_path):
    (tmp_path / "coco" / "train2017").mkdir(parents=True)
    (tmp_path / "coco" / "train2017" / "000000000009.jpg").touch()
    (tmp_path / "coco" / "val2017").mkdir()  # empty, which is as good as absent
    (tmp_path / "lvis").mkdir()
    (tmp_path / "lvis" / "lvis_v1_val.json").touch()
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path))
    assert {name: row(name)[0] for name in check_env.DATASETS} == {
        "coco/train2017": OK,
        "coco/val2017": WARNING,
        "lvis/lvis_v1_train.json": WARNING,
        "lvis/lvis_v1_val.json": OK,
    }
    assert all(row(name)[1].startswith(f"{tmp_path / name}") for name in check_env.DATASETS)


def test_datasets_default_to_the_folder_datasets(monkeypatch, tmp_path):
    monkeypatch.delenv("DETECTRON2_DATASETS", raising=False)
    monkeypatch.chdir(tmp_path)
    for name in check_env.DATASETS:
        assert row(name)[:2] == (WARNING, f"datasets/{name} is not there")


def test_clip_weights(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert row("CLIP RN50")[0] == WARNING
    weights = tmp_path / ".cache" / "clip" / "RN50.pt"
    weights.parent.mkdir(parents=True)
    weights.write_bytes(b"0" * 2_000_000)
    assert row("CLIP RN50") == (OK, f"{weights}, 2 MB", "")


def test_missing_data_and_weights_only_warn(monkeypatch, tmp_path, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("DETECTRON2_DATASETS", str(tmp_path / "nowhere"))
    monkeypatch.setattr(check_env, "MACHINE", {})
    check_env.main([])
    assert capsys.readouterr().out.count(WARNING) == 5
