"""The frozen CLIP image encoder as teacher: its embeddings of a dataset's regions, made once."""

import itertools
import os
from collections.abc import Iterator, Sequence
from functools import partial

import clip
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.detection_utils import check_image_size
from torch import Tensor

from gridclip.clip_weights import load_clip
from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.filling import Filling, FillReport
from gridclip.data.regions import Proposals, Regions
from gridclip.data.store import pictures_digest
from gridclip.pictures import read_picture


@torch.inference_mode()
def encode_images(model: clip.model.CLIP, images: Tensor) -> Tensor:
    """Embed images with CLIP; half precision on a GPU.

    Args:
        images: (N, 3, n, n) float32, normalised as CLIP's, on any device.

    Returns:
        (N, D) float32 of unit norm, on the model's device.
    """
    device = model.visual.conv1.weight.device
    with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
        embeddings = model.encode_image(images.to(device, non_blocking=True))
    return F.normalize(embeddings.float(), dim=-1)


def encode_regions(model: clip.model.CLIP, inputs: Tensor) -> Tensor:
    """Embed regions: the unit-norm embeddings of a region's S crops, averaged, to unit norm again.

    Args:
        inputs: (k, S, 3, n, n) float32, as :mod:`gridclip.data.regions` makes them.

    Returns:
        (k, D) float32 of unit norm, on the model's device.
    """
    embeddings = encode_images(model, inputs.flatten(0, 1))
    if inputs.shape[1] == 1:
        return embeddings
    return F.normalize(embeddings.unflatten(0, inputs.shape[:2]).mean(dim=1), dim=-1)


def precompute_embeddings(
    dataset_dicts: Sequence[dict],
    dataset_name: str,
    store_path: str | os.PathLike,
    clip_source: str | os.PathLike,
    regions: Regions,
    *,
    batch_size: int = 128,
    num_workers: int = 4,
    device: str | torch.device = "cpu",
) -> FillReport:
    """Embed the regions of all pictures of a dataset that are not in the store yet.

    The processes of a process group share the pictures. A picture that cannot be read, or whose
    size is not the annotated one, is reported and stays undone; the others go on.

    Args:
        dataset_dicts: in detectron2's format; used are "image_id", "file_name", "width", "height".
            Of proposals, those of their pictures are taken.
        dataset_name: its name, for the manifest.
        store_path: the folder of the :class:`EmbeddingStore`, made if need be.
        clip_source: the teacher's weights, as :func:`gridclip.clip_weights.load_clip` takes
            them.
        regions: what to embed of every picture.
        batch_size: images that the encoder gets at once: crops of the regions of several pictures,
            of windows at least all of one picture.
        num_workers: processes that read pictures.
        device: where the encoder runs.

    Raises:
        StoreError: the folder holds a store of something else, or the dataset lacks a picture.
        ValueError: no such window set; bad weights.
    """
    records = dataset_dicts
    if isinstance(regions, Proposals):
        records = regions.records(dataset_dicts)
    model, checkpoint = load_clip(clip_source, device)
    resolution = model.visual.input_resolution
    manifest = EmbeddingManifest(
        dataset=dataset_name,
        image_ids=tuple(record["image_id"] for record in records),
        pictures_sha256=pictures_digest(records),
        teacher=checkpoint.model_id,
        teacher_sha256=checkpoint.sha256,
        preprocessing=regions.describe(resolution),
        regions=regions.name,
        regions_sha256=regions.digest(),
        max_regions=regions.most,
        mirror=regions.mirror,
        dim=model.visual.output_dim,
    )
    filling = Filling(
        EmbeddingStore.create(store_path, manifest),
        records,
        partial(_prepare, regions=regions, resolution=resolution),
        num_workers=num_workers,
        description="embedding",
    )
    assembly = _Assembly(filling, regions)
    stream = assembly.inputs(resolution, torch.device(device))
    while batch := list(itertools.islice(stream, regions.batch(batch_size))):
        rows, inputs = zip(*batch, strict=True)
        assembly.add(rows, encode_regions(model, torch.stack(inputs)).cpu().numpy())
        assembly.write()
    assembly.write()  # what follows the last batch: pictures without regions
    return filling.finish()


def _prepare(record: dict, regions: Regions, resolution: int) -> np.ndarray:
    image = read_picture(record["file_name"])
    check_image_size(record, image)
    return regions.prepare(image, resolution)


class _Assembly:
    """Deals out the regions of pictures, and writes a picture once all its embeddings are there."""

    def __init__(self, filling: Filling, regions: Regions):
        self.filling, self.regions = filling, regions
        # Of pictures under way: boxes, and the embeddings so far, by row.
        self._pictures: dict[int, tuple[np.ndarray, list[np.ndarray]]] = {}

    def inputs(self, resolution: int, device: torch.device) -> Iterator[tuple[int, Tensor]]:
        """Row and (S, 3, n, n) crops of every region of the pictures that can be read."""
        for row, prepared in self.filling.pictures():
            boxes = self.regions.boxes(self.filling.store.manifest.image_ids[row])
            self._pictures[row] = boxes, []
            on_device = torch.tensor(prepared, device=device)
            for crops in self.regions.inputs(on_device, torch.from_numpy(boxes), resolution):
                yield row, crops

    def add(self, rows: Sequence[int], embeddings: np.ndarray) -> None:
        """Take the embeddings of a batch; a picture's come in the order of its regions."""
        for row, embedding in zip(rows, embeddings, strict=True):
            self._pictures[row][1].append(embedding)

    def write(self) -> None:
        """Write the pictures that are complete, many at a time: each write waits for the disk."""
        _, variants, dim = self.filling.store.manifest.values_shape
        complete = []
        for row, (boxes, found) in list(self._pictures.items()):
            if len(found) < variants * len(boxes):
                continue
            del self._pictures[row]
            if np.isfinite(found).all():
                embeddings = np.reshape(found, (variants, len(boxes), dim)).swapaxes(0, 1)
                complete.append((row, boxes, embeddings))
            else:
                self.filling.fail(row, "the teacher's embedding is not finite")
        if complete:
            self.filling.write(*zip(*complete, strict=True))
