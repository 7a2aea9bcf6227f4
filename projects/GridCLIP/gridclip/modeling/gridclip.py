"""The GridCLIP meta-architecture.

In shapes: N images, R grid locations over all levels, F width of the head's features, B box outputs
of a location, D width of CLIP's space, C categories of the vocabulary, K of them in a batch's loss,
V windows of an image.
"""

import os
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from detectron2.modeling import META_ARCH_REGISTRY
from detectron2.modeling.anchor_generator import DefaultAnchorGenerator
from detectron2.modeling.meta_arch.fcos import FCOS
from detectron2.modeling.postprocessing import detector_postprocess
from detectron2.structures import Boxes, ImageList, Instances
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from fvcore.nn import giou_loss
from torch import Tensor, nn

from gridclip.text import TextEmbeddings

from .assignment import Assignment, TaskAlignedAssignment
from .candidates import best_detections, best_locations, best_pairs
from .dense_scores import DenseMap, DenseScores
from .federated_loss import federated_classes, sample_classes
from .head import DistributionHead
from .image_alignment import ImageAlignment, Maps
from .score_maps import LevelScores, score_level
from .text_classifier import FoldedClassifier, TextClassifier

_LIMITS = {
    "threshold": "test_score_thresh",
    "nms": "test_nms_thresh",
    "max_detections": "max_detections_per_image",
}


@META_ARCH_REGISTRY.register()
class GridCLIP(FCOS):
    """FCOS whose locations are classified against text embeddings of category names.

    Towers, box transform and suppression are detectron2's FCOS. Two losses are added: *grid-level
    alignment*, of the cosine logits over the categories known for each image, and *image-level
    alignment* of pooled student vectors with stored embeddings of the frozen CLIP image encoder.
    The paper has both names; the losses behind them are our reconstruction.
    """

    anchor_generator: DefaultAnchorGenerator

    def __init__(
        self,
        *,
        backbone: nn.Module,
        head: nn.Module,
        classifier: TextClassifier,
        image_alignment: ImageAlignment | None = None,
        dense_scores: DenseScores | None = None,
        assignment: Assignment | None = None,
        box_loss_weight: float = 1.0,
        grid_alignment_weight: float = 1.0,
        federated_weights: Tensor | None = None,
        num_sampled_classes: int = 50,
        seed: int = 0,
        anchor_scale: float = 1.0,
        test_topk_locations: int = 300,
        **kwargs: Any,
    ):
        """
        Args:
            backbone: a :class:`CLIPFPN`; images are RGB.
            head: a :class:`GridHead` or :class:`DistributionHead`.
            classifier: holds the vocabulary.
            image_alignment: None switches the image-level term off.
            dense_scores: at inference, takes CLIP's dense embeddings into the scores. None: the
                grid embeddings alone decide, as in training.
            assignment: says which locations learn which object; None is
                :class:`TaskAlignedAssignment`.
            box_loss_weight, grid_alignment_weight: of the box losses and the classification loss.
            federated_weights: (C,) float, how likely each category is sampled as a negative;
                zero for novel ones. None: only verified negatives.
            num_sampled_classes: negatives sampled for a batch.
            seed: of that sampling. The negatives of a step depend on it and the iteration alone.
            anchor_scale: side of a location's anchor in strides. FCOS gives a level the objects
                that reach 4 to 8 anchors from the location; smaller pictures need smaller anchors.
            test_topk_locations: of a level, at which all categories are scored.
            kwargs: of detectron2's FCOS, except ``num_classes``, which the vocabulary sets, and
                those of the focal loss, which the assignment has.
        """
        super().__init__(backbone=backbone, head=head, num_classes=classifier.num_classes, **kwargs)
        self.input_format = "RGB"
        strides = self.anchor_generator.strides
        self.test_topk_locations = test_topk_locations
        self.anchor_generator = DefaultAnchorGenerator(
            sizes=[[anchor_scale * stride] for stride in strides],
            aspect_ratios=[1.0],
            strides=strides,
        )
        self.classifier = classifier
        self.image_alignment = image_alignment
        if dense_scores is not None:
            dense_scores.check(classifier.is_novel)
        self.dense_scores = dense_scores
        self.assignment = assignment or TaskAlignedAssignment()
        self.box_loss_weight = box_loss_weight
        self.grid_alignment_weight = grid_alignment_weight
        if federated_weights is None:
            federated_weights = torch.zeros(classifier.num_classes)
        if federated_weights.shape != (classifier.num_classes,):
            raise ValueError(
                f"federated_weights has {tuple(federated_weights.shape)} entries, "
                f"the vocabulary {classifier.num_classes} categories."
            )
        self.register_buffer("federated_weights", federated_weights.float(), persistent=False)
        self.num_sampled_classes = num_sampled_classes
        self.seed = seed
        # Positive locations of an image, averaged over steps; saved for resumed runs.
        self.register_buffer("loss_normalizer", torch.tensor(0.0))
        # Where the weights stay as they are, in inference, one folding serves all images.
        self.keep_folded_classifier = False
        self._folded: tuple[Tensor, FoldedClassifier] | None = None

    def set_vocabulary(self, vocabulary: TextEmbeddings | str | os.PathLike) -> None:
        """Detect other categories from now on. Embeddings, count and names change together.

        Args:
            vocabulary: text embeddings, or their file, of the CLIP model of the training
                vocabulary. :class:`gridclip.predictor.Predictor` also takes names.

        Raises:
            ValueError, FileNotFoundError: the vocabulary does not fit; nothing has changed then.
        """
        self.classifier.set_vocabulary(vocabulary)
        self.num_classes = self.classifier.num_classes

    def set_limits(self, **limits: float) -> None:
        """Change which detections are kept: "threshold", the least score; "nms", the IoU of
        suppression; "max_detections" of an image."""
        for name, limit in limits.items():
            setattr(self, _LIMITS[name], limit)

    def forward(self, batched_inputs: list[dict]) -> dict[str, Tensor] | list[dict]:
        """
        Args:
            batched_inputs: as detectron2's dense detectors take them. In training,
                ``GridCLIPDatasetMapper`` adds: for federated data "negative_classes" and
                "not_exhaustive_classes", int64 contiguous ids; with image-level alignment
                "image_embeddings" (V, D) and "image_windows" (V, 4).

        Returns:
            In training the losses, else {"instances": Instances} for each image.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        predictions = self.head(levels)
        if not self.training:
            # Half precision does little harm to maps, but logits in it would change the scores.
            with torch.autocast(self.device.type, enabled=False):
                dense = self._dense_probabilities(features)
                results = self.forward_inference(images, levels, predictions, dense)
            return [
                {"instances": detector_postprocess(r, x.get("height", h), x.get("width", w))}
                for r, x, (h, w) in zip(results, batched_inputs, images.image_sizes, strict=True)
            ]
        grid_features, sides, quality = (torch.cat(x, dim=1) for x in predictions)
        anchors = self.anchor_generator(levels)
        losses = self.detection_losses(anchors, grid_features, sides, quality, batched_inputs)
        if self.image_alignment is not None:
            losses["loss_image_alignment"] = self.image_alignment_loss(
                images, features, grid_features, anchors, batched_inputs
            )
        return losses

    def detection_losses(
        self,
        anchors: list[Boxes],
        grid_features: Tensor,
        sides: Tensor,
        quality: Tensor,
        batched_inputs: list[dict],
    ) -> dict[str, Tensor]:
        """
        Args:
            anchors: of each level, R in all.
            grid_features, sides, quality: (N, R, F), (N, R, B), (N, R, 1), of the head.
            batched_inputs: as in :meth:`forward`.
        """
        seed = (self.seed << 32) + get_event_storage().iter
        sampled = sample_classes(self.federated_weights, self.num_sampled_classes, seed)
        classes, negatives = federated_classes(batched_inputs, sampled, self.num_classes)
        logits = self.classifier.fold(self.head.grid_embedding, classes)(grid_features)
        locations = Boxes.cat(anchors).tensor
        deltas = self.head.deltas(sides)
        boxes = torch.stack([self.box2box_transform.apply_deltas(x, locations) for x in deltas])

        gt_instances = [x["instances"].to(self.device) for x in batched_inputs]
        with torch.no_grad():
            targets = self.assignment(self, anchors, gt_instances, boxes, logits, classes)
        positive = targets.labels != self.num_classes
        positives = self._update_loss_normalizer(int(positive.sum()), len(boxes))
        normalizer = positives if targets.normalizer is None else targets.normalizer

        loss_grid = self.assignment.classification_loss(logits, targets, classes, negatives)
        overlap = giou_loss(boxes[positive], targets.boxes[positive])
        loss_box = (targets.scores[positive] * overlap).sum()
        loss_quality = F.binary_cross_entropy_with_logits(
            quality.squeeze(2)[positive], targets.quality[positive], reduction="sum"
        )
        losses = {
            "loss_grid_alignment": self.grid_alignment_weight * loss_grid / normalizer,
            "loss_box_reg": self.box_loss_weight * loss_box / normalizer,
            "loss_quality": loss_quality / positives,
        }
        if isinstance(self.head, DistributionHead):
            anchored = locations.expand(len(boxes), -1, -1)[positive]
            wanted = self.box2box_transform.get_deltas(anchored, targets.boxes[positive])
            loss = self.head.distribution_loss(sides[positive], wanted)
            loss = self.box_loss_weight * (targets.scores[positive] * loss).sum()
            losses["loss_box_distribution"] = loss / normalizer
        return losses

    def image_alignment_loss(
        self,
        images: ImageList,
        features: dict[str, Tensor],
        grid_features: Tensor,
        anchors: list[Boxes],
        batched_inputs: list[dict],
    ) -> Tensor:
        """The image-level term, a scalar; arguments as in :meth:`detection_losses`."""
        assert self.image_alignment is not None
        if "image_embeddings" not in batched_inputs[0]:
            raise ValueError(
                "Image-level alignment is on, but the inputs carry no 'image_embeddings': give "
                "GridCLIPDatasetMapper the image-embedding store, or switch the term off with "
                "model.image_alignment=null."
            )
        teacher = torch.stack([x["image_embeddings"] for x in batched_inputs]).to(self.device)
        windows = torch.stack([x["image_windows"] for x in batched_inputs]).to(self.device)
        centers = Boxes.cat(anchors).get_centers()
        maps = Maps(self, features, grid_features, centers, windows, images.image_sizes)
        return self.image_alignment(self.image_alignment.pool(maps), teacher, windows)

    def forward_inference(
        self,
        images: ImageList,
        features: list[Tensor],
        predictions: tuple[list[Tensor], ...],
        dense_probabilities: Tensor | None = None,
    ) -> list[Instances]:
        """The head's score is sqrt(sigmoid(logit) * sigmoid(quality)), as in detectron2's FCOS.

        Each level gives its best locations, and of these the best (location, category) pairs by the
        score that counts: the head's and the dense one together.

        Args:
            images: the N images.
            features: a map of each level.
            predictions: of the head: three lists with an entry for each level.
            dense_probabilities: (N, H, W, C), by :class:`DenseScores`.
        """
        anchors = Boxes.cat(self.anchor_generator(features))
        centers, classifier = anchors.get_centers(), self._fold_classifier()
        results = []
        for i, image_size in enumerate(images.image_sizes):
            dense = self._dense_map(dense_probabilities, i, centers)
            levels = [[x[i] for x in part] for part in predictions]
            boxes, scores, classes = self._candidates(classifier, levels, anchors, dense)
            limits = self.test_nms_thresh, self.max_detections_per_image
            keep = best_detections(boxes, scores, classes, *limits)
            found = Instances(image_size, pred_boxes=Boxes(boxes[keep]))
            found.set("scores", scores[keep])
            found.set("pred_classes", classes[keep])
            results.append(found)
        return results

    def score_maps(self, batched_inputs: list[dict]) -> list[list[LevelScores]]:
        """The scores of all locations, of which detection keeps the best.

        Args:
            batched_inputs: as in :meth:`forward`.

        Returns:
            Of each image its levels, the finest first. They cover the padded image.
        """
        images = self.preprocess_image(batched_inputs)
        features = self.backbone(images.tensor)
        levels = [features[name] for name in self.head_in_features]
        predictions = self.head(levels)
        parts = list(zip(*predictions, self.anchor_generator(levels), levels, strict=True))
        with torch.autocast(self.device.type, enabled=False):
            classifier, probabilities = self._fold_classifier(), self._dense_probabilities(features)
            maps = []
            for i in range(len(batched_inputs)):
                maps.append(
                    [
                        score_level(
                            *(classifier, x[i].float(), quality[i]),
                            self._dense_map(probabilities, i, anchors.get_centers()),
                            self.box2box_transform.apply_deltas(
                                self.head.deltas(sides[i]), anchors.tensor
                            ),
                            level.shape[-2:],
                        )
                        for x, sides, quality, anchors, level in parts
                    ]
                )
        return maps

    def _dense_probabilities(self, features: dict[str, Tensor]) -> Tensor | None:
        """(N, H, W, C), of res5's cells; None without ``dense_scores``."""
        if self.dense_scores is None:
            return None
        embeddings = self.backbone.bottom_up.dense_embeddings(features["res5"].float())
        return self.dense_scores.probabilities(
            embeddings, self.classifier.text_embeddings, self.classifier.competitors
        )

    def _dense_map(
        self, probabilities: Tensor | None, image: int, centers: Tensor
    ) -> DenseMap | None:
        """Of one image at the centers; ``probabilities`` are those of the batch."""
        if self.dense_scores is None or probabilities is None:
            return None
        stride = self.backbone.bottom_up.size_divisibility
        weights = self.dense_scores.weights(self.classifier.is_novel)
        return DenseMap(probabilities[image], weights, stride, centers)

    def _fold_classifier(self) -> FoldedClassifier:
        text_embeddings = self.classifier.text_embeddings
        kept = self._folded  # read once: another thread may set it
        # Another vocabulary or device is another tensor.
        if kept is None or kept[0] is not text_embeddings:
            kept = text_embeddings, self.classifier.fold(self.head.grid_embedding)
            self._folded = kept if self.keep_folded_classifier else None
        return kept[1]

    def _candidates(
        self,
        classifier: FoldedClassifier,
        predictions: list[list[Tensor]],
        anchors: Boxes,
        dense: DenseMap | None,
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Boxes (K, 4), scores (K,) and categories (K,) of an image's candidates, from what the
        head says of each level and the anchors of all."""
        features, sides, quality = (torch.cat(levels).float() for levels in predictions)
        counts, most = [len(x) for x in predictions[0]], self.test_topk_locations
        places = best_locations(classifier, features, quality, dense, counts, most)
        scores, rows, classes = best_pairs(
            *(classifier, features[places], quality[places], dense, places),
            [min(count, most) for count in counts],
            *(self.test_topk_candidates, self.test_score_thresh),
        )
        places = places[rows]
        deltas = self.head.deltas(sides[places])
        boxes = self.box2box_transform.apply_deltas(deltas, anchors.tensor[places])
        return boxes, scores, classes

    def _update_loss_normalizer(self, num_positives: int, num_images: int) -> Tensor:
        """The running mean of an image's positive locations, times this rank's images; at least 1.

        The mean is over all ranks. Summed losses are divided by it, so that their mean over equal
        ranks is the loss of a single process.
        """
        counts = self.loss_normalizer.new_tensor([num_positives, num_images])
        if comm.get_world_size() > 1:
            dist.all_reduce(counts)
        positives, images = counts.tolist()
        get_event_storage().put_scalar("num_positives", positives / images)
        old, new = self.loss_normalizer, counts[0] / counts[1]
        # The momentum is that of detectron2's dense detectors. The first batch starts the average.
        self.loss_normalizer.copy_(0.9 * old + 0.1 * new if old > 0 else new)
        return (self.loss_normalizer * num_images).clamp(min=1)
