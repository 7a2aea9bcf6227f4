"""The ViLD meta-architecture."""

import os
from collections.abc import Callable
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from gridclip.modeling import CLIPFPN
from gridclip.text import TextEmbeddings

from .classifier import ViLDClassifier
from .region_scores import RegionScores
from .roi_heads import ViLDROIHeads

_LIMITS = {
    "threshold": "test_score_thresh",
    "nms": "test_nms_thresh",
    "max_detections": "test_topk_per_image",
}


@META_ARCH_REGISTRY.register()
class ViLD(GeneralizedRCNN):
    """Faster R-CNN that knows categories by their text embeddings (arXiv 2104.13921).

    The backbone, the region proposals and box regression are detectron2's. Proposals are classified
    by their cosine to text embeddings (ViLD-text), and embeddings of precomputed regions are pulled
    to those of CLIP's image encoder (ViLD-image). At inference CLIP's own scores may count, too.
    """

    roi_heads: ViLDROIHeads

    def __init__(
        self,
        *,
        roi_heads: ViLDROIHeads,
        classifier: ViLDClassifier,
        dense_scores: RegionScores | None = None,
        **kwargs: Any,
    ):
        """
        Args:
            roi_heads: with or without an image head, ViLD-ensemble or ViLD.
            classifier: holds the vocabulary; becomes a part of ``roi_heads``.
            dense_scores: at inference, takes CLIP's embeddings of the proposals into their scores.
                None: the heads alone decide, as in ViLD.
            kwargs: of GeneralizedRCNN, except ``input_format``: images are RGB.

        Raises:
            ValueError: the projection of ``roi_heads`` has another width than the classifier, or
                ``dense_scores`` have no :class:`CLIPFPN` to read.
        """
        super().__init__(roi_heads=roi_heads, input_format="RGB", **kwargs)
        embed_dim = roi_heads.box_predictor.projection.out_features
        if embed_dim != classifier.embed_dim:
            raise ValueError(
                f"The box predictor's embed_dim is {embed_dim}, the classifier's "
                f"{classifier.embed_dim}: they must be the same."
            )
        if dense_scores is not None and not isinstance(self.backbone, CLIPFPN):
            raise ValueError(
                "dense_scores read CLIP's last map, but the backbone is a "
                f"{type(self.backbone).__name__}: take CLIPFPN, or model.dense_scores=null."
            )
        if dense_scores is not None:
            dense_scores.check(classifier.is_novel)
        self.dense_scores = dense_scores
        roi_heads.set_classifier(classifier)

    @property
    def classifier(self) -> ViLDClassifier:
        return self.roi_heads.box_predictor.classifier

    @property
    def num_classes(self) -> int:
        return self.classifier.num_classes

    @property
    def max_detections_per_image(self) -> int:
        return self.roi_heads.box_predictor.test_topk_per_image

    def set_vocabulary(self, vocabulary: TextEmbeddings | str | os.PathLike) -> None:
        """As :meth:`gridclip.modeling.GridCLIP.set_vocabulary`.

        Names are novel unless they were base categories in training.
        """
        self.classifier.set_vocabulary(vocabulary)
        self.roi_heads.set_classifier(self.classifier)

    def set_limits(self, **limits: float) -> None:
        """As :meth:`gridclip.modeling.GridCLIP.set_limits`."""
        for name, limit in limits.items():
            setattr(self.roi_heads.box_predictor, _LIMITS[name], limit)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as GeneralizedRCNN takes them. In training with distillation also
                "region_boxes", (M, 4) float32, XYXY in pixels of "image", and
                "region_embeddings", (M, D) float32, unit norm, CLIP's of these regions.

        Returns:
            In training the losses, else {"instances": Instances} for each image.

        Raises:
            ValueError: regions are missing or not as above, or a novel category is annotated.
        """
        if not self.training:
            return self._detect(batched_inputs)
        regions = self._regions(batched_inputs) if self.roi_heads.distillation_weight else None
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        self._check_no_novel(gt_instances)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, gt_instances)
        _, roi_losses = self.roi_heads(images, features, proposals, gt_instances, regions)
        return {**roi_losses, **losses}

    def _detect(self, batched_inputs: list[dict]) -> list[dict]:
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, _ = self.proposal_generator(images, features, None)
        rescore = self._rescoring(features, proposals)
        found, _ = self.roi_heads(images, features, proposals, rescore=rescore)
        return self._postprocess(found, batched_inputs, images.image_sizes)

    def _rescoring(
        self, features: dict[str, Tensor], proposals: list[Instances]
    ) -> Callable[[Tensor], Tensor] | None:
        """What ``dense_scores`` do to the proposals' scores (R, C + 1)."""
        dense, classifier = self.dense_scores, self.classifier
        if dense is None:
            return None
        boxes = [x.proposal_boxes for x in proposals]
        trunk, res5 = self.backbone.bottom_up, features["res5"].float()
        # As for the logits, half precision would change the scores.
        with torch.autocast(self.device.type, enabled=False):
            p = dense.region_probabilities(trunk, res5, boxes, classifier)
        return lambda scores: dense.rescore(scores, p, classifier.is_novel)

    def _check_no_novel(self, gt_instances: list[Instances]) -> None:
        classes = torch.cat([x.gt_classes for x in gt_instances])
        novel = classes[self.classifier.is_novel[classes]]
        if len(novel):
            raise ValueError(
                f"The novel category '{self.classifier.names[novel[0]]}' is annotated in the "
                "training data: train on a data set of base categories."
            )

    def _regions(self, batched_inputs: list[dict]) -> list[Instances]:
        if missing := {"region_boxes", "region_embeddings"} - batched_inputs[0].keys():
            raise ValueError(
                f"Distillation is on, but the inputs carry no {', '.join(sorted(missing))}: give "
                "the mapper the region-embedding store, or switch the term off with "
                "model.roi_heads.distillation_weight=0 (ViLD-text)."
            )
        regions = []
        for x in batched_inputs:
            boxes, embeddings = x["region_boxes"], x["region_embeddings"]
            widths = {"region_boxes": 4, "region_embeddings": self.classifier.embed_dim}
            for name, width in widths.items():
                kind, expected = f"{tuple(x[name].shape)} {x[name].dtype}", (len(boxes), width)
                if kind != f"{expected} {torch.float32}":
                    raise ValueError(f"{name} must be {expected} float32, not {kind}.")
            size = x["image"].shape[-2:]
            found = Instances(size, proposal_boxes=Boxes(boxes), embeddings=embeddings)
            regions.append(found.to(self.device))
        return regions
