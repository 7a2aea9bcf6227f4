"""The frozen CLIP image encoder as teacher: its embeddings of a dataset's regions, made once."""

import itertools
import os
from collections.abc import Iterator, Sequence

import clip
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.utils import comm
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from gridclip.clip_checkpoint import load_clip
from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.filling import Filling, FillReport, read_picture, without_annotations
from gridclip.data.regions import Proposals, Regions


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
    rank: int | None = None,
    world: int | None = None,
) -> FillReport:
    """Embed the regions of all pictures of a dataset that are not in the store yet.

    A picture that cannot be read, or whose size is not the annotated one, is reported and stays
    undone; the others go on.

    Args:
        dataset_dicts: in detectron2's format; used are "image_id", "file_name", "width", "height".
            Of proposals, those of their pictures are taken.
        dataset_name: its name, for the manifest.
        store_path: the folder of the :class:`EmbeddingStore`, made if need be.
        clip_source: the teacher's weights, as :func:`gridclip.clip_checkpoint.load_clip` takes
            them.
        regions: what to embed of every picture.
        batch_size: images that the encoder gets at once: crops of the regions of several pictures,
            of windows at least all of one picture.
        num_workers: processes that read pictures.
        device: where the encoder runs.
        rank, world: this process fills the rows ``rank::world``; None: of the process group.

    Raises:
        StoreError: the folder holds a store of something else, or the dataset lacks a picture.
        ValueError: no such window set; bad weights.
    """
    rank = comm.get_rank() if rank is None else rank
    world = comm.get_world_size() if world is None else world
    records = dataset_dicts
    if isinstance(regions, Proposals):
        records = regions.records(dataset_dicts)
    digest = regions.digest()
    model, checkpoint = load_clip(clip_source, device)
    resolution = model.visual.input_resolution
    image_ids = tuple(record["image_id"] for record in records)
    manifest = EmbeddingManifest(
        dataset=dataset_name,
        image_ids=image_ids,
        teacher=checkpoint.model_id,
        teacher_sha256=checkpoint.sha256,
        preprocessing=regions.describe(resolution),
        regions=regions.name,
        regions_sha256=digest,
        counts=tuple(len(regions.boxes(image_id)) for image_id in image_ids),
        mirror=regions.mirror,
        dim=model.visual.output_dim,
    )
    store = EmbeddingStore.create_in_turn(store_path, manifest, rank, world)
    rows = store.pending(rank, world)
    loader = DataLoader(
        _Pictures([records[row] for row in rows], rows, regions, resolution),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    with Filling(records, len(rows), "embedding") as filling:
        assembly = _Assembly(store, regions, filling)
        stream = assembly.inputs(loader, resolution, torch.device(device))
        while batch := list(itertools.islice(stream, regions.batch(batch_size))):
            batch_rows, inputs = zip(*batch, strict=True)
            assembly.add(batch_rows, encode_regions(model, torch.stack(inputs)).cpu().numpy())
        assembly.write()
        return filling.report()


class _Assembly:
    """Deals out the regions of pictures, and writes a picture once all its embeddings are there."""

    def __init__(self, store: EmbeddingStore, regions: Regions, filling: Filling):
        self.store, self.regions, self.filling = store, regions, filling
        self._embeddings: dict[int, list[np.ndarray]] = {}  # by row, of pictures under way
        self._complete: list[tuple[int, np.ndarray, np.ndarray]] = []

    def inputs(
        self, loader: DataLoader, resolution: int, device: torch.device
    ) -> Iterator[tuple[int, Tensor]]:
        """Row and (S, 3, n, n) crops of every region of the pictures that can be read."""
        for row, prepared in loader:
            if isinstance(prepared, str):
                self.filling.fail(row, prepared)
                continue
            self._embeddings[row] = []
            boxes = torch.from_numpy(self._boxes(row))
            if not len(boxes):
                self._finish(row)
            for crops in self.regions.inputs(prepared.to(device), boxes, resolution):
                yield row, crops

    def add(self, rows: Sequence[int], embeddings: np.ndarray) -> None:
        """Take the embeddings of a batch; a picture's come in the order of its regions."""
        variants, counts = self.store.manifest.variants, self.store.manifest.counts
        for row, embedding in zip(rows, embeddings, strict=True):
            self._embeddings[row].append(embedding)
            if len(self._embeddings[row]) == variants * counts[row]:
                self._finish(row)
        self.write()

    def write(self) -> None:
        """Write the pictures that are complete, many at a time: each write waits for the disk."""
        if self._complete:
            self.store.write(*zip(*self._complete, strict=True))
            self.filling.done(len(self._complete))
            self._complete = []

    def _finish(self, row: int) -> None:
        found = self._embeddings.pop(row)
        embeddings = np.reshape(found, (len(found), self.store.manifest.dim))
        if np.isfinite(embeddings).all():
            self._complete.append((row, self._boxes(row), embeddings))
        else:
            self.filling.fail(row, "the teacher's embedding is not finite")

    def _boxes(self, row: int) -> np.ndarray:
        return self.regions.boxes(self.store.manifest.image_ids[row])


class _Pictures(Dataset):
    """Rows of the store: (row, what is prepared of the picture), or (row, reason) of a failure."""

    def __init__(
        self, records: Sequence[dict], rows: np.ndarray, regions: Regions, resolution: int
    ):
        self.records = [without_annotations(record) for record in records]
        self.rows, self.regions, self.resolution = rows.tolist(), regions, resolution

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        image = read_picture(self.records[index])
        if isinstance(image, str):
            return self.rows[index], image
        return self.rows[index], self.regions.prepare(image, self.resolution)
