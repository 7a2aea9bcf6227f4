import numpy as np
import pytest

from gridclip.text import TextEmbeddings
from gridclip_runtime.vocabulary import Vocabulary

MADE = TextEmbeddings.random(["dog", "größe", "kite"], 16)


def test_reads_what_gridclip_writes(tmp_path):
    MADE.save(tmp_path / "text.safetensors")
    read = Vocabulary.load(tmp_path / "text.safetensors")
    assert read.names == MADE.names and read.clip_sha256 == ""
    np.testing.assert_array_equal(read.embeddings, MADE.embeddings.numpy())


def test_reads_npz(tmp_path):
    np.savez(tmp_path / "text.npz", names=list(MADE.names), embeddings=MADE.embeddings.numpy())
    read = Vocabulary.load(tmp_path / "text.npz")
    assert read.names == MADE.names
    np.testing.assert_array_equal(read.embeddings, MADE.embeddings.numpy())


def test_what_is_not_among_others():
    vocabulary = Vocabulary(MADE.names, MADE.embeddings.numpy())
    np.testing.assert_array_equal(vocabulary.others(["kite", "cat"]), vocabulary.embeddings[:2])
    assert vocabulary.others(MADE.names).shape == (0, 16)


@pytest.mark.parametrize(
    ("names", "rows", "message"),
    [
        (("a", "b"), np.eye(3, 4), "2 names have text embeddings"),
        (("a", "a", "b"), np.eye(3, 4), "none twice"),
        ((), np.eye(0, 4), "at least one name"),
        (("a", "b", "c"), 2 * np.eye(3, 4), "unit length"),
        (("a", "b", "c"), np.nan * np.eye(3, 4), "unit length"),
        (("a", "b", "c"), np.ones(3), "3 names have text embeddings"),
    ],
)
def test_what_does_not_belong_together(names, rows, message):
    with pytest.raises(ValueError, match=message):
        Vocabulary(names, rows.astype(np.float32))


def test_other_files_are_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match="No text embeddings at"):
        Vocabulary.load(tmp_path / "gone.npz")
    (tmp_path / "names.txt").write_text("dog")
    with pytest.raises(ValueError, match="neither a .safetensors nor an .npz file"):
        Vocabulary.load(tmp_path / "names.txt")
    MADE.save(tmp_path / "text.safetensors")
    whole = (tmp_path / "text.safetensors").read_bytes()
    for name, content in {
        "short.safetensors": whole[:-8],
        "noise.safetensors": b"\xff" * 64,
        "empty.safetensors": b"",
        "noise.npz": b"PK no archive",
    }.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ValueError, match=f"{name} holds no text embeddings"):
            Vocabulary.load(tmp_path / name)
    np.savez(tmp_path / "pickled.npz", names=np.array(["a", None], object), embeddings=np.eye(2))
    with pytest.raises(ValueError, match="pickled.npz holds no text embeddings"):
        Vocabulary.load(tmp_path / "pickled.npz")
