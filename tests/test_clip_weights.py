"""Reading CLIP weights, against the clip and open_clip packages."""

import copy
import errno
import hashlib
import multiprocessing
import os
import signal
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import clip
import open_clip
import pytest
import torch
import torchvision
from clip.model import ModifiedResNet, convert_weights
from detectron2.utils.file_io import PathManager
from safetensors.torch import save_file

from benchmark.random_clip import write_random_clip_archive
from gridclip.clip_models import CLIP_RESNETS
from gridclip.clip_weights import (
    load_clip,
    read_clip_checkpoint,
    resnet_state_dict,
)
from gridclip.files import sha256_of_file

SIZES = dict(layers=(1, 2, 1, 1), width=16, embed_dim=48, input_resolution=64)
TEXT = dict(transformer_width=64, transformer_heads=1, transformer_layers=1)
IMAGES = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
TOKENS = clip.tokenize(["a photo of a cat", "two dogs"])


def write_archive(path, **kwargs):
    sizes = dict(embed_dim=48, image_resolution=64, vision_layers=(1, 2, 1, 1), vision_width=16)
    write_random_clip_archive(path, **(sizes | TEXT | kwargs))
    return path


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return write_archive(tmp_path_factory.mktemp("clip") / "tiny.pt")


@pytest.fixture(scope="module")
def vit_archive(tmp_path_factory):
    path = tmp_path_factory.mktemp("clip") / "vit.pt"
    return write_archive(path, vision_layers=1, vision_width=64, vision_patch_size=32)


@pytest.fixture(scope="module")
def reference(archive):
    """The archive as the clip package loads it."""
    return clip.load(str(archive), device="cpu")[0]


@pytest.fixture(scope="module")
def open_clip_model():
    """open_clip's CLIP at the same sizes, with weights of its own that half can't hold."""
    torch.manual_seed(2)
    model = open_clip.CLIP(
        embed_dim=48,
        vision_cfg=dict(layers=(1, 2, 1, 1), width=16, image_size=64),
        text_cfg=dict(width=64, heads=1, layers=1),
        quick_gelu=True,
    )
    with torch.no_grad():
        for name, parameter in model.visual.named_parameters():
            if name.endswith("bn3.weight"):  # zero at the start, which would hide the blocks
                parameter.uniform_(0.5, 1.5)
    return model.eval()


@torch.no_grad()
def encodings(model):
    return model.encode_image(IMAGES), model.encode_text(TOKENS)


def assert_same_tensors(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for key, value in expected.items():
        assert state_dict[key].dtype == value.dtype, key
        assert torch.equal(state_dict[key], value), key


def with_prefix(state_dict, prefix):
    return {f"{prefix}{key}": value for key, value in state_dict.items()}


# Ways in which one model lies on disk. Each takes a clip.model.CLIP or open_clip.CLIP.


def save_state_dict(model, path):
    torch.save(model.state_dict(), path)


def save_half_state_dict(model, path):
    torch.save(convert_weights_of(model).state_dict(), path)


def convert_weights_of(model):
    model = copy.deepcopy(model)
    convert_weights(model)
    return model


def save_safetensors(model, path):
    save_file({key: value.contiguous() for key, value in model.state_dict().items()}, path)


def save_open_clip_training(model, path):
    """As open_clip's training script writes epoch_N.pt, the model being wrapped in DDP."""
    optimizer = torch.optim.AdamW(model.parameters())
    state_dict = with_prefix(model.state_dict(), "module.")
    entries = dict(epoch=3, name="run", state_dict=state_dict, optimizer=optimizer.state_dict())
    torch.save(entries, path)


FORMATS = {
    "state_dict": (save_state_dict, "weights.pt"),
    "half_state_dict": (save_half_state_dict, "weights.bin"),
    "safetensors": (save_safetensors, "weights.safetensors"),
    "open_clip_training": (save_open_clip_training, "epoch_3.pt"),
}


def test_archive_equals_what_clip_loads(archive, reference):
    checkpoint = read_clip_checkpoint(archive)
    assert_same_tensors(checkpoint.state_dict, reference.state_dict())
    assert checkpoint.model_id == "tiny"
    assert checkpoint.sha256 == hashlib.sha256(archive.read_bytes()).hexdigest()
    scalars = {"input_resolution", "context_length", "vocab_size"}
    assert scalars <= torch.jit.load(archive).state_dict().keys()  # as in OpenAI's files


def test_load_clip_equals_clip_load(archive, reference):
    model, checkpoint = load_clip(str(archive))
    assert checkpoint.model_id == "tiny"
    for ours, theirs in zip(encodings(model), encodings(reference), strict=True):
        assert ours.dtype == torch.float32 and theirs.std() > 0.01
        assert torch.equal(ours, theirs)
    assert not model.training and not any(p.requires_grad for p in model.parameters())
    assert model.visual.input_resolution == 64


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_holds_the_same_model(name, reference, tmp_path):
    save, file_name = FORMATS[name]
    save(reference, tmp_path / file_name)
    model, checkpoint = load_clip(tmp_path / file_name)
    assert_same_tensors(checkpoint.state_dict, reference.state_dict())
    assert_same_tensors(model.state_dict(), reference.state_dict())
    for ours, theirs in zip(encodings(model), encodings(reference), strict=True):
        assert torch.equal(ours, theirs)
    assert checkpoint.model_id == Path(file_name).stem
    assert checkpoint.sha256 == sha256_of_file(tmp_path / file_name)


@pytest.mark.parametrize("name", ["state_dict", "safetensors", "open_clip_training"])
def test_open_clip_model_keeps_its_encodings_and_single_precision(name, open_clip_model, tmp_path):
    save, file_name = FORMATS[name]
    save(open_clip_model, tmp_path / file_name)
    model, checkpoint = load_clip(tmp_path / file_name)
    assert_same_tensors(model.state_dict(), open_clip_model.state_dict())
    for ours, theirs in zip(encodings(model), encodings(open_clip_model), strict=True):
        assert theirs.std() > 0.01
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)
    # The weights are none that a model in half precision could have kept.
    weight = checkpoint.state_dict["visual.layer1.0.conv1.weight"]
    assert not torch.equal(weight, weight.half().float())


def test_half_precision_becomes_single(open_clip_model, tmp_path):
    save_half_state_dict(open_clip_model, tmp_path / "half.pt")
    checkpoint = read_clip_checkpoint(tmp_path / "half.pt")
    floats = [v for v in checkpoint.state_dict.values() if v.is_floating_point()]
    assert {value.dtype for value in floats} == {torch.float32}
    key = "visual.layer1.0.conv1.weight"
    assert torch.equal(checkpoint.state_dict[key], open_clip_model.state_dict()[key].half().float())


@pytest.mark.parametrize("prefix", ["", "module."])
def test_state_dict_of_the_image_encoder_alone(prefix, reference, tmp_path):
    path = tmp_path / "visual.pt"
    torch.save(with_prefix(reference.visual.state_dict(), prefix), path)
    checkpoint = read_clip_checkpoint(path)
    assert_same_tensors(resnet_state_dict(checkpoint), reference.visual.state_dict())
    with pytest.raises(ValueError, match="visual.pt does not hold a whole CLIP model"):
        load_clip(path)


def test_resnet_state_dict_is_the_image_encoders(archive, reference):
    resnet = resnet_state_dict(read_clip_checkpoint(archive))
    assert_same_tensors(resnet, reference.visual.state_dict())


def test_vision_transformer_loads_but_is_no_resnet(vit_archive):
    model, checkpoint = load_clip(vit_archive)
    reference = clip.load(str(vit_archive), device="cpu")[0]
    for ours, theirs in zip(encodings(model), encodings(reference), strict=True):
        assert torch.equal(ours, theirs)
    with pytest.raises(ValueError, match="'vit' has a vision transformer.*RN50x4"):
        resnet_state_dict(checkpoint)


def test_random_archive_depends_on_the_seed_alone(reference, tmp_path):
    state = torch.random.get_rng_state()
    again = read_clip_checkpoint(write_archive(tmp_path / "again.pt"))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert_same_tensors(again.state_dict, reference.state_dict())
    other = read_clip_checkpoint(write_archive(tmp_path / "other.pt", seed=1))
    key = "visual.conv1.weight"
    assert not torch.equal(other.state_dict[key], again.state_dict[key])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["again.pt", "other.pt"]


@pytest.mark.parametrize("name", CLIP_RESNETS)
def test_sizes_agree_with_open_clips_configs(name):
    config = open_clip.get_model_config(name)
    vision = config["vision_cfg"]
    assert CLIP_RESNETS[name] == dict(
        layers=tuple(vision["layers"]),
        width=vision["width"],
        embed_dim=config["embed_dim"],
        input_resolution=vision["image_size"],
    )


# Files that are no CLIP weights.


def test_missing_file(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights at '.*none.pt"):
        read_clip_checkpoint(tmp_path / "none.pt")
    with pytest.raises(FileNotFoundError, match="No weights"):
        read_clip_checkpoint(tmp_path)


@pytest.mark.parametrize("name", ["archive", *FORMATS])
@pytest.mark.parametrize("kept", [0.0, 0.5, 0.999])
def test_truncated_file(name, kept, archive, reference, tmp_path):
    if name == "archive":
        path, content = tmp_path / "tiny.pt", archive.read_bytes()
    else:
        save, file_name = FORMATS[name]
        path = tmp_path / file_name
        save(reference, path)
        content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * kept)])
    with pytest.raises(ValueError, match=rf"{path.name} \([\d,]+ bytes\).*truncated.*Fetch it"):
        read_clip_checkpoint(path)


@pytest.mark.parametrize("file_name", ["random.pt", "random.safetensors"])
def test_random_bytes(file_name, tmp_path):
    path = tmp_path / file_name
    path.write_bytes(torch.randint(256, (10_000,)).to(torch.uint8).numpy().tobytes())
    with pytest.raises(ValueError, match=f"{file_name} .*not a checkpoint"):
        read_clip_checkpoint(path)


OTHER_CONTENTS = {
    "resnet": lambda: torchvision.models.resnet18().state_dict(),
    "training": lambda: {"state_dict": with_prefix({"fc.weight": torch.ones(2)}, "module.")},
    "empty": dict,
    "list": lambda: [torch.ones(2)],
    "tensor": lambda: torch.ones(2),
    "numbers": lambda: {0: torch.ones(2), "state": 3},
    "wrapped_tensor": lambda: {"state_dict": torch.ones(2)},
}


@pytest.mark.parametrize("content", OTHER_CONTENTS)
def test_other_content(content, tmp_path):
    path = tmp_path / "other.pt"
    torch.save(OTHER_CONTENTS[content](), path)
    with pytest.raises(ValueError, match="other.pt holds (no CLIP model|a .*not a state dict)"):
        read_clip_checkpoint(path)


def test_safetensors_of_another_model(tmp_path):
    save_file({"fc.weight": torch.ones(2)}, tmp_path / "other.safetensors")
    with pytest.raises(ValueError, match="other.safetensors holds no CLIP model.*fc.weight"):
        read_clip_checkpoint(tmp_path / "other.safetensors")


def test_detectors_checkpoint_is_not_taken_for_clips(tmp_path):
    path = tmp_path / "model_final.pth"
    torch.save({"model": {"backbone.bottom_up.conv1.weight": torch.ones(2)}, "iteration": 3}, path)
    with pytest.raises(ValueError, match="holds no CLIP model.*backbone.bottom_up.conv1.weight"):
        read_clip_checkpoint(path)


@pytest.mark.parametrize("drop", ["visual.bn1.weight", "ln_final.weight", "text_projection"])
def test_incomplete_model(drop, reference, tmp_path):
    path = tmp_path / "part.pt"
    torch.save({k: v for k, v in reference.state_dict().items() if k != drop}, path)
    with pytest.raises(ValueError, match=f"(?s)part.pt does not hold a whole CLIP model.*{drop}"):
        load_clip(path)


class Code:
    """What pickle runs when it reads the object back."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("zipped", [True, False])
def test_pickled_code_is_refused_and_does_not_run(zipped, tmp_path):
    path, ran = tmp_path / "weights.pt", tmp_path / "ran"
    torch.save({"visual.conv1.weight": Code(ran)}, path, _use_new_zipfile_serialization=zipped)
    with pytest.raises(ValueError, match="weights.pt can't be read .*beside tensors it holds"):
        read_clip_checkpoint(path)
    assert not ran.exists()
    torch.load(path, weights_only=False)
    assert ran.exists()  # the file was dangerous


# clip:// names.


@pytest.fixture
def published(archive, tmp_path, monkeypatch):
    """A 'RN50' that is published below a file:// address, its digest being the last folder.

    Returns the address's file and the place where the clip package caches it.
    """
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    server = tmp_path / "server" / sha256_of_file(archive) / "RN50.pt"
    server.parent.mkdir(parents=True)
    server.write_bytes(archive.read_bytes())
    monkeypatch.setitem(clip.clip._MODELS, "RN50", server.as_uri())
    return server, tmp_path / "home" / ".cache" / "clip" / "RN50.pt"


def test_cached_file_is_used(published, reference):
    server, cached = published
    cached.parent.mkdir(parents=True)
    server.rename(cached)  # nothing is left to download
    model, checkpoint = load_clip("clip://RN50")
    assert_same_tensors(model.state_dict(), reference.state_dict())
    assert checkpoint.model_id == "RN50" and checkpoint.sha256 == server.parent.name


def test_missing_file_is_downloaded(published, reference):
    server, cached = published
    checkpoint = read_clip_checkpoint("clip://RN50")
    assert_same_tensors(checkpoint.state_dict, reference.state_dict())
    assert cached.read_bytes() == server.read_bytes()


class CountingServer(ThreadingHTTPServer):
    """Serves files below a folder; counts what was asked for, and may wait in the middle of it."""

    def __init__(self, folder):
        super().__init__(("127.0.0.1", 0), self.Handler)
        self.folder, self.asked, self.stall, self.stalled = folder, 0, False, threading.Event()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.server.asked += 1
            content = (self.server.folder / self.path[1:]).read_bytes()
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            half = len(content) // 2
            self.wfile.write(content[:half])
            if self.server.stall:
                self.server.stalled.set()
                self.rfile.read()  # until the other side is gone
                return
            time.sleep(0.3)  # others come meanwhile
            self.wfile.write(content[half:])

        def log_message(self, *args):
            pass


@pytest.fixture
def web(published, monkeypatch):
    """The server of the published file, by http."""
    file, _ = published
    server = CountingServer(file.parents[1])
    address = f"http://127.0.0.1:{server.server_port}/{file.parent.name}/{file.name}"
    monkeypatch.setitem(clip.clip._MODELS, "RN50", address)
    yield server
    server.shutdown()
    server.server_close()


def fetch():
    PathManager.get_local_path("clip://RN50")


def start_fetches(count):
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=fetch) for _ in range(count)]
    for process in processes:
        process.start()
    return processes


def exit_codes(processes):
    for process in processes:
        process.join(60)
    return [process.exitcode for process in processes]


def in_cache(cached):
    return sorted(file.name for file in cached.parent.iterdir())


def test_processes_that_race_fetch_once(published, web):
    server, cached = published
    assert exit_codes(start_fetches(4)) == [0, 0, 0, 0]
    assert web.asked == 1 and cached.read_bytes() == server.read_bytes()
    assert in_cache(cached) == ["RN50.pt", "RN50.pt.lock"]


def test_without_locks_each_fetches_a_whole_file(published, web, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("portalocker.Lock.acquire", refuse)
    server, cached = published
    assert exit_codes(start_fetches(3)) == [0, 0, 0]
    assert web.asked > 1 and cached.read_bytes() == server.read_bytes()


def test_a_killed_fetch_does_not_block_the_next(published, web):
    server, cached = published
    web.stall = True
    (killed,) = start_fetches(1)
    assert web.stalled.wait(60)
    killed.kill()
    assert exit_codes([killed]) == [-signal.SIGKILL] and not cached.exists()
    web.stall = False
    assert exit_codes(start_fetches(2)) == [0, 0]
    assert web.asked == 2 and cached.read_bytes() == server.read_bytes()
    (left,) = cached.parent.glob(".partial-*")  # of the killed one; cleared away a day later
    os.utime(left, (0, 0))
    cached.unlink()
    fetch()
    assert in_cache(cached) == ["RN50.pt", "RN50.pt.lock"]


def test_openais_file_is_known_by_its_digest_wherever_it_lies(published, archive):
    assert read_clip_checkpoint(archive).model_id == "RN50"


@pytest.mark.parametrize("cached_content", [None, b"half a file"])
def test_failed_download(published, cached_content):
    server, cached = published
    url = server.as_uri()
    server.unlink()
    if cached_content is not None:
        cached.parent.mkdir(parents=True)
        cached.write_bytes(cached_content)
    with pytest.raises(FileNotFoundError) as error:
        read_clip_checkpoint("clip://RN50")
    assert "clip://RN50 could not be downloaded" in str(error.value)
    assert url in str(error.value) and str(cached) in str(error.value)


def test_download_of_other_content(published):
    server, cached = published
    server.write_bytes(b"a page that asks for a password")
    with pytest.raises(FileNotFoundError, match="RN50 could not be downloaded.*SHA256") as error:
        read_clip_checkpoint("clip://RN50")
    assert server.as_uri() in str(error.value) and str(cached) in str(error.value)


@pytest.mark.parametrize("prefix", ["clip://", "random-clip://"])
def test_unknown_name(prefix):
    assert not PathManager.isfile(f"{prefix}RN51")
    with pytest.raises(ValueError, match="No CLIP .*'RN51'; there are .*RN50x64"):
        read_clip_checkpoint(f"{prefix}RN51")


def test_random_archive_by_name_is_made_once(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setitem(CLIP_RESNETS, "tiny", SIZES)
    monkeypatch.setattr("benchmark.random_clip.TEXT_WIDTHS", {"tiny": 64})
    assert PathManager.isfile("random-clip://tiny")
    first = read_clip_checkpoint("random-clip://tiny")
    assert first.model_id == "random-tiny"
    visual = load_clip("random-clip://tiny")[0].visual
    assert isinstance(visual, ModifiedResNet)
    assert (visual.input_resolution, visual.output_dim) == (64, 48)
    assert [len(stage) for stage in (visual.layer1, visual.layer2)] == [1, 2]
    made = Path(PathManager.get_local_path("random-clip://tiny"))
    written = made.stat().st_mtime_ns
    assert read_clip_checkpoint("random-clip://tiny").sha256 == first.sha256
    assert made.is_relative_to(tmp_path) and made.stat().st_mtime_ns == written
