import json
import pickle
from dataclasses import FrozenInstanceError, replace

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch.nn import functional as F

from gridclip.text import TextEmbeddings, load_categories

NAMES = ("cat", "dog", "bow (weapon)")


def make(names=NAMES, dim=8, **changes):
    fields = dict(
        embeddings=F.normalize(torch.randn(len(names), dim), dim=1),
        templates=("a {}", "the {}"),
        clip_model="ViT-L/14@336px",
        clip_sha256="0" * 64,
    )
    return TextEmbeddings(names=names, **(fields | changes))


def test_round_trip(tmp_path):
    path = tmp_path / "folder" / "text.safetensors"
    made = make(names=("Süßkartoffel", 'a "b"', "犬"))
    made.save(path)
    read = TextEmbeddings.load(path)
    assert (read.names, read.templates) == (made.names, made.templates)
    assert (read.clip_model, read.clip_sha256) == (made.clip_model, made.clip_sha256)
    assert torch.equal(read.embeddings, made.embeddings)
    assert len(read) == 3 and read.dim == 8
    assert [file.name for file in path.parent.iterdir()] == [path.name]  # no temporary file left


def test_the_same_embeddings_give_the_same_bytes(tmp_path):
    made, path = make(names=("Süßkartoffel", 'a "b"', "犬")), tmp_path / "text.safetensors"
    contents = set()
    for _ in range(20):
        made.save(path)
        contents.add(path.read_bytes())
    (content,) = contents
    header = content[8 : 8 + int.from_bytes(content[:8], "little")]
    assert list(json.loads(header)["__metadata__"]) == sorted(json.loads(header)["__metadata__"])
    assert len(header) % 8 == 0  # tensors are aligned


def test_a_failed_save_keeps_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "text.safetensors"
    made = make()
    made.save(path)

    def write_half(file, content):
        file.open("wb").write(content[:10])
        raise OSError("disk full")

    monkeypatch.setattr(type(path), "write_bytes", write_half)
    with pytest.raises(OSError, match="disk full"):
        make().save(path)
    assert torch.equal(TextEmbeddings.load(path).embeddings, made.embeddings)
    assert [file.name for file in tmp_path.iterdir()] == [path.name]


def test_others_may_read_the_file_as_the_umask_says(tmp_path):
    make().save(tmp_path / "text.safetensors")
    (tmp_path / "plain").write_text("")
    modes = {file.stat().st_mode for file in tmp_path.iterdir()}
    assert len(modes) == 1


def test_no_categories_round_trip(tmp_path):
    make(names=()).save(tmp_path / "empty.safetensors")
    assert TextEmbeddings.load(tmp_path / "empty.safetensors").embeddings.shape == (0, 8)


def nan_row():
    embeddings = make().embeddings.clone()
    embeddings[1, 0] = float("nan")
    return embeddings


@pytest.mark.parametrize(
    "changes, message",
    [
        (dict(names=("cat", "dog", "cat")), "more than once: 'cat'"),
        (dict(names=("cat", "dog")), "3 embeddings for 2 names"),
        (dict(names=("cat", "dog", " ")), "names must be a list of strings"),
        (dict(names="cat"), "names must be a list of strings"),
        (dict(names=3), "names must be a list of strings"),
        (dict(templates=("a {}", 1)), "templates must be a list of strings"),
        (dict(clip_model=None), "clip_model must be a string"),
        (dict(embeddings=torch.eye(3, dtype=torch.float64)), r"\(C, D\) float32.*float64"),
        (dict(embeddings=torch.ones(3)), r"\(C, D\) float32, not \(3,\)"),
        (dict(embeddings=nan_row()), "finite; these are not: 'dog'"),
        (dict(embeddings=torch.tensor([[1.0], [2.0], [1.0]])), r"'dog' has 2 \(1 of 3 rows\)"),
        (dict(embeddings=torch.zeros(3, 0)), "unit norm"),
    ],
)
def test_invalid_ones_cannot_be_made(changes, message):
    with pytest.raises(ValueError, match=message):
        replace(make(), **changes)


def test_frozen():
    with pytest.raises(FrozenInstanceError):
        make().names = ("a", "b", "c")


def header(**changes):
    fields = dict(names=NAMES, templates=[], clip_model="RN50", clip_sha256="") | changes
    return {key: json.dumps(value) for key, value in fields.items()}


@pytest.mark.parametrize(
    "tensors, metadata, message",
    [
        ({"embeddings": torch.eye(3)}, None, "header has no 'names'"),
        ({"weight": torch.eye(3)}, header(), "not a safetensors file with a tensor 'embeddings'"),
        ({"embeddings": torch.eye(3)}, header() | {"names": "cat, dog"}, "Expecting value"),
        ({"embeddings": torch.eye(3)}, header(names=["cat"]), "3 embeddings for 1 names"),
        ({"embeddings": torch.eye(3)}, header(names={"a": 1}), "names must be a list"),
        ({"embeddings": torch.eye(3).half()}, header(), "float32"),
        ({"embeddings": torch.eye(3) * 2}, header(), "unit norm"),
    ],
)
def test_bad_files_are_refused(tmp_path, tensors, metadata, message):
    path = tmp_path / "text.safetensors"
    save_file(tensors, path, metadata)
    with pytest.raises(ValueError, match=message) as error:
        TextEmbeddings.load(path)
    assert str(path) in str(error.value)
    assert "scripts/precompute_text_embeddings.py" in str(error.value)


def test_other_and_truncated_files_are_refused(tmp_path):
    path = tmp_path / "text.safetensors"
    make().save(path)
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="not a safetensors file"):
        TextEmbeddings.load(path)
    np.save(tmp_path / "table.npy", np.eye(3, dtype=np.float32))
    with pytest.raises(ValueError, match="--from-npy"):
        TextEmbeddings.load(tmp_path / "table.npy")
    with pytest.raises(FileNotFoundError, match="precompute_text_embeddings"):
        TextEmbeddings.load(tmp_path / "none.safetensors")


def test_check():
    made = make()
    made.check()
    made.check(names=list(NAMES), dim=8)
    with pytest.raises(ValueError, match=r"width 8 \(CLIP ViT-L/14@336px\), but 1024"):
        made.check(dim=1024)
    with pytest.raises(ValueError, match="3 categories, and 3 others.*1: 'dog' instead of 'Dog'"):
        made.check(names=["cat", "Dog", "bow (weapon)"])
    with pytest.raises(ValueError, match=r"another order.*0: 'cat' instead of 'dog'"):
        made.check(names=["dog", "cat", "bow (weapon)"])
    with pytest.raises(ValueError, match="only the number of names"):
        made.check(names=["cat", "dog"])


def test_npy_table_is_normalised(tmp_path):
    path = tmp_path / "table.npy"
    table = (np.random.randn(3, 8) * 10).astype(np.float16)
    np.save(path, table)
    made = TextEmbeddings.from_npy(path, NAMES, clip_model="ViT-B/32", templates=("a {}",))
    assert (made.clip_model, made.clip_sha256, made.templates) == ("ViT-B/32", "", ("a {}",))
    exact = table.astype(np.float64)
    exact /= np.linalg.norm(exact, axis=1, keepdims=True)
    np.testing.assert_allclose(made.embeddings.numpy(), exact, atol=1e-6)


@pytest.mark.parametrize(
    "table, message",
    [
        (np.ones((8, 3)), "8, 3.* table for 3 names. It seems to be transposed"),
        (np.ones((2, 8)), "table for 3 names"),
        (np.ones(3), "floating point array"),
        (np.ones((3, 8), dtype=np.int64), "floating point array"),
        (np.zeros((3, 8)), "unit norm"),
        (np.full((3, 8), np.inf), "finite"),
        (np.array([["a", {}]] * 3, dtype=object), "pickled"),
    ],
)
def test_bad_npy_tables_are_refused(tmp_path, table, message):
    path = tmp_path / "table.npy"
    np.save(path, table)
    with pytest.raises(ValueError, match=message) as error:
        TextEmbeddings.from_npy(path, NAMES, clip_model="RN50")
    assert str(path) in str(error.value)


def test_a_pickle_is_never_run(tmp_path):
    ran = tmp_path / "ran"

    class Touch:
        def __reduce__(self):
            return (ran.touch, ())

    (tmp_path / "raw.npy").write_bytes(pickle.dumps(Touch()))
    np.save(tmp_path / "array.npy", np.array([[Touch()]], dtype=object))
    for name in ("raw.npy", "array.npy"):
        with pytest.raises(ValueError, match="can't be read"):
            TextEmbeddings.from_npy(tmp_path / name, ["cat"], clip_model="RN50")
    assert not ran.exists()
    with open(tmp_path / "raw.npy", "rb") as file:
        pickle.load(file)
    assert ran.exists()  # the file was armed


def test_missing_npy(tmp_path):
    with pytest.raises(FileNotFoundError, match="none.npy"):
        TextEmbeddings.from_npy(tmp_path / "none.npy", NAMES, clip_model="RN50")


@pytest.fixture(scope="module")
def detic(shared_data):
    path = shared_data / "clip_text" / "lvis_v1_vitb32_a_cname.npy"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    names = [category.name for category in load_categories("lvis_v1")]
    return TextEmbeddings.from_npy(path, names, clip_model="ViT-B/32", templates=("a {}",))


@pytest.mark.parametrize(
    "name, neighbours",
    [
        ("cat", {"kitten", "dog"}),
        ("puppy", {"dog", "kitten"}),
        ("orange (fruit)", {"mandarin orange", "lemon"}),
        ("zucchini", {"cucumber", "eggplant"}),
        ("fighter jet", {"jet plane"}),
        ("school bus", {"bus (vehicle)"}),
    ],
)
def test_detics_lvis_table_has_our_order(detic, name, neighbours):
    assert len(detic) == 1203 and detic.dim == 512
    similarity = detic.embeddings @ detic.embeddings[detic.names.index(name)]
    nearest = [detic.names[i] for i in similarity.topk(11).indices]
    assert nearest[0] == name
    assert neighbours <= set(nearest[1:])


def test_detics_tables_agree_where_lvis_and_coco_share_names(detic, shared_data):
    path = shared_data / "clip_text" / "coco_vitb32_a_cname.npy"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    names = [category.name for category in load_categories("coco")]
    coco = TextEmbeddings.from_npy(path, names, clip_model="ViT-B/32", templates=("a {}",))
    # One word, no underscore, no qualifier: the same prompt for both tables.
    shared = [name for name in names if name in detic.names and " " not in name]
    assert len(shared) > 30
    rows = [[table.names.index(name) for name in shared] for table in (detic, coco)]
    similarity = detic.embeddings[rows[0]] @ coco.embeddings[rows[1]].T
    assert similarity.diagonal().min() > 0.999
    assert torch.equal(similarity.argmax(dim=1), torch.arange(len(shared)))


def test_voc_table_has_our_order(shared_data):
    path = shared_data / "clip_text" / "voc_rn50.npy"
    if not path.is_file():
        pytest.skip(f"no {path.name}")
    names = [category.name for category in load_categories("voc")]
    voc = TextEmbeddings.from_npy(path, names, clip_model="RN50")
    similarity = voc.embeddings @ voc.embeddings.T - 2 * torch.eye(20)
    nearest = {name: names[i] for name, i in zip(names, similarity.argmax(dim=1), strict=True)}
    pairs = {"bicycle": "motorbike", "cat": "dog", "sofa": "chair", "bus": "train"}
    assert {name: nearest[name] for name in pairs} == pairs
