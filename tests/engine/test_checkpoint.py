"""Starting a detector from CLIP weights, and checkpoints that are whole or absent."""

import os
import pickle
from pathlib import Path
from zipfile import ZipFile

import numpy as np
import open_clip
import pytest
import torch
import torchvision
from clip.model import convert_weights
from detectron2.modeling.backbone import BasicStem, ResNet
from safetensors.torch import save_file
from torch import nn
from torch.optim.swa_utils import AveragedModel
from torchvision.models.feature_extraction import create_feature_extractor

from gridclip.clip_weights import load_clip
from gridclip.engine import GridCLIPCheckpointer
from gridclip.modeling import CLIPResNet

SIZES = dict(layers=(1, 2, 1, 1), width=8, embed_dim=32, input_resolution=64)


class Detector(nn.Module):
    """The two parts that the checkpointer tells apart: CLIP's image encoder and the rest."""

    def __init__(self, **kwargs):
        super().__init__()
        self.backbone = nn.Module()
        self.backbone.bottom_up = CLIPResNet(**SIZES | kwargs)
        self.head = nn.Linear(4, 2)


def snapshot(model):
    return {key: value.clone() for key, value in model.state_dict().items()}


def assert_equal(state_dict, expected):
    assert state_dict.keys() == expected.keys()
    for key, value in expected.items():
        assert torch.equal(state_dict[key], value), key


# -- initialisation from CLIP


@pytest.fixture(scope="module")
def archive(make_clip):
    return make_clip(vision_layers=(1, 2, 1, 1))


@pytest.fixture
def clip_model(archive):
    return load_clip(archive)[0]


def save_archive(model, archive, path):
    path.write_bytes(archive.read_bytes())


def save_state_dict(model, archive, path):
    torch.save(model.state_dict(), path)


def save_half_state_dict(model, archive, path):
    convert_weights(model)
    torch.save(model.state_dict(), path)


def save_safetensors(model, archive, path):
    save_file(model.state_dict(), path)


def save_open_clip_training(model, archive, path):
    state_dict = {f"module.{key}": value for key, value in model.state_dict().items()}
    torch.save(dict(epoch=3, name="run", state_dict=state_dict), path)


def save_image_encoder(model, archive, path):
    torch.save(model.visual.state_dict(), path)


FORMATS = {
    "RN.pt": save_archive,
    "state_dict.pth": save_state_dict,
    "half.bin": save_half_state_dict,
    "clip.safetensors": save_safetensors,
    "epoch_3.pt": save_open_clip_training,
    "visual.pt": save_image_encoder,
}


@pytest.mark.parametrize("freeze_norm", [True, False])
@pytest.mark.parametrize("file_name", FORMATS)
def test_clip_weights_become_the_backbone(file_name, freeze_norm, archive, clip_model, tmp_path):
    visual = snapshot(clip_model.visual)
    FORMATS[file_name](clip_model, archive, tmp_path / file_name)
    model = Detector(freeze_norm=freeze_norm)
    head = snapshot(model.head)
    GridCLIPCheckpointer(model).load(str(tmp_path / file_name))
    assert_equal(model.backbone.bottom_up.state_dict(), visual)
    assert_equal(model.head.state_dict(), head)


def test_files_without_the_norms_batch_counts(clip_model, tmp_path):
    weights = clip_model.visual.state_dict()
    weights = {k: v for k, v in weights.items() if not k.endswith("num_batches_tracked")}
    torch.save(weights, tmp_path / "visual.pt")
    model = Detector()
    GridCLIPCheckpointer(model).load(str(tmp_path / "visual.pt"))
    loaded = model.backbone.bottom_up.state_dict()
    assert_equal({key: loaded[key] for key in weights}, weights)


def test_backbone_sees_what_clip_sees(archive, clip_model):
    model = Detector().eval()
    GridCLIPCheckpointer(model).resume_or_load(str(archive), resume=False)
    bottom_up = model.backbone.bottom_up
    x = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        embedding = bottom_up.image_embedding(bottom_up(x)["res5"])
        expected = clip_model.encode_image(x)
    assert expected.std() > 0.01
    torch.testing.assert_close(embedding, expected, rtol=0, atol=1e-4)


def test_backbone_from_open_clips_own_model(tmp_path):
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(layers=(1, 2, 1, 1), width=8, image_size=64),
        text_cfg=dict(width=64, heads=1, layers=1, vocab_size=100),
    )
    save_open_clip_training(model, None, tmp_path / "epoch_1.pt")
    detector = Detector()
    GridCLIPCheckpointer(detector).load(str(tmp_path / "epoch_1.pt"))
    assert_equal(detector.backbone.bottom_up.state_dict(), model.visual.state_dict())


@pytest.mark.parametrize(
    ("sizes", "key"),
    [
        (dict(width=16), "conv1.weight"),
        (dict(layers=(1, 3, 1, 1)), "layer2.2.conv1.weight"),  # the file has fewer blocks
        (dict(layers=(1, 1, 1, 1)), "layer2.1.conv1.weight"),  # the file has more blocks
        (dict(embed_dim=48), "attnpool.c_proj.weight"),
        (dict(input_resolution=96), "attnpool.positional_embedding"),
    ],
)
def test_clip_of_other_sizes(sizes, key, archive):
    model = Detector(**sizes)
    before = snapshot(model)
    with pytest.raises(ValueError, match=f"tiny.pt is another CLIP.*backbone.bottom_up.{key} "):
        GridCLIPCheckpointer(model).load(str(archive))
    assert_equal(model.state_dict(), before)


def test_incomplete_image_encoder(clip_model, tmp_path):
    weights = clip_model.state_dict()
    del weights["visual.bn2.running_mean"]
    torch.save(weights, tmp_path / "part.pt")
    with pytest.raises(ValueError, match="bottom_up.bn2.running_mean it has nothing"):
        GridCLIPCheckpointer(Detector()).load(str(tmp_path / "part.pt"))


def test_vision_transformer(tmp_path):
    model = open_clip.CLIP(
        embed_dim=32,
        vision_cfg=dict(layers=1, width=64, patch_size=32, image_size=64),
        text_cfg=dict(width=64, heads=1, layers=1, vocab_size=100),
    )
    torch.save(model.state_dict(), tmp_path / "vit.pt")
    with pytest.raises(ValueError, match="'vit' has a vision transformer"):
        GridCLIPCheckpointer(Detector()).load(str(tmp_path / "vit.pt"))


# -- files that are refused


class Code:
    """What pickle runs when it reads the object back."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


@pytest.mark.parametrize("suffix", [".pkl", ".pyth"])
def test_pickles_are_refused_unread(suffix, tmp_path):
    path, ran = tmp_path / f"weights{suffix}", tmp_path / "ran"
    path.write_bytes(pickle.dumps({"model": Code(ran)}))
    with pytest.raises(ValueError, match=f"weights{suffix} is a pickle.*torch.save"):
        GridCLIPCheckpointer(Detector()).load(str(path))
    assert not ran.exists()


def test_code_in_a_checkpoint_is_refused(tmp_path):
    path, ran = tmp_path / "model.pth", tmp_path / "ran"
    torch.save({"model": {"head.weight": torch.ones(2, 4)}, "trainer": Code(ran)}, path)
    with pytest.raises(ValueError, match="model.pth can't be read .* it holds .* its state dict"):
        GridCLIPCheckpointer(Detector()).load(str(path))
    assert not ran.exists()


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="No weights at '.*none.pth'"):
        GridCLIPCheckpointer(Detector()).load(str(tmp_path / "none.pth"))


# -- saving and resuming


class Run:
    """A model, its optimizer and their checkpoints in one folder."""

    def __init__(self, folder):
        self.model = Detector(freeze_at=5)
        self.optimizer = torch.optim.SGD(self.model.head.parameters(), lr=0.1, momentum=0.9)
        self.checkpointer = GridCLIPCheckpointer(self.model, str(folder), optimizer=self.optimizer)

    def step(self):
        self.optimizer.zero_grad()
        self.model.head(torch.randn(3, 4)).square().sum().backward()
        self.optimizer.step()

    @property
    def momentum(self):
        return self.optimizer.state_dict()["state"][0]["momentum_buffer"]


def files(folder):
    return {path.name for path in folder.iterdir()}


def test_round_trip(tmp_path):
    run = Run(tmp_path)
    run.step()
    run.checkpointer.save("model_0000009", iteration=9)
    assert files(tmp_path) == {"model_0000009.pth", "last_checkpoint"}
    assert (tmp_path / "last_checkpoint").read_text() == "model_0000009.pth"

    resumed = Run(tmp_path)
    assert resumed.checkpointer.has_checkpoint()
    extra = resumed.checkpointer.resume_or_load("", resume=True)
    assert extra == {"iteration": 9}
    assert_equal(resumed.model.state_dict(), run.model.state_dict())
    assert torch.equal(resumed.momentum, run.momentum)


def test_last_checkpoint_follows_the_newest(tmp_path):
    run = Run(tmp_path)
    for i in range(3):
        run.step()
        run.checkpointer.save(f"model_{i}", iteration=i)
    assert files(tmp_path) == {"model_0.pth", "model_1.pth", "model_2.pth", "last_checkpoint"}
    assert run.checkpointer.get_checkpoint_file() == str(tmp_path / "model_2.pth")
    run.step()
    run.checkpointer.save("model_2", iteration=5)  # written over
    resumed = Run(tmp_path)
    assert resumed.checkpointer.resume_or_load("")["iteration"] == 5
    assert_equal(resumed.model.state_dict(), run.model.state_dict())


def test_resume_goes_before_the_clip_weights_and_falls_back_to_them(archive, tmp_path):
    fresh = Run(tmp_path)
    assert fresh.checkpointer.resume_or_load(str(archive), resume=True) == {}
    visual = load_clip(archive)[0].visual
    assert_equal(fresh.model.backbone.bottom_up.state_dict(), visual.state_dict())

    nn.init.zeros_(fresh.model.backbone.bottom_up.conv1.weight)
    fresh.step()
    fresh.checkpointer.save("model_0", iteration=0)
    resumed = Run(tmp_path)
    resumed.checkpointer.resume_or_load(str(archive), resume=True)
    assert_equal(resumed.model.state_dict(), fresh.model.state_dict())

    restarted = Run(tmp_path)
    restarted.checkpointer.resume_or_load(str(archive), resume=False)
    assert_equal(restarted.model.backbone.bottom_up.state_dict(), visual.state_dict())


def test_weights_alone_leave_the_optimizer_alone(tmp_path):
    run = Run(tmp_path)
    run.step()
    run.checkpointer.save("model_0", iteration=0)
    other = Run(tmp_path / "other")
    other.checkpointer.resume_or_load(str(tmp_path / "model_0.pth"), resume=True)
    assert_equal(other.model.state_dict(), run.model.state_dict())
    assert not other.optimizer.state_dict()["state"]


def save_with_state_dict(model, path):
    torch.save({"state_dict": model.state_dict(), "epoch": 3}, path)


def save_wrapped_in_ddp(model, path):
    torch.save({f"module.{key}": value for key, value in model.state_dict().items()}, path)


def save_with_numpy_scalar(model, path):
    """As a training script does that keeps its best value."""
    torch.save({"model": model.state_dict(), "best": np.float64(0.5), "n": np.int64(3)}, path)


DETECTOR_FORMATS = {
    "bare.pth": lambda model, path: torch.save(model.state_dict(), path),
    "weights.safetensors": lambda model, path: save_file(model.state_dict(), path),
    "lightning.ckpt": save_with_state_dict,
    "ddp.pth": save_wrapped_in_ddp,
    "scalar.pth": save_with_numpy_scalar,
}


@pytest.mark.parametrize("file_name", DETECTOR_FORMATS)
def test_weights_of_a_detector_in_every_format(file_name, tmp_path, monkeypatch):
    trained, model = Detector(), Detector()
    DETECTOR_FORMATS[file_name](trained, tmp_path / file_name)
    reads = []
    load = torch.load
    monkeypatch.setattr(torch, "load", lambda *args, **kw: reads.append(1) or load(*args, **kw))
    GridCLIPCheckpointer(model, trained=True).load(str(tmp_path / file_name))
    assert_equal(model.state_dict(), trained.state_dict())
    assert len(reads) == (not file_name.endswith("safetensors"))  # a large file is read once


def test_numpy_1s_name_of_a_scalar(tmp_path):
    """numpy 1 had it in numpy.core, which numpy 2 calls numpy._core."""
    save_with_numpy_scalar(Detector(), tmp_path / "new.pth")
    with ZipFile(tmp_path / "new.pth") as new, ZipFile(tmp_path / "old.pth", "w") as old:
        for name in new.namelist():
            old.writestr(name, new.read(name).replace(b"numpy._core", b"numpy.core"))
    assert b"numpy._core" not in (tmp_path / "old.pth").read_bytes()
    GridCLIPCheckpointer(Detector()).load(str(tmp_path / "old.pth"))


def taller(state_dict):
    return state_dict | {"head.weight": torch.ones(3, 4)}


def without_bias(state_dict):
    return {key: value for key, value in state_dict.items() if key != "head.bias"}


def with_more(state_dict):
    return state_dict | {"tower.0.weight": torch.ones(2)}


@pytest.mark.parametrize("trained", [False, True])
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        (taller, r"head.weight it has \(3, 4\), not \(2, 4\)"),
        (without_bias, r"head.bias it has nothing, not \(2,\)"),
        (with_more, r"tower.0.weight it has \(2,\), not nothing"),
    ],
)
def test_weights_of_another_detector_are_refused(change, difference, trained, tmp_path):
    torch.save({"model": change(Detector().state_dict()), "iteration": 3}, tmp_path / "other.pth")
    model = Detector()
    before = snapshot(model)
    message = f"other.pth holds another detector .*1 of the tensors differ.*{difference}.*config"
    with pytest.raises(ValueError, match=message):
        GridCLIPCheckpointer(model, trained=trained).load(str(tmp_path / "other.pth"))
    assert_equal(model.state_dict(), before)


def test_what_is_not_learned_need_not_be_in_a_file(tmp_path):
    trained, model = Detector(), Detector()
    model.register_buffer("loss_normalizer", torch.tensor(3.0))
    weights = {k: v for k, v in trained.state_dict().items() if "num_batches_tracked" not in k}
    assert len(weights) < len(trained.state_dict())
    torch.save(weights | {"pixel_mean": torch.ones(3)}, tmp_path / "part.pth")
    GridCLIPCheckpointer(model, trained=True).load(str(tmp_path / "part.pth"))
    assert torch.equal(model.head.weight, trained.head.weight) and model.loss_normalizer == 3


def test_averaged_weights_of_another_detector_are_refused(tmp_path):
    trained = Detector()
    average = {f"module.{key}": value for key, value in taller(trained.state_dict()).items()}
    content = {"model": trained.state_dict(), "ema": average | {"n_averaged": torch.tensor(1)}}
    torch.save(content, tmp_path / "other.pth")
    model = Detector()
    before = snapshot(model)
    checkpointer = GridCLIPCheckpointer(model, ema=AveragedModel(model))
    with pytest.raises(ValueError, match="another detector.*head.weight it has"):
        checkpointer.load(str(tmp_path / "other.pth"))
    assert_equal(model.state_dict(), before)


def test_a_backbone_is_no_trained_detector(archive, tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    files = {str(archive): "holds a CLIP model", str(tmp_path / "resnet18.pth"): "holds a ResNet"}
    for path, message in (files | {"": "No weights are given"}).items():
        with pytest.raises(ValueError, match=f"{message}.*train.init_checkpoint="):
            GridCLIPCheckpointer(Detector(), trained=True).load(path)


def write_half_and_fail(error):
    save = torch.save

    def crash(data, file):
        save(data, file)
        size = file.tell()
        assert size > 10_000
        file.truncate(size // 2)
        raise error

    return crash


@pytest.mark.parametrize("error", [OSError("No space left on device"), KeyboardInterrupt()])
@pytest.mark.parametrize("name", ["model_1", "model_0"])  # a new file, and one written over
def test_crash_while_saving_loses_nothing(name, error, tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.step()
    run.checkpointer.save("model_0", iteration=0)
    saved, momentum = snapshot(run.model), run.momentum.clone()
    content = (tmp_path / "model_0.pth").read_bytes()
    run.step()
    with monkeypatch.context() as patch:
        patch.setattr(torch, "save", write_half_and_fail(error))
        with pytest.raises(type(error)):
            run.checkpointer.save(name, iteration=1)

    assert (tmp_path / "last_checkpoint").read_text() == "model_0.pth"
    assert (tmp_path / "model_0.pth").read_bytes() == content
    assert not (tmp_path / "model_1.pth").exists()
    resumed = Run(tmp_path)
    assert resumed.checkpointer.resume_or_load("")["iteration"] == 0
    assert_equal(resumed.model.state_dict(), saved)
    assert torch.equal(resumed.momentum, momentum)

    resumed.checkpointer.save(name, iteration=1)  # what was left half-written gives way
    assert files(tmp_path) == {"model_0.pth", f"{name}.pth", "last_checkpoint"}
    assert Run(tmp_path).checkpointer.resume_or_load("")["iteration"] == 1


def test_crash_before_the_tag_leaves_the_old_one(tmp_path, monkeypatch):
    run = Run(tmp_path)
    run.checkpointer.save("model_0", iteration=0)
    replace = os.replace

    def crash(source, target):
        if str(target).endswith("last_checkpoint"):
            raise OSError("No space left on device")
        replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr("os.replace", crash)
        with pytest.raises(OSError, match="No space left"):
            run.checkpointer.save("model_1", iteration=1)
    assert Run(tmp_path).checkpointer.resume_or_load("")["iteration"] == 0


def test_ranks_that_do_not_save(tmp_path):
    checkpointer = GridCLIPCheckpointer(Detector(), str(tmp_path), save_to_disk=False)
    checkpointer.save("model_0")
    assert not files(tmp_path)


# -- initialisation from a ResNet of torchvision


def imagenet_detector():
    stages = ResNet.make_default_stages(depth=50, stride_in_1x1=False, norm="FrozenBN")
    stem = BasicStem(in_channels=3, out_channels=64, norm="FrozenBN")
    detector = nn.Module()
    detector.backbone = nn.Module()
    detector.backbone.bottom_up = ResNet(stem, stages, out_features=["res2", "res5"])
    return detector.eval()


@pytest.fixture(scope="module")
def torchvision_resnet():
    model = torchvision.models.resnet50().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_mean)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.uniform_(module.weight, 0.1, 0.5)
            nn.init.uniform_(module.bias)
    return model


def test_torchvision_resnet_gives_the_same_features(torchvision_resnet, tmp_path):
    torch.save(torchvision_resnet.state_dict(), tmp_path / "resnet50.pth")
    detector = imagenet_detector()
    GridCLIPCheckpointer(detector).load(str(tmp_path / "resnet50.pth"))
    images = torch.randn(1, 3, 64, 64)
    outputs = create_feature_extractor(torchvision_resnet, {"layer1": "res2", "layer4": "res5"})
    with torch.no_grad():
        expected, found = outputs(images), detector.backbone.bottom_up(images)
    for name in ("res2", "res5"):
        torch.testing.assert_close(found[name], expected[name], rtol=1e-4, atol=1e-4)


def test_torchvision_resnet_of_another_depth_is_refused(tmp_path):
    torch.save(torchvision.models.resnet18().state_dict(), tmp_path / "resnet18.pth")
    with pytest.raises(ValueError, match="resnet18.pth is another ResNet than model.backbone"):
        GridCLIPCheckpointer(imagenet_detector()).load(str(tmp_path / "resnet18.pth"))
