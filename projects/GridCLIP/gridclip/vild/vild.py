"""The ViLD meta-architecture."""

import os
from typing import Any

import torch
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.meta_arch import GeneralizedRCNN
from detectron2.structures import Boxes, Instances
from torch import Tensor

from gridclip.text import TextEmbeddings

from .classifier import ViLDClassifier
from .roi_heads import ViLDROIHeads


@META_ARCH_REGISTRY.register()
class ViLD(GeneralizedRCNN):
    """Faster R-CNN that knows categories by their text embeddings (arXiv 2104.13921).

    The backbone, the region proposals and box regression are detectron2's. Proposals are classified
    by their cosine to text embeddings (ViLD-text), and embeddings of precomputed regions are pulled
    to those of CLIP's image encoder (ViLD-image).
    """

    roi_heads: ViLDROIHeads

    def __init__(self, *, roi_heads: ViLDROIHeads, classifier: ViLDClassifier, **kwargs: Any):
        """
        Args:
            roi_heads: with or without an image head, ViLD-ensemble or ViLD.
            classifier: holds the vocabulary; becomes a part of ``roi_heads``.
            kwargs: of GeneralizedRCNN, except ``input_format``: images are RGB.

        Raises:
            ValueError: the projection of ``roi_heads`` has another width than the classifier.
        """
        super().__init__(roi_heads=roi_heads, input_format="RGB", **kwargs)
        embed_dim = roi_heads.box_predictor.projection.out_features
        if embed_dim != classifier.embed_dim:
            raise ValueError(
                f"The box predictor's embed_dim is {embed_dim}, the classifier's "
                f"{classifier.embed_dim}: they must be the same."
            )
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
            return self.inference(batched_inputs)
        regions = self._regions(batched_inputs) if self.roi_heads.distillation_weight else None
        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        self._check_no_novel(gt_instances)
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        proposals, losses = self.proposal_generator(images, features, gt_instances)
        _, roi_losses = self.roi_heads(images, features, proposals, gt_instances, regions)
        return {**roi_losses, **losses}

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
