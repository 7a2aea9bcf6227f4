"""Proposals of a trained detector, made once: the regions whose CLIP embeddings ViLD distils."""

import os
from collections.abc import Sequence

import torch
from detectron2.data import DatasetMapper
from detectron2.data import transforms as T
from detectron2.modeling import ProposalNetwork

from gridclip.data.filling import Filling, FillReport
from gridclip.data.proposal_store import ProposalManifest, ProposalStore

from .vild import ViLD


def proposal_network(model: ViLD) -> ProposalNetwork:
    """The first stage of a detector, with the detector's own modules, in evaluation mode."""
    mean, std = (x.flatten().tolist() for x in (model.pixel_mean, model.pixel_std))
    network = ProposalNetwork(
        backbone=model.backbone,
        proposal_generator=model.proposal_generator,
        pixel_mean=mean,
        pixel_std=std,
    )
    return network.to(model.device).eval()


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

    Images go through the model one by one, so that no image's proposals depend on others. The
    processes of a process group share them. A picture that cannot be read, or whose size is not the
    annotated one, is reported and stays undone.

    Args:
        model: the trained detector; its backbone and its proposal generator are used, on its
            device.
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
    network = proposal_network(model)
    most = network.proposal_generator.post_nms_topk[False]
    if max_proposals > most:
        raise ValueError(
            f"{max_proposals} proposals an image are wanted, but the proposal generator gives "
            f"{most}: raise model.proposal_generator.post_nms_topk."
        )
    manifest = ProposalManifest(
        dataset=dataset_name,
        image_ids=tuple(record["image_id"] for record in dataset_dicts),
        weights_sha256=weights_sha256,
        max_proposals=max_proposals,
        inference=_describe(network, augmentations),
    )
    filling = Filling(
        ProposalStore.create(store_path, manifest),
        dataset_dicts,
        DatasetMapper(False, augmentations=list(augmentations), image_format="RGB"),
        num_workers=num_workers,
        device=model.device,
        description="proposals",
    )
    for row, inputs in filling.pictures():
        with torch.inference_mode():
            # In pixels of the original picture, clipped, none of them empty, best first.
            proposals = network([inputs])[0]["proposals"][:max_proposals]
        boxes, scores = proposals.proposal_boxes.tensor, proposals.objectness_logits
        filling.write([row], [boxes.float().cpu().numpy()], [scores.float().cpu().numpy()])
    return filling.report()


def _describe(network: ProposalNetwork, augmentations: Sequence[T.Augmentation]) -> str:
    rpn = network.proposal_generator
    return (
        f"{'; '.join(map(str, augmentations))}; at most {rpn.pre_nms_topk[False]} a level and "
        f"{rpn.post_nms_topk[False]} in all, NMS at IoU {rpn.nms_thresh}"
    )
