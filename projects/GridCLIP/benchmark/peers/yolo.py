"""YOLO-World and YOLOE, by ultralytics."""

import os
import tempfile
from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..random_weights import SURVIVORS, calibrate_norms
from .detect import Contestant, Found, Scene, missing, unit_vectors
from .networks import Network, NetworkForms

# Of ultralytics' validation. Only with it are there as many candidates as others have.
CONFIDENCE, IOU, MOST = 0.001, 0.7, 300
TEXT = 512  # width of the text embeddings

POST_PROCESSING = (
    f"ultralytics' non_max_suppression as in its validation: confidence {CONFIDENCE}, several "
    f"labels a box, IoU {IOU}, at most {MOST} detections"
)


def yolo_world(scale: str) -> Contestant:
    """``scale``: s, m, l or x."""
    key, title = f"yolo_world_{scale}", f"YOLO-World v2 {scale.upper()}"
    return Contestant(key, title, POST_PROCESSING, partial(_prepare, yolo_world_network, scale))


def yoloe(scale: str) -> Contestant:
    """``scale``: s, m, l or x."""
    key, title = f"yoloe_{scale}", f"YOLOE v8 {scale.upper()}"
    return Contestant(key, title, POST_PROCESSING, partial(_prepare, yoloe_network, scale))


def _prepare(build: Callable[[str, Scene], Network], scale: str, scene: Scene) -> NetworkForms:
    return NetworkForms(build(scale, scene), scene)


def yolo_world_network(scale: str, scene: Scene) -> Network:
    """Text guides the neck, so the embeddings are constants of the network."""
    model = _tasks().WorldModel(f"yolov8{scale}-worldv2.yaml", verbose=False).eval()
    words = unit_vectors(scene.names, TEXT)
    model.txt_feats = words[None]
    last = model.model[-1]
    last.nc = scene.names
    last.cv4 = nn.ModuleList(WordsAsWeights(head, words) for head in last.cv4)
    return _network(model, scene)


class WordsAsWeights(nn.Module):
    """A contrastive head of YOLO-World's as a convolution, whose weights are the words (C, D).

    ultralytics has a product of matrices here, which OpenVINO fails to compile in eight bits; and
    one bias for all words, which NNCF takes for one of the first word.
    """

    def __init__(self, head: nn.Module, words: Tensor):
        super().__init__()
        self.norm, self.bias = head.norm, head.bias
        weight = F.normalize(words, dim=1) * head.logit_scale.detach().exp()
        self.weight = nn.Buffer(weight[:, :, None, None])

    def forward(self, x: Tensor, _: Tensor) -> Tensor:
        """Logits (1, C, H, W) of features (1, D, H, W)."""
        return F.conv2d(self.norm(x), self.weight, self.bias.expand(len(self.weight)))


def yoloe_network(scale: str, scene: Scene) -> Network:
    """The text embeddings become the weights of its last convolutions, as ultralytics does it."""
    model = _tasks().YOLOEModel(f"yoloe-v8{scale}.yaml", verbose=False).eval()
    names = [f"category {i}" for i in range(scene.names)]
    model.set_classes(names, unit_vectors(scene.names, TEXT)[None])
    network = _network(model, scene)
    model.model[-1].fuse(model.pe)
    return network


def _network(model: nn.Module, scene: Scene) -> Network:
    model.requires_grad_(False)
    model.model[-1].export = True  # gives boxes and scores alone
    module = Scaled(model)
    x = scene.pictures[0][None].float()
    with torch.no_grad():
        calibrate_norms(module, x)
        _calibrate_scores(module, x)
        model.fuse(verbose=False)
    return Network(module, _finish)


class Scaled(nn.Module):
    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def forward(self, x: Tensor) -> Tensor:
        """(1, 4 + C, R) of (1, 3, H, W), 0 to 255."""
        return self.model(x / 255)


def _calibrate_scores(module: Scaled, x: Tensor) -> None:
    """Let ``SURVIVORS`` pairs pass the threshold, as in the other detectors."""
    scores = module(x)[0, 4:].flatten().double()
    best = scores.topk(min(SURVIVORS, len(scores))).values[-1]
    shift = torch.tensor(CONFIDENCE).double().logit() - best.logit()
    for head in module.model.model[-1].cv4:
        head.bias += shift


def _finish(outputs: tuple[Tensor, ...], size: tuple[int, int]) -> Found:
    from ultralytics.utils.nms import non_max_suppression
    from ultralytics.utils.ops import clip_boxes

    found = non_max_suppression(outputs[0], CONFIDENCE, IOU, multi_label=True, max_det=MOST)[0]
    return Found(clip_boxes(found[:, :4], size), found[:, 4], found[:, 5].long())


def _tasks():
    """``ultralytics.nn.tasks``, which neither asks the network nor writes into the home folder."""
    if "YOLO_CONFIG_DIR" not in os.environ:
        os.environ["YOLO_CONFIG_DIR"] = _FOLDER.name
    os.environ.update(YOLO_OFFLINE="1", YOLO_AUTOINSTALL="0", YOLO_VERBOSE="0")
    try:
        from ultralytics import settings
        from ultralytics.nn import tasks
    except ImportError as error:
        raise missing("ultralytics") from error
    settings.update(sync=False)
    return tasks


_FOLDER = tempfile.TemporaryDirectory(prefix="ultralytics-")
