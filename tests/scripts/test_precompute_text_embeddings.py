import numpy as np
import pytest
import torch

import precompute_text_embeddings as script
from gridclip.text import TextEmbeddings


@pytest.fixture(scope="module")
def archive(make_clip):
    return make_clip(embed_dim=16, image_resolution=32)


@pytest.fixture
def names(tmp_path):
    path = tmp_path / "names.txt"
    path.write_text("cat, kitty\ndog\n# no more\n")
    return path


def run(*args):
    script.main([str(arg) for arg in args])


def test_encode(archive, names, tmp_path, capsys):
    output = tmp_path / "out" / "text.safetensors"
    options = ("--names", names, "--clip", archive, "--device", "cpu", "--output", output)
    run(*options, "--templates", "single")
    made = TextEmbeddings.load(output)
    assert made.names == ("cat", "dog") and made.dim == 16
    assert made.clip_model == "tiny" and made.templates == ("a photo of a {}.",)
    printed = capsys.readouterr()
    assert "2 categories, width 16" in printed.out and made.clip_sha256 in printed.out
    assert "prompt" in printed.err  # the progress bar

    run(*options, "--templates", "single", "--synonyms")
    averaged = TextEmbeddings.load(output)
    same = torch.isclose(averaged.embeddings, made.embeddings, atol=1e-5).all(dim=1)
    assert same.tolist() == [False, True]

    run(*options)
    assert len(TextEmbeddings.load(output).templates) == 80


def test_import_table(names, tmp_path, capsys):
    table, output = tmp_path / "table.npy", tmp_path / "text.safetensors"
    np.save(table, np.array([[3, 4], [0, 2]], dtype=np.float16))
    options = ("--names", names, "--from-npy", table, "--output", output)
    run(*options, "--clip-model-id", "ViT-B/32")
    made = TextEmbeddings.load(output)
    torch.testing.assert_close(made.embeddings, torch.tensor([[0.6, 0.8], [0.0, 1.0]]))
    assert made.clip_model == "ViT-B/32" and made.templates == ()
    assert "sha256 not known" in capsys.readouterr().out

    run(*options, "--clip-model-id", "ViT-B/32", "--templates", "name")
    assert TextEmbeddings.load(output).templates == ("a {}",)


@pytest.mark.parametrize(
    "args, message",
    [
        (("--names", "voc", "--output", "a.safetensors"), "--clip --from-npy is required"),
        (("--names", "voc", "--from-npy", "a.npy", "--output", "a.safetensors"), "ViT-B/32"),
        (("--names", "voc", "--clip", "a.pt", "--output", "a.npy"), "end in .safetensors"),
        (
            ("--names", "voc", "--clip", "a.pt", "--clip-model-id", "RN50")
            + ("--output", "a.safetensors"),
            "goes with --from-npy only",
        ),
        (
            ("--names", "voc", "--from-npy", "a.npy", "--clip-model-id", "RN50", "--synonyms")
            + ("--output", "a.safetensors"),
            "no meaning with --from-npy",
        ),
    ],
)
def test_arguments_that_do_not_fit(args, message, capsys):
    with pytest.raises(SystemExit):
        run(*args)
    assert message in capsys.readouterr().err


def test_errors_are_one_line_and_write_nothing(names, tmp_path):
    output = tmp_path / "text.safetensors"
    with pytest.raises(SystemExit, match="error: No weights at .*none.pt"):
        run("--names", names, "--clip", tmp_path / "none.pt", "--output", output)
    assert not output.exists()
