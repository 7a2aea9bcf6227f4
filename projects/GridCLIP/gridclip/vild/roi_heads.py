"""Second stage of ViLD: detectron2's box branch with embeddings, and the image branch.

In shapes: N images, R sampled proposals (in inference, all) over all images, M regions with a
stored CLIP embedding, F width of the box head's output, D width of CLIP's space, C categories.
"""

from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from detectron2.layers import ShapeSpec
from detectron2.modeling.roi_heads import FastRCNNOutputLayers, StandardROIHeads
from detectron2.modeling.roi_heads.fast_rcnn import fast_rcnn_inference_single_image
from detectron2.structures import Boxes, ImageList, Instances
from torch import Tensor, nn

from .classifier import ViLDClassifier, ensemble_scores


class ViLDOutputLayers(FastRCNNOutputLayers):
    """Fast R-CNN's outputs with a projection to CLIP's space in place of class scores.

    Boxes are regressed without regard to the category. The class logits come from
    ``self.classifier``, which :class:`~gridclip.vild.ViLD` sets.
    """

    classifier: ViLDClassifier

    def __init__(self, input_shape: ShapeSpec, *, embed_dim: int, **kwargs: Any):
        """
        Args:
            input_shape: of the box head's output.
            embed_dim: D.
            kwargs: of detectron2's FastRCNNOutputLayers, except ``num_classes``, which the
                vocabulary sets, and ``cls_agnostic_bbox_reg``.
        """
        super().__init__(input_shape, num_classes=1, cls_agnostic_bbox_reg=True, **kwargs)
        self.projection = make_projection(self.cls_score.in_features, embed_dim)
        del self.cls_score

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """
        Args:
            x: (R, F), the box head's output.

        Returns:
            (R, C + 1) float32 logits, the last of the background, and (R, 4) box deltas. Logits of
            novel categories are minus infinity in training.
        """
        embeddings = self.projection(x)
        classify = self.classifier.training_logits if self.training else self.classifier
        return classify(embeddings), self.bbox_pred(x)

    def inference(
        self, predictions: tuple[Tensor, Tensor], proposals: list[Instances]
    ) -> tuple[list[Instances], list[Tensor]]:
        """As detectron2's, but with probabilities in place of logits, and fast with a threshold of
        0 and LVIS's many categories too."""
        limits = self.test_score_thresh, self.test_nms_thresh, self.test_topk_per_image
        boxes = self.predict_boxes(predictions, proposals)
        scores = predictions[0].split([len(p) for p in proposals])
        results = [
            best_detections(b, s, p.image_size, *limits)
            for b, s, p in zip(boxes, scores, proposals, strict=True)
        ]
        return [instances for instances, _ in results], [kept for _, kept in results]


class ViLDROIHeads(StandardROIHeads):
    """ViLD-text and ViLD-image on detectron2's standard ROI heads.

    Without ``image_head`` both share the box head (ViLD, 'vanilla' in the official code). With it
    distillation has a head of its own, and the scores of both are combined (ViLD-ensemble). There
    is no mask branch; published box AP was trained with one.
    """

    box_predictor: ViLDOutputLayers

    def __init__(self, *, image_head: Any = None, distillation_weight: float = 0.5, **kwargs: Any):
        """
        Args:
            image_head: for the image branch of the ensemble; a module as ``box_head``, or None.
            distillation_weight: of the L1 loss; 0 is ViLD-text, which needs no regions.
            kwargs: of StandardROIHeads, except ``num_classes``, which the vocabulary sets;
                ``box_predictor`` is a :class:`ViLDOutputLayers`.

        Raises:
            ValueError: there is an image head but nothing to train it.
        """
        if image_head is not None and not distillation_weight:
            raise ValueError(
                "The ensemble's image head is trained by distillation alone: give it a weight, or "
                "take image_head=null."
            )
        super().__init__(num_classes=1, **kwargs)
        self.distillation_weight = distillation_weight
        self.image_head = image_head
        if image_head is not None:
            embed_dim = self.box_predictor.projection.out_features
            self.image_projection = make_projection(image_head.output_shape.channels, embed_dim)

    def set_classifier(self, classifier: ViLDClassifier) -> None:
        """Take the classifier, or its new number of categories."""
        self.box_predictor.classifier = classifier
        self.num_classes = self.box_predictor.num_classes = classifier.num_classes

    def forward(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        proposals: list[Instances],
        targets: list[Instances] | None = None,
        regions: list[Instances] | None = None,
        rescore: Callable[[Tensor], Tensor] | None = None,
    ) -> tuple[list[Instances], dict[str, Tensor]]:
        """
        Args:
            images, features, proposals, targets: as in StandardROIHeads.
            regions: in training, N Instances of regions with ``proposal_boxes`` and ``embeddings``,
                (Mi, D) float32 and unit norm; None without distillation.
            rescore: at inference, makes other scores (R, C + 1) of those of the heads.

        Returns:
            As StandardROIHeads; in training with the additional loss ``loss_distillation``.
        """
        if not self.training:
            return self._detect(features, proposals, rescore), {}
        proposals = self.label_and_sample_proposals(proposals, targets)
        return proposals, self._box_losses(features, proposals, regions)

    def _box_losses(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        regions: list[Instances] | None,
    ) -> dict[str, Tensor]:
        if regions is None:
            pooled = self._pool(features, [p.proposal_boxes for p in proposals])
            return self.box_predictor.losses(self.box_predictor(self.box_head(pooled)), proposals)
        pairs = list(zip(proposals, regions, strict=True))
        boxes = [Boxes.cat([p.proposal_boxes, r.proposal_boxes]) for p, r in pairs]
        pooled = self._pool(features, boxes)
        origins = [torch.arange(len(p) + len(r)) >= len(p) for p, r in pairs]
        is_region = torch.cat(origins).to(pooled.device)
        if self.image_head is None:
            # They pass the head together, so that a batch norm in it sees one batch.
            head_features = self.box_head(pooled)
            text, image = head_features[~is_region], head_features[is_region]
            student = self.box_predictor.projection(image)
        else:
            text = self.box_head(pooled[~is_region])
            student = self.image_projection(self.image_head(pooled[is_region]))
        losses = self.box_predictor.losses(self.box_predictor(text), proposals)
        teacher = torch.cat([r.embeddings for r in regions])
        losses["loss_distillation"] = self.distillation_weight * distillation_loss(student, teacher)
        return losses

    def _detect(
        self,
        features: dict[str, Tensor],
        proposals: list[Instances],
        rescore: Callable[[Tensor], Tensor] | None,
    ) -> list[Instances]:
        """By a softmax over everything, novel categories included."""
        pooled = self._pool(features, [p.proposal_boxes for p in proposals])
        logits, deltas = self.box_predictor(self.box_head(pooled))
        if self.image_head is None:
            scores = logits.softmax(dim=1)
        else:
            classifier = self.box_predictor.classifier
            image_logits = classifier(self.image_projection(self.image_head(pooled)))
            scores = ensemble_scores(logits, image_logits, classifier.is_novel)
        if rescore is not None:
            scores = rescore(scores)
        return self.box_predictor.inference((scores, deltas), proposals)[0]

    def _pool(self, features: dict[str, Tensor], boxes: list[Boxes]) -> Tensor:
        return self.box_pooler([features[name] for name in self.box_in_features], boxes)


def distillation_loss(student: Tensor, teacher: Tensor) -> Tensor:
    """ViLD-image: D times the mean absolute difference (section 3.3, scaled as the official code).

    Args:
        student: (M, D), the M regions of all images; of any length.
        teacher: (M, D) float32, unit norm, of CLIP's image encoder.

    Returns:
        A scalar; zero, but with a gradient, if M is 0.
    """
    difference = F.normalize(student.float(), dim=-1) - teacher
    # D * mean over (M, D) is the sum over M; a mean over nothing would be NaN.
    return difference.abs().sum() / max(len(teacher), 1)


def best_detections(
    boxes: Tensor,
    scores: Tensor,
    image_size: tuple[int, int],
    score_thresh: float,
    nms_thresh: float,
    topk: int,
) -> tuple[Instances, Tensor]:
    """What detectron2's ``fast_rcnn_inference_single_image`` returns, with less work for NMS.

    Whether NMS keeps a (proposal, category) pair depends on better pairs alone. So if ``topk`` of
    the best pairs survive among themselves, no other pair can be among the detections; if fewer do,
    more pairs are tried. (The order of pairs with the very same score may differ.)

    Args:
        boxes, scores: (R, 4) and (R, C + 1), of one image.
        image_size: (height, width) in pixels.
        score_thresh, nms_thresh, topk: as in detectron2; topk < 0 is all.
    """
    flat_scores = scores[:, :-1].flatten()
    num_pairs = 16 * topk
    while 0 < num_pairs < len(flat_scores):
        least = flat_scores.topk(num_pairs).values[-1].item()
        if not least > score_thresh:
            break
        found = fast_rcnn_inference_single_image(boxes, scores, image_size, least, nms_thresh, topk)
        if len(found[0]) == topk:
            return found
        num_pairs *= 8
    return fast_rcnn_inference_single_image(
        boxes, scores, image_size, score_thresh, nms_thresh, topk
    )


def make_projection(in_features: int, embed_dim: int) -> nn.Linear:
    """The linear map from a head's features to CLIP's space."""
    projection = nn.Linear(in_features, embed_dim)
    nn.init.xavier_uniform_(projection.weight)
    nn.init.zeros_(projection.bias)
    return projection
