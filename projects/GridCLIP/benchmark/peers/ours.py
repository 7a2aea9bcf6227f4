"""GridCLIP and ViLD in their forms."""

import copy
import json
import tempfile
import types
from functools import cached_property, partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from gridclip.export.description import Form
from gridclip.export.formats import trace, write_openvino
from gridclip.export.graph import DetectorGraph, Words
from gridclip.modeling import GridCLIP, optimize_for_inference
from gridclip.vild import ViLD
from gridclip_runtime import engines
from gridclip_runtime.pictures import as_input
from gridclip_runtime.suppression import Candidates, Limits, choose

from .. import contestants
from ..arithmetic import count_arithmetic
from ..contestants import build_from, load_config, random_text_embeddings
from ..roster import ONE_X, VILD
from .detect import BFLOAT16, INT8, OPENVINO, PYTORCH, Contestant, Detect, Found, Scene
from .graphs import Compiled, quantize, to_openvino

TRUNK = "trunk_fp32"
MATCHED_THRESHOLD = 0.01  # as in benchmark.comparison
CATEGORIES = 1203  # of LVIS, whose names a detector was trained with


def _build(config: Path, names: int, pictures: list[Tensor]) -> nn.Module:
    """Random weights, calibrated to the pictures."""

    def factory(path: Path | None) -> nn.Module:
        cfg = load_config(path)
        return build_from(cfg, random_text_embeddings(names, cfg.model.classifier.embed_dim))

    contestant = contestants.Contestant("", "", factory, config)
    return contestant.build([{"image": pictures[0]}], "cpu")


class GridCLIPSource:
    """GridCLIP, whose exported graphs take pictures of any size and any words: they are made once.

    Of a detector that was trained with LVIS's names, those that are not looked for stay in the
    softmax of its dense scores, as they do in use.
    """

    def __init__(self) -> None:
        self._model: GridCLIP | None = None
        self._folder = tempfile.TemporaryDirectory(prefix="peers-")
        self._engines: dict[str, engines.OpenVINO] = {}

    def prepare(self, scene: Scene) -> "GridCLIPForms":
        if self._model is None:
            self._model = _build(ONE_X, CATEGORIES, scene.pictures)
        model = self._model
        if scene.names != CATEGORIES:
            model = copy.deepcopy(model)
            model.set_vocabulary(random_text_embeddings(scene.names, model.classifier.embed_dim))
        return GridCLIPForms(self, model, scene)

    def engine(self, forms: "GridCLIPForms", form: str) -> engines.OpenVINO:
        if form not in self._engines:
            path = Path(self._folder.name, f"{form}.xml")
            if form == OPENVINO:
                self._export(forms, path)
            else:
                self.engine(forms, OPENVINO)
                self._quantize(forms, path)
            self._engines[form] = engines.OpenVINO(path, torch.get_num_threads())
        return self._engines[form]

    def _export(self, forms: "GridCLIPForms", path: Path) -> None:
        model, form = forms.fast, Form()
        graph = DetectorGraph(model, words_as_input=True, raw=False).eval()
        words = Words.of(model)
        about = {"format": engines.FORMAT, "inputs": ["images", *words.given()]}
        program = trace(graph, form, words, max(model.anchor_generator.strides))
        write_openvino(program, form, about, path)

    def _quantize(self, forms: "GridCLIPForms", path: Path) -> None:
        import openvino

        from gridclip.export import int8

        model = engines.openvino_core().read_model(path.with_name(f"{OPENVINO}.xml"))
        about = model.get_rt_info(engines.KEY).astype(str)
        model = int8.quantize(model, map(forms.inputs, forms.scene.pictures))
        model.set_rt_info(json.dumps(json.loads(about)), engines.KEY)
        openvino.save_model(model, path, compress_to_fp16=False)


class GridCLIPForms:
    """See ``Ready``."""

    def __init__(self, source: GridCLIPSource, model: GridCLIP, scene: Scene):
        self.source, self.model, self.scene = source, model, scene
        self.parameters = sum(p.numel() for p in model.parameters())

    @cached_property
    def gmac(self) -> float:
        return count_arithmetic(self.model, {"image": self.scene.pictures[0]})["gmac"]

    @cached_property
    def fast(self) -> GridCLIP:
        return optimize_for_inference(self.model)

    @cached_property
    def words(self) -> dict[str, Any]:
        return {name: x.numpy() for name, x in Words.of(self.model).given().items()}

    def inputs(self, picture: Tensor) -> dict[str, Any]:
        """Of the exported graph."""
        mean = self.model.pixel_mean.flatten().tolist()
        pixels = picture.permute(1, 2, 0).numpy()
        return {
            "images": as_input(pixels, self.model.backbone.size_divisibility, mean),
            **self.words,
        }

    def open(self, form: str) -> Detect:
        if form == PYTORCH:
            return partial(_detect, self.fast)
        if form == BFLOAT16:
            return partial(_detect, optimize_for_inference(self.model, dtype=torch.bfloat16))
        if form == TRUNK:
            return self._trunk()
        engine = self.source.engine(self, form)
        model = self.model
        limits = Limits(
            model.test_score_thresh, model.test_nms_thresh, model.max_detections_per_image
        )

        def detect(picture: Tensor) -> Found:
            size = picture.shape[1], picture.shape[2]
            outputs = engine.run(self.inputs(picture))
            found = Candidates(*(outputs[name][0] for name in Candidates._fields))
            return Found(*(torch.from_numpy(x) for x in choose(found, limits, size, size)))

        return detect

    def _trunk(self) -> Detect:
        """CLIP's residual network alone, on pictures that are prepared before."""
        fast = self.fast
        with torch.inference_mode():
            prepared = {
                id(x): fast.preprocess_image([{"image": x}]).tensor for x in self.scene.pictures
            }

        @torch.inference_mode()
        def run(picture: Tensor) -> Found:
            fast.backbone.bottom_up(prepared[id(picture)])
            return Found(torch.zeros(0, 4), torch.zeros(0), torch.zeros(0, dtype=torch.long))

        return run


def gridclip(source: GridCLIPSource) -> Contestant:
    text = "GridCLIP's own: threshold 0, 300 locations and 1,000 pairs a level, NMS, 300 detections"
    forms = (PYTORCH, BFLOAT16, OPENVINO, INT8)
    return Contestant("gridclip", "GridCLIP R50", text, source.prepare, forms)


def _detect(model: nn.Module, picture: Tensor) -> Found:
    found = model([{"image": picture}])[0]["instances"]
    return Found(found.pred_boxes.tensor, found.scores, found.pred_classes)


def vild() -> list[Contestant]:
    text = (
        "1,000 proposals; score above {}; NMS of each name at 0.5, in our faster form; 300 "
        "detections"
    )
    official, matched = text.format(0), text.format(MATCHED_THRESHOLD)
    return [
        Contestant("vild", "ViLD R50", official, partial(_prepare_vild, 0.0), (PYTORCH,)),
        Contestant(
            "vild_matched", "ViLD R50, matched", matched, partial(_prepare_vild, MATCHED_THRESHOLD)
        ),
    ]


def _prepare_vild(threshold: float, scene: Scene) -> "ViLDForms":
    model = _build(VILD, scene.names, scene.pictures)
    model.set_limits(threshold=threshold)
    return ViLDForms(model, scene)


class ViLDForms:
    """See ``Ready``. In OpenVINO trunk, FPN and the RPN's head are one graph and the second stage's
    head on the pooled regions another. Proposals, RoIAlign and post-processing stay in PyTorch."""

    def __init__(self, model: ViLD, scene: Scene):
        self.scene = scene
        self.parameters = sum(p.numel() for p in model.parameters())
        self.gmac = count_arithmetic(model, {"image": scene.pictures[0]})["gmac"]
        self.fast: ViLD = optimize_for_inference(model)

    def open(self, form: str) -> Detect:
        if form == PYTORCH:
            return partial(_detect, self.fast)
        first, second = self._graphs
        if form == INT8:
            pixels, regions = self._inputs()
            first, second = quantize(first, pixels), quantize(second, regions)
        elif form != OPENVINO:
            raise ValueError(f"ViLD has no form '{form}'.")
        return partial(_detect, with_graphs(self.fast, Compiled(first), Compiled(second)))

    @cached_property
    def _graphs(self) -> tuple[Any, Any]:
        stages = FirstStage(self.fast).eval(), SecondStage(self.fast).eval()
        side = self.fast.roi_heads.box_pooler.output_size[0]
        channels = self.fast.backbone.output_shape()["p2"].channels
        regions = torch.randn(4, channels, side, side)
        pixels = self._pixels(self.scene.pictures[0])
        return (
            to_openvino(stages[0], pixels),
            to_openvino(stages[1], regions, [-1, *regions.shape[1:]]),
        )

    def _pixels(self, picture: Tensor) -> Tensor:
        with torch.no_grad():
            return self.fast.preprocess_image([{"image": picture}]).tensor

    def _inputs(self) -> tuple[list[Any], list[Any]]:
        """What the graphs take, of all pictures."""
        regions: list[Any] = []
        hook = self.fast.roi_heads.box_head.register_forward_pre_hook(
            lambda _, given: regions.append(given[0].numpy().copy())
        )
        for picture in self.scene.pictures:
            self.fast([{"image": picture}])
        hook.remove()
        return [self._pixels(x).numpy() for x in self.scene.pictures], regions


class FirstStage(nn.Module):
    def __init__(self, model: ViLD):
        super().__init__()
        self.backbone, self.rpn = model.backbone, model.proposal_generator

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """Of the FPN's levels: maps, then logits, then deltas, of the RPN."""
        maps = self.backbone(x)
        logits, deltas = self.rpn.rpn_head([maps[name] for name in self.rpn.in_features])
        return (*(maps[name] for name in self.rpn.in_features), *logits, *deltas)


class SecondStage(nn.Module):
    def __init__(self, model: ViLD):
        super().__init__()
        self.box_head, self.box_predictor = model.roi_heads.box_head, model.roi_heads.box_predictor

    def forward(self, regions: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (R, C + 1) and deltas (R, 4)."""
        return self.box_predictor(self.box_head(regions))


def with_graphs(model: ViLD, first: Compiled, second: Compiled) -> ViLD:
    """A copy of an optimised ViLD that runs both graphs in place of its own layers."""
    model = copy.deepcopy(model)
    names = model.proposal_generator.in_features
    outputs: list[list[Tensor]] = []

    def backbone(_: nn.Module, x: Tensor) -> dict[str, Tensor]:
        found = list(first(x))
        levels = [found[i : i + len(names)] for i in range(0, len(found), len(names))]
        outputs[:] = levels[1:]
        return dict(zip(names, levels[0], strict=True))

    def rpn_head(_: nn.Module, maps: list[Tensor]) -> tuple[list[Tensor], list[Tensor]]:
        logits, deltas = outputs
        return logits, deltas

    heads = model.roi_heads
    replaced = {
        model.backbone: backbone,
        model.proposal_generator.rpn_head: rpn_head,
        heads.box_head: lambda _, regions: regions,
        heads.box_predictor: lambda _, regions: second(regions),
    }
    for module, forward in replaced.items():
        module.forward = types.MethodType(forward, module)
    return model
