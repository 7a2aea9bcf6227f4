"""Which locations learn which object: the targets of training, as components of the detector.

In shapes: N images, R locations over all levels, C categories, K of them in a batch's loss, M
objects of an image.
"""

from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.distributed as dist
from detectron2.structures import Boxes, Instances, pairwise_iou, pairwise_point_box_distance
from detectron2.structures.boxes import matched_pairwise_iou
from detectron2.utils import comm
from detectron2.utils.events import get_event_storage
from torch import Tensor

from .federated_loss import federated_focal_loss, federated_varifocal_loss


@dataclass(frozen=True)
class Targets:
    """What the R locations of N images have to learn.

    Attributes:
        labels: (N, R) int64 in [0, C]; C is background. The rest counts at the others alone.
        boxes: (N, R, 4) float, XYXY in pixels.
        scores: (N, R) float in 0 to 1, the target of the label's probability, and the weight of the
            location in the box loss.
        quality: (N, R) float in 0 to 1, the target of the quality branch.
        normalizer: what the classification and box losses are divided by, before the mean over
            ranks, more than 0; None: the running mean of positive locations.
    """

    labels: Tensor
    boxes: Tensor
    scores: Tensor
    quality: Tensor
    normalizer: Tensor | None = None


class Assignment(Protocol):
    def __call__(
        self,
        detector: Any,
        anchors: list[Boxes],
        gt_instances: list[Instances],
        boxes: Tensor,
        logits: Tensor,
        classes: Tensor,
    ) -> Targets:
        """
        Args:
            detector: a detectron2 FCOS, whose ``num_classes`` is C.
            anchors: of each level, R in all.
            gt_instances: of the N images.
            boxes: (N, R, 4) predicted boxes, XYXY in pixels, without gradient.
            logits: (N, R, K) float, without gradient, of the categories in ``classes``.
            classes: (K,) int64 ascending; has all of ``gt_instances``.
        """
        ...

    def classification_loss(
        self, logits: Tensor, targets: Targets, classes: Tensor, negatives: Tensor
    ) -> Tensor:
        """The sum over locations and known categories; arguments as of the federated losses."""
        ...


@dataclass(frozen=True)
class FCOSAssignment:
    """detectron2's FCOS: by size and distance alone, hard targets, focal loss, centerness.

    Attributes:
        alpha, gamma: of the focal loss.
    """

    alpha: float = 0.25
    gamma: float = 2.0

    def __call__(self, detector, anchors, gt_instances, boxes, logits, classes) -> Targets:
        labels, matched = detector.label_anchors(anchors, gt_instances)
        centerness = detector.compute_ctrness_targets(anchors, matched)
        stacked = torch.stack(labels)
        positive = (stacked != detector.num_classes).to(boxes.dtype)
        return Targets(stacked, torch.stack(matched), positive, centerness)

    def classification_loss(self, logits, targets, classes, negatives) -> Tensor:
        return federated_focal_loss(
            logits, targets.labels, classes, negatives, alpha=self.alpha, gamma=self.gamma
        )


@dataclass(frozen=True)
class TaskAlignedAssignment:
    """The locations that already say most of an object learn it (TOOD, arXiv 2108.07755, section
    3.2), with soft targets (VarifocalNet, arXiv 2008.13367, section 3.2).

    A location inside an object's box is measured by t = p^a IoU^b: p its probability of the
    object's category, IoU that of its own box with the object's. The ``topk`` best of an object are
    its positives; one that is among the best of several takes the object of the highest IoU. Its
    target is q = t / max(t) * max(IoU), both over the object's positives.

    At first predictions say nothing. So FCOS's matching starts the training, with q = IoU.

    The sum of q over all ranks, shared equally by them, divides classification and box loss.

    Attributes:
        topk: positives of an object, at most.
        classification_power, iou_power: a and b.
        initial_steps: those of FCOS's matching.
        alpha, gamma: a known negative weighs alpha p^gamma.
    """

    topk: int = 13
    classification_power: float = 1.0
    iou_power: float = 6.0
    initial_steps: int = 150
    alpha: float = 0.75
    gamma: float = 2.0

    def __call__(self, detector, anchors, gt_instances, boxes, logits, classes) -> Targets:
        background = detector.num_classes
        if get_event_storage().iter < self.initial_steps:
            labels, matched = map(torch.stack, detector.label_anchors(anchors, gt_instances))
            overlaps = matched_pairwise_iou(
                Boxes(boxes.flatten(0, 1)), Boxes(matched.flatten(0, 1))
            )
            # Of empty boxes, which background may have, the IoU is NaN.
            scores = quality = overlaps.view_as(labels).where(labels != background, 0.0)
        else:
            centers = Boxes.cat(anchors).get_centers()
            images = [
                self._assign(gt, centers, box, logit.float().sigmoid(), classes, background)
                for gt, box, logit in zip(gt_instances, boxes, logits, strict=True)
            ]
            labels, matched, scores, quality = map(torch.stack, zip(*images, strict=True))
        return Targets(labels, matched, scores, quality, _share_of_ranks(scores.sum()))

    def classification_loss(self, logits, targets, classes, negatives) -> Tensor:
        return federated_varifocal_loss(
            logits,
            targets.labels,
            targets.scores,
            classes,
            negatives,
            alpha=self.alpha,
            gamma=self.gamma,
        )

    def _assign(
        self,
        gt: Instances,
        centers: Tensor,
        boxes: Tensor,
        probabilities: Tensor,
        classes: Tensor,
        background: int,
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Labels, boxes, scores and quality of an image's R locations.

        Args:
            gt: its M objects.
            centers: (R, 2), x and y in pixels.
            boxes, probabilities, classes: (R, 4), (R, K), (K,).
            background: its label.
        """
        if not len(gt):
            labels = torch.full((len(boxes),), background, device=boxes.device)
            nothing = boxes.new_zeros(len(boxes))
            return labels, torch.zeros_like(boxes), nothing, nothing
        columns = torch.searchsorted(classes, gt.gt_classes)
        overlaps = pairwise_iou(gt.gt_boxes, Boxes(boxes))  # (M, R)
        alignment = (
            probabilities[:, columns].T ** self.classification_power * overlaps**self.iou_power
        )
        distances = pairwise_point_box_distance(centers, gt.gt_boxes)  # (R, M, 4)
        alignment = alignment * (distances.amin(dim=2).T > 0)
        best, places = alignment.topk(min(self.topk, alignment.shape[1]), dim=1)
        chosen = torch.zeros_like(alignment, dtype=torch.bool)
        chosen.scatter_(1, places, best > 0)
        overlap, owner = overlaps.masked_fill(~chosen, -1.0).max(dim=0)  # (R,)
        positive = overlap >= 0
        owned = chosen & (torch.arange(len(gt), device=owner.device)[:, None] == owner)
        most_aligned = (alignment * owned).amax(dim=1)  # (M,)
        largest_overlap = (overlaps * owned).amax(dim=1)
        own = alignment.gather(0, owner[None])[0]
        scores = own * (largest_overlap / most_aligned.clamp(min=1e-12))[owner] * positive
        labels = gt.gt_classes[owner].where(positive, background)
        return labels, gt.gt_boxes.tensor[owner], scores, overlap.clamp(min=0)


def _share_of_ranks(value: Tensor) -> Tensor:
    """A rank's equal share of the sum over all ranks, which is taken as 1 at least."""
    total = value.clone()
    if comm.get_world_size() > 1:
        dist.all_reduce(total)
    return total.clamp(min=1) / comm.get_world_size()
