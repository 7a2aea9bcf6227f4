"""How each detector of the comparison is built."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from detectron2 import model_zoo
from detectron2.config import LazyConfig, instantiate
from detectron2.modeling import GeneralizedRCNN, build_model
from detectron2.structures import Boxes, Instances
from omegaconf import DictConfig
from torch import nn
from torchvision.models.detection import fcos_resnet50_fpn

from gridclip.engine import GridCLIPCheckpointer
from gridclip.text import TextEmbeddings, load_categories

from .random_weights import calibrate_norms, calibrate_scores


@dataclass(frozen=True)
class Contestant:
    """A description from which any process can build the detector.

    Attributes:
        key: its name in JSON.
        title: its name for people.
        factory: makes the model from ``config``, with random weights.
        config: the file of a LazyConfig with the model, the optimizer and the schedule; None: the
            comparison does not train this detector.
        weights: a checkpoint; None: random weights.
    """

    key: str
    title: str
    factory: Callable[[Path | None], nn.Module]
    config: Path | None = None
    weights: str | None = None

    def build(self, inputs: list[dict], device: str) -> nn.Module:
        """The model on ``device``, in evaluation mode.

        Args:
            inputs: pictures to which random weights are calibrated.
        """
        torch.manual_seed(0)
        model = self.factory(self.config).to(device).eval()
        if self.weights:
            GridCLIPCheckpointer(model).load(self.weights)
        else:
            calibrate_norms(model, inputs)
            calibrate_scores(model, inputs)
        return model


def post_processing(model: nn.Module) -> dict[str, float]:
    """The settings that detections depend on."""
    if isinstance(model, TorchvisionDetector):
        names = ("score_thresh", "topk_candidates", "nms_thresh", "detections_per_img")
        return {name: getattr(model.detector, name) for name in names}
    if isinstance(model, GeneralizedRCNN):
        names = ("test_score_thresh", "test_nms_thresh", "test_topk_per_image")
        settings = {name: getattr(model.roi_heads.box_predictor, name) for name in names}
        return {"proposals": model.proposal_generator.post_nms_topk[False], **settings}
    names = ("test_score_thresh", "test_topk_candidates", "test_nms_thresh")
    return {name: getattr(model, name) for name in (*names, "max_detections_per_image")}


def load_config(path: Path) -> DictConfig:
    """Read the config of GridCLIP or ViLD.

    Raises:
        FileNotFoundError: the file does not exist.
        ValueError: the config's model has no text classifier.
    """
    if not path.is_file():
        raise FileNotFoundError(f"No config at {path}: see projects/GridCLIP/configs.")
    cfg = LazyConfig.load(str(path))
    if "classifier" not in cfg.get("model", {}):
        raise ValueError(f"{path} has no model.classifier: give a config of GridCLIP or ViLD.")
    return cfg


def text_embeddings(cfg: DictConfig) -> TextEmbeddings:
    """The file that the config names, or random embeddings of its categories without the file."""
    file = Path(cfg.model.classifier.text_embeddings)
    if file.is_file():
        return TextEmbeddings.load(file)
    names = cfg.clip.names
    count = len(instantiate(cfg.data.train).names if names is None else load_categories(names))
    return random_text_embeddings(count, cfg.model.classifier.embed_dim)


def random_text_embeddings(count: int, dim: int) -> TextEmbeddings:
    """A unit vector of width ``dim`` for each of ``count`` categories, the same in every call."""
    table = torch.randn(count, dim, generator=torch.Generator().manual_seed(count))
    names = tuple(f"category {i}" for i in range(count))
    return TextEmbeddings(names, F.normalize(table, dim=1), (), "random", "")


def from_config(config: Path) -> nn.Module:
    """GridCLIP or ViLD."""
    cfg = load_config(config)
    return build_from(cfg, text_embeddings(cfg))


def build_from(cfg: DictConfig, words: TextEmbeddings) -> nn.Module:
    """The model of a config with this vocabulary. The annotations need not be there: what the
    config takes from them, and what does not change the speed, is made up."""
    # Plain dicts on the outside, as a DictConfig can't hold text embeddings.
    model, classifier = {**cfg.model}, {**cfg.model.classifier, "text_embeddings": words}
    novel = range(len(words) * 337 // 1203)  # a training step leaves them out: as many as in LVIS
    if model.get("federated_weights") is not None:
        model["federated_weights"] = (torch.arange(len(words)) >= len(novel)).float()
    if "novel_classes" in classifier:
        classifier["novel_classes"] = novel
    return instantiate({**model, "classifier": classifier})


def fcos_like(config: Path) -> nn.Module:
    """detectron2's FCOS, which has a closed set of classes.

    Backbone, neck, towers, number of categories and post-processing are those of a GridCLIP config,
    but for the score threshold: FCOS thresholds all pairs, GridCLIP scores few locations.
    """
    cfg = load_config(config)
    cfg.model.test_score_thresh = 0.01
    cfg.model._target_ = "benchmark.fcos.fcos_of"
    return build_from(cfg, text_embeddings(cfg))


def lvis_faster_rcnn(_: None = None) -> nn.Module:
    """detectron2's LVIS v1 Mask R-CNN R50 without its mask branch."""
    cfg = model_zoo.get_config("LVISv1-InstanceSegmentation/mask_rcnn_R_50_FPN_1x.yaml")
    cfg.MODEL.MASK_ON = False
    cfg.MODEL.DEVICE = "cpu"
    return build_model(cfg)


def torchvision_fcos(_: None = None) -> nn.Module:
    """torchvision's FCOS R50 with COCO's 91 classes; it does not resize pictures."""
    return TorchvisionDetector(
        fcos_resnet50_fpn(weights=None, weights_backbone=None, _skip_resize=True)
    )


class TorchvisionDetector(nn.Module):
    """Gives a detector of torchvision detectron2's inputs and outputs, for inference only."""

    def __init__(self, detector: nn.Module):
        super().__init__()
        self.detector = detector

    def forward(self, batched_inputs: list[dict]) -> list[dict]:
        device = next(self.parameters()).device
        images = [x["image"].to(device).float().div(255) for x in batched_inputs]
        return [
            {
                "instances": Instances(
                    tuple(image.shape[-2:]),
                    pred_boxes=Boxes(found["boxes"]),
                    scores=found["scores"],
                    pred_classes=found["labels"],
                )
            }
            for image, found in zip(images, self.detector(images), strict=True)
        ]
