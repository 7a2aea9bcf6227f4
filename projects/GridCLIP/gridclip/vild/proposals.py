"""Proposals of a trained detector, made once: the regions whose CLIP embeddings ViLD distils."""

import os
from collections.abc import Sequence

import numpy as np
import torch
from detectron2.data import transforms as T
from detectron2.modeling.postprocessing import detector_postprocess

from gridclip.data.filling import Filling, FillReport
from gridclip.data.mapper import PictureMapper
from gridclip.data.proposal_store import ProposalManifest, ProposalStore
from gridclip.data.store import pictures_digest

from .vild import ViLD


def precompute_proposals(
    model: ViLD,
    dataset_dicts: Sequence[dict],
    dataset_name: str,
    store_path: str | os.PathLike,
    *,
    weights_sha256: str,
    augmentations: Sequence[T.Augmentation],
    max_proposals: int = 300,
    num_workers: int = 4,
) -> FillReport:
    """Store the best proposals of all images that are not in the store yet.

    The model must have been trained on base categories only: a region proposal network that has
    seen novel ones finds their objects for the teacher. Its weights do not tell; the caller knows.

    Images go through the model one by one, so that no image's proposals depend on others. A picture
    that cannot be read, or whose size is not the annotated one, is reported and stays undone. The
    processes of a group share the images.

    Args:
        model: the trained detector; it is left in evaluation mode.
        dataset_dicts: in detectron2's format; used are "image_id", "file_name", "width", "height".
        dataset_name: its name, for the manifest.
        store_path: the folder of the :class:`ProposalStore`, made if need be.
        weights_sha256: digest of the file of the model's weights, for the manifest.
        augmentations: that resize a picture for the model, as in its evaluation.
        max_proposals: the most an image keeps after the proposal generator's suppression.
        num_workers: processes that read pictures.

    Raises:
        StoreError: the folder holds a store of something else.
        ValueError: the proposal generator can't give that many proposals.
    """
    most = model.proposal_generator.post_nms_topk[False]
    if max_proposals > most:
        raise ValueError(
            f"{max_proposals} proposals an image are wanted, but the proposal generator gives "
            f"{most}: raise model.proposal_generator.post_nms_topk."
        )
    manifest = ProposalManifest(
        dataset=dataset_name,
        image_ids=tuple(record["image_id"] for record in dataset_dicts),
        pictures_sha256=pictures_digest(dataset_dicts),
        weights_sha256=weights_sha256,
        max_proposals=max_proposals,
        inference=_describe(model, augmentations),
    )
    filling = Filling(
        ProposalStore.create(store_path, manifest),
        dataset_dicts,
        PictureMapper(False, augmentations=list(augmentations)),
        num_workers=num_workers,
        description="proposals",
    )
    model.eval()
    for row, inputs in filling.pictures():
        boxes, scores = _propose(model, inputs, max_proposals)
        filling.write([row], [boxes], [scores])
    return filling.finish()


@torch.inference_mode()
def _propose(model: ViLD, inputs: dict, max_proposals: int) -> tuple[np.ndarray, np.ndarray]:
    """Boxes (k, 4) and scores (k,) of one picture, as :meth:`ProposalStore.write` takes them."""
    images = model.preprocess_image([inputs])
    found, _ = model.proposal_generator(images, model.backbone(images.tensor), None)
    # In pixels of the original picture, clipped, none of them empty, best first.
    found = detector_postprocess(found[0], inputs["height"], inputs["width"])[:max_proposals]
    boxes = found.proposal_boxes.tensor.float().cpu().numpy()
    return boxes, found.objectness_logits.float().cpu().numpy()


def _describe(model: ViLD, augmentations: Sequence[T.Augmentation]) -> str:
    rpn = model.proposal_generator
    return (
        f"{'; '.join(map(str, augmentations))}; at most {rpn.pre_nms_topk[False]} a level and "
        f"{rpn.post_nms_topk[False]} in all, NMS at IoU {rpn.nms_thresh}"
    )
