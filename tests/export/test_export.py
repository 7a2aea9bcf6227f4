import pytest
from omegaconf import OmegaConf
from PIL import Image

import export as script
from gridclip.export import Exported, Form, export
from gridclip.export.description import describe
from gridclip.export.formats import Program
from gridclip.modeling import ClosedSetClassifier
from gridclip.predictor import Predictor
from gridclip_runtime.engines import open_engine
from world import save_untrained_vild


@pytest.mark.slow
@pytest.mark.parametrize("suffix", [".onnx", ".pt2"])
def test_formats(suffix, small_detector, tmp_path, monkeypatch):
    """OpenVINO's is in tests/runtime."""
    monkeypatch.setattr("gridclip.export.check.SIZES", ((65, 203), (129, 97)))
    form = Form(words_as_input=suffix == ".pt2", raw=suffix == ".onnx")
    path = tmp_path / "new" / f"detector{suffix}"
    assert export(small_detector, path, form).difference < 1e-4
    assert list(path.parent.iterdir()) == [path]
    about = (Program if suffix == ".pt2" else open_engine)(path).description
    assert about == describe(small_detector, form)


@pytest.mark.slow
def test_what_differs_is_not_kept(small_detector, tmp_path, monkeypatch):
    monkeypatch.setattr("gridclip.export.check.TOLERANCE", -1.0)
    (tmp_path / "detector.pt2").write_text("before")
    with pytest.raises(ValueError, match="differs from the detector at 1 of 97 x 131 pixels"):
        export(small_detector, tmp_path / "detector.pt2")
    assert [file.name for file in tmp_path.iterdir()] == ["detector.pt2"]
    assert (tmp_path / "detector.pt2").read_text() == "before"


def test_vild_is_refused(world, tiny_clip, tmp_path):
    folder = save_untrained_vild("ensemble", world, tiny_clip, tmp_path)
    predictor = Predictor(folder / "config.yaml", folder / "detector.pth", device="cpu")
    with pytest.raises(ValueError, match="ViLD can't be exported, not even in part"):
        export(predictor, tmp_path / "vild.onnx")


def test_learned_vectors_are_no_input(small_detector, tmp_path):
    predictor = small_detector.with_vocabulary(["dog"])
    own = ClosedSetClassifier(predictor.model.classifier.vocabulary, embed_dim=32)
    predictor.model.classifier = own
    with pytest.raises(ValueError, match="export it with fixed words"):
        export(predictor, tmp_path / "closed.onnx")


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("train.inference.dtype", "bfloat16", "train.inference.dtype=float32"),
        ("train.inference.compile", True, "train.inference.compile=False"),
        ("train.device", "cuda", "device='cpu'"),
    ],
)
def test_needs_the_plain_detector(key, value, message, small_detector, tmp_path):
    predictor = small_detector.with_vocabulary(["dog"])
    predictor.cfg = predictor.cfg.copy()
    OmegaConf.update(predictor.cfg, key, value)
    with pytest.raises(ValueError, match=message):
        export(predictor, tmp_path / "detector.onnx")


def test_other_endings_are_refused(small_detector, tmp_path):
    with pytest.raises(ValueError, match="must end in one of .onnx, .xml, .pt2"):
        export(small_detector, tmp_path / "detector.engine")


def test_command(small_detector, tmp_path, monkeypatch, capsys):
    """It loads the detector and its words, and hands them on."""
    given = {}

    def keep(predictor, path, form, calibration):
        given.update(names=predictor.names, form=form, calibration=calibration)
        path.write_bytes(b"12345")
        return Exported(1e-6, None if calibration is None else 0.98765)

    monkeypatch.setattr(script, "export", keep)
    small_detector.save(tmp_path / "detector.safetensors")
    arguments = ["--detector", str(tmp_path / "detector.safetensors"), "--vocabulary", "kite, dog"]
    script.main([*arguments, "--output", str(tmp_path / "out.onnx"), "--fixed-words", "--raw"])
    form = Form(words_as_input=False, raw=True)
    assert given == {"names": ("kite", "dog"), "form": form, "calibration": None}
    assert "out.onnx: 0.0 MB, differs by 1e-06" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="error: No detector at"):
        script.main(["--detector", "gone", "--output", str(tmp_path / "out.onnx")])
    for i in range(3):
        Image.new("RGB", (40, 30)).save(tmp_path / f"{i}.png")
    monkeypatch.setattr(script, "CALIBRATION_PICTURES", 2)
    script.main([*arguments, "--output", str(tmp_path / "out.xml"), "--int8", str(tmp_path)])
    assert given["calibration"] == [tmp_path / "0.png", tmp_path / "1.png"]
    assert "In int8 it finds 98.8% of the best" in capsys.readouterr().out
