"""OWL-ViT, OWLv2, OmDet-Turbo and Grounding DINO, by transformers."""

import os
from collections.abc import Callable
from functools import partial
from types import SimpleNamespace
from unittest.mock import patch

import torch
from torch import Tensor, nn

from .detect import Contestant, Found, Scene, missing, unit_vectors
from .networks import Network, NetworkForms

CLIP = (122.7709, 116.7460, 104.0937), (68.5005, 66.6322, 70.3232)  # mean and deviation, RGB
IMAGENET = (123.675, 116.28, 103.53), (58.395, 57.12, 57.375)
TEXT = 512  # width of the text embeddings of all but Grounding DINO
WORDS = 40  # which Grounding DINO takes in one pass of at most 256 tokens
QUERIES = 900


def contestants() -> list[Contestant]:
    def contestant(key: str, title: str, network: Callable, text: str, **kwargs) -> Contestant:
        return Contestant(key, title, text, partial(_prepare, network), **kwargs)

    owl = "transformers' post_process_object_detection: a box's best name, score above 0.1, no NMS"
    omdet = (
        "transformers' post_process_grounded_object_detection: the 900 best pairs, score above "
        "0.3, NMS at 0.5"
    )
    dino = (
        "transformers' score threshold of 0.25; in place of text decoded from tokens the word of "
        "the best token; no NMS. BERT's features of the words are cached: they do not depend on "
        "the picture. The layers that fuse text and picture run"
    )
    return [
        contestant("owlvit", "OWL-ViT B/32", owlvit_network, owl, side=768),
        contestant("owlv2", "OWLv2 B/16", owlv2_network, owl, side=960),
        contestant("omdet_turbo", "OmDet-Turbo T", omdet_network, omdet),
        contestant("grounding_dino", "Grounding DINO T", dino_network, dino, names=WORDS),
    ]


def _prepare(build: Callable[[Scene], Network], scene: Scene) -> NetworkForms:
    return NetworkForms(build(scene), scene)


class Normalized(nn.Module):
    """Pixels of 0 to 255, less their mean, by their deviation."""

    def __init__(self, mean: tuple[float, ...], deviation: tuple[float, ...]):
        super().__init__()
        self.mean = nn.Buffer(torch.tensor(mean).view(3, 1, 1))
        self.deviation = nn.Buffer(torch.tensor(deviation).view(3, 1, 1))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.deviation


def owlvit_network(scene: Scene) -> Network:
    hf = _transformers()
    parts = hf.OwlViTForObjectDetection, hf.OwlViTConfig, hf.OwlViTImageProcessor
    return _owl_network(scene, *parts, patch=32)


def owlv2_network(scene: Scene) -> Network:
    hf = _transformers()
    parts = hf.Owlv2ForObjectDetection, hf.Owlv2Config, hf.Owlv2ImageProcessor
    return _owl_network(scene, *parts, patch=16)


def _owl_network(
    scene: Scene, model_of: Callable, config_of: Callable, processor: Callable, *, patch: int
) -> Network:
    vision = {"image_size": _side(scene), "patch_size": patch}
    model = model_of(config_of(vision_config=vision))
    del getattr(model, model.base_model_prefix).text_model
    return Network(Owl(model, scene.names), _owl_finish(processor()), True)


class Owl(nn.Module):
    """OWL-ViT or OWLv2 after its text encoder."""

    def __init__(self, model: nn.Module, names: int):
        super().__init__()
        self.model, self.normalize = model, Normalized(*CLIP)
        self.words = nn.Buffer(unit_vectors(names, TEXT)[None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (1, R, C) and boxes (1, R, 4), relative, with their centers."""
        maps, _ = self.model.image_embedder(pixel_values=self.normalize(x))
        features = maps.flatten(1, 2)
        logits, _ = self.model.class_predictor(features, self.words)
        return logits, self.model.box_predictor(features, maps)


def _owl_finish(processor) -> Callable:
    def finish(outputs: tuple[Tensor, ...], size: tuple[int, int]) -> Found:
        logits, boxes = outputs
        given = SimpleNamespace(logits=logits, pred_boxes=boxes)
        (found,) = processor.post_process_object_detection(given, 0.1, target_sizes=[size])
        return Found(found["boxes"], found["scores"], found["labels"])

    return finish


def omdet_network(scene: Scene) -> Network:
    hf = _transformers()
    side = _side(scene)
    config = hf.OmDetTurboConfig(image_size=side, num_queries=_queries(side, (8, 16, 32)))
    model = hf.OmDetTurboForObjectDetection(config)
    del model.language_backbone
    return Network(OmDet(model, scene.names), _omdet_finish, True)


class OmDet(nn.Module):
    """OmDet-Turbo after its text encoder, whose outputs transformers caches, too: a vector of each
    name, and the 77 tokens of the task."""

    def __init__(self, model: nn.Module, names: int):
        super().__init__()
        self.model, self.normalize = model, Normalized(*IMAGENET)
        self.words = nn.Buffer(unit_vectors(names, TEXT)[:, None])
        self.task = nn.Buffer(unit_vectors(77, TEXT)[:, None])
        self.mask = nn.Buffer(torch.ones(1, 77, dtype=torch.long))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (1, Q, C) and boxes (1, Q, 4), relative, with their centers."""
        maps = self.model.encoder(self.model.vision_backbone(self.normalize(x)), return_dict=True)
        found = self.model.decoder(
            maps.extracted_states, self.words, self.task, self.mask, return_dict=True
        )
        return found.decoder_classes[-1], found.decoder_coords[-1]


def _omdet_finish(outputs: tuple[Tensor, ...], size: tuple[int, int]) -> Found:
    from transformers.models.omdet_turbo.processing_omdet_turbo import OmDetTurboProcessor

    logits, boxes = outputs
    given = SimpleNamespace(
        decoder_coord_logits=boxes,
        decoder_class_logits=logits,
        classes_structure=torch.tensor([logits.shape[2]]),
    )
    # Of a processor it takes nothing; to make one would need a tokenizer's files.
    post_process = OmDetTurboProcessor.post_process_grounded_object_detection
    (found,) = post_process(None, given, target_sizes=[size])
    return Found(found["boxes"], found["scores"], found["labels"])


def dino_network(scene: Scene) -> Network:
    hf = _transformers()
    queries = _queries(_side(scene), (8, 16, 32, 64))
    config = hf.GroundingDinoConfig(disable_custom_kernels=True, num_queries=queries)
    module = GroundingDino(hf.GroundingDinoForObjectDetection(config), scene.names)
    return Network(module, partial(_dino_finish, module.word_of_token), True)


class GroundingDino(nn.Module):
    """Grounding DINO after BERT. Every second word has two tokens, and each ends with a full
    stop."""

    def __init__(self, model: nn.Module, names: int):
        super().__init__()
        from transformers.models.grounding_dino import modeling_grounding_dino as library

        self.model, self.normalize = model, Normalized(*IMAGENET)
        start, end, stop, *_ = library.SPECIAL_TOKENS
        ids, words = [start], [-1]
        for i in range(names):
            own = [2000 + 2 * i, 2001 + 2 * i][: 1 + i % 2]
            ids += [*own, stop]
            words += [*(i for _ in own), -1]
        self.ids = nn.Buffer(torch.tensor([[*ids, end]]))
        self.word_of_token = torch.tensor([*words, -1])
        if len(self.word_of_token) > model.config.max_text_len:
            raise ValueError(f"{names} words are more than one pass of Grounding DINO takes.")
        attention, positions = library.generate_masks_with_special_tokens_and_transfer_map(
            self.ids, model.model.special_tokens
        )
        self.attention, self.positions = nn.Buffer(attention), nn.Buffer(positions)
        width = model.config.text_config.hidden_size
        model.model.text_backbone = Cached(unit_vectors(len(self.word_of_token), width)[None])

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Logits (1, Q, 256) of tokens and boxes (1, Q, 4), relative, with their centers."""
        from transformers.models.grounding_dino import modeling_grounding_dino as library

        masks = "generate_masks_with_special_tokens_and_transfer_map"
        # OpenVINO has neither the operations of the masks, which are constant, nor logit.
        with (
            patch.object(library, masks, lambda *_, **__: (self.attention, self.positions)),
            patch.object(torch.special, "logit", _logit),
        ):
            found = self.model(pixel_values=self.normalize(x), input_ids=self.ids)
        return found.logits, found.pred_boxes


class Cached(nn.Module):
    """In place of BERT, with what it said of the words."""

    def __init__(self, features: Tensor):
        super().__init__()
        self.features = nn.Buffer(features)

    def forward(self, *_, **__) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.features)


def _logit(x: Tensor, eps: float) -> Tensor:
    x = x.clamp(eps, 1 - eps)
    return (x / (1 - x)).log()


def _dino_finish(
    word_of_token: Tensor, outputs: tuple[Tensor, ...], size: tuple[int, int]
) -> Found:
    from transformers.image_transforms import center_to_corners_format

    logits, boxes = outputs[0][0], outputs[1][0]
    scores = logits[:, : len(word_of_token)].sigmoid()
    scores, words = scores[:, word_of_token >= 0].max(dim=1)
    height, width = size
    boxes = center_to_corners_format(boxes) * torch.tensor([width, height, width, height])
    keep = scores > 0.25
    return Found(boxes[keep], scores[keep], word_of_token[word_of_token >= 0][words[keep]])


def _side(scene: Scene) -> int:
    height, width = scene.size
    if height != width:
        raise ValueError(f"This detector takes square pictures, not {height} x {width}.")
    return height


def _queries(side: int, strides: tuple[int, ...]) -> int:
    """``QUERIES``, or as many as there are locations in a small picture."""
    return min(QUERIES, sum((-(-side // stride)) ** 2 for stride in strides))


def _transformers():
    os.environ["HF_HUB_OFFLINE"] = "1"
    try:
        import transformers
    except ImportError as error:
        raise missing("transformers") from error
    torch.manual_seed(0)
    return transformers
