"""The frozen CLIP image encoder as teacher: its embeddings of a dataset's pictures, made once."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass

import clip
import numpy as np
import torch
import torch.nn.functional as F
from detectron2.data.detection_utils import check_image_size, read_image
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gridclip.clip_checkpoint import load_clip
from gridclip.data.embedding_store import EmbeddingStore, StoreManifest
from gridclip.data.windows import pixel_windows
from gridclip.data.windows import windows as window_boxes


@dataclass(frozen=True)
class ImageFailure:
    """A picture that could not be embedded, and why."""

    image_id: int | str
    file_name: str
    reason: str


@dataclass(frozen=True)
class PrecomputeReport:
    """What one process did to a store.

    Attributes:
        encoded: pictures embedded now.
        failures: pictures that could not be; they are tried again the next time.
        seconds: time from the first picture to the last.
    """

    encoded: int
    failures: tuple[ImageFailure, ...]
    seconds: float


def without_annotations(record: dict) -> dict:
    """What :func:`read_picture` needs of a record: the rest need not go to worker processes."""
    return {k: record[k] for k in ("file_name", "width", "height") if k in record}


def read_picture(record: dict) -> np.ndarray | str:
    """A picture as detectron2's mapper reads it, (H, W, 3) uint8 RGB, or why it cannot be used.

    Args:
        record: with "file_name"; "width" and "height" are checked if they are there.
    """
    try:
        image = read_image(record["file_name"], "RGB")
        check_image_size(dict(record), image)
    except Exception as error:  # every image format has its own exceptions for a damaged file
        return f"{type(error).__name__}: {error}"
    return image


def clip_inputs(image: np.ndarray, boxes: Tensor, resolution: int) -> Tensor:
    """Cut windows from a picture and prepare each for CLIP's image encoder.

    A window is squashed to a square, where CLIP's own preprocessing would crop one: nothing of the
    picture gets lost. For a square window both are the same.

    Args:
        image: (H, W, 3) uint8 RGB.
        boxes: (V, 4) relative XYXY.
        resolution: n, the encoder's input size in pixels.

    Returns:
        (V, 3, n, n) float32, normalised with CLIP's mean and standard deviation.
    """
    preprocess = clip.clip._transform(resolution)
    picture = Image.fromarray(image)
    # Cropped before it is resized: the resampling filter must not look beyond the window.
    parts = (picture.crop(box) for box in pixel_windows(boxes, *image.shape[:2]).tolist())
    return torch.stack(
        [preprocess(part.resize((resolution, resolution), Image.BICUBIC)) for part in parts]
    )


@torch.inference_mode()
def encode_images(model: clip.model.CLIP, images: Tensor) -> Tensor:
    """Embed images with CLIP; half precision on a GPU.

    Args:
        images: (N, 3, n, n) float32 as :func:`clip_inputs` makes them, on any device.

    Returns:
        (N, D) float32 of unit norm, on the model's device.
    """
    device = model.visual.conv1.weight.device
    with torch.autocast(device.type, dtype=torch.float16, enabled=device.type == "cuda"):
        embeddings = model.encode_image(images.to(device, non_blocking=True))
    return F.normalize(embeddings.float(), dim=-1)


def precompute_image_embeddings(
    dataset_dicts: Sequence[dict],
    dataset_name: str,
    store_path: str | os.PathLike,
    clip_source: str | os.PathLike,
    *,
    windows: str = "whole",
    mirror: bool = True,
    batch_size: int = 128,
    num_workers: int = 4,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
) -> PrecomputeReport:
    """Embed all pictures of a dataset that are not in the store yet.

    A picture that cannot be read, or whose size is not the annotated one, is reported and stays
    undone; the others go on.

    Args:
        dataset_dicts: in detectron2's format; used are "image_id", "file_name", "width", "height".
        dataset_name: its name, for the manifest.
        store_path: the store's folder, made if need be.
        clip_source: the teacher's weights, as :func:`gridclip.clip_checkpoint.load_clip` takes
            them.
        windows: name of a window set.
        mirror: whether to embed the mirrored pictures too.
        batch_size: images (windows, mirrored ones included) that the encoder gets at once; at
            least those of one picture.
        num_workers: processes that read pictures.
        device: where the encoder runs.
        rank, world: this process fills the rows ``rank::world``.
        progress: whether to show a progress bar.

    Raises:
        StoreError: the folder holds a store of something else.
        ValueError: no such window set; bad weights.
    """
    boxes = window_boxes(windows)
    model, checkpoint = load_clip(clip_source, device)
    resolution = model.visual.input_resolution
    manifest = StoreManifest(
        dataset=dataset_name,
        image_ids=tuple(record["image_id"] for record in dataset_dicts),
        teacher=checkpoint.model_id,
        teacher_sha256=checkpoint.sha256,
        preprocessing=f"RGB, EXIF orientation applied; each window squashed to {resolution} x "
        f"{resolution}, bicubic; CLIP's mean and standard deviation; embeddings of unit norm",
        windows=windows,
        boxes=tuple(map(tuple, boxes.tolist())),
        mirror=mirror,
        dim=model.visual.output_dim,
    )
    store = EmbeddingStore.create_in_turn(store_path, manifest, rank, world)
    rows = store.pending(rank, world)
    pictures = _Pictures([dataset_dicts[row] for row in rows], rows, boxes, mirror, resolution)
    loader = DataLoader(
        pictures,
        batch_size=max(1, batch_size // manifest.shape[1]),
        num_workers=num_workers,
        collate_fn=_collate,
        pin_memory=torch.device(device).type == "cuda",
    )
    return _fill(store, model, loader, dataset_dicts, progress)


def _fill(
    store: EmbeddingStore,
    model: clip.model.CLIP,
    loader: DataLoader,
    dataset_dicts: Sequence[dict],
    progress: bool,
) -> PrecomputeReport:
    failures, encoded, start = [], 0, time.perf_counter()

    def fail(row: int, reason: str) -> None:
        record = dataset_dicts[row]
        failures.append(ImageFailure(record["image_id"], record["file_name"], reason))

    with tqdm(
        total=len(loader.dataset), unit="image", desc="embedding", disable=not progress
    ) as bar:
        for rows, images, unreadable in loader:
            for row, reason in unreadable:
                fail(row, reason)
            if rows:
                embeddings = encode_images(model, images.flatten(0, 1)).cpu().numpy()
                embeddings = embeddings.reshape(len(rows), *store.manifest.shape[1:])
                finite = np.isfinite(embeddings).all(axis=(1, 2))
                for row in np.asarray(rows)[~finite]:
                    fail(row, "the teacher's embedding is not finite")
                store.write(np.asarray(rows)[finite], embeddings[finite])
                encoded += int(finite.sum())
            bar.update(len(rows) + len(unreadable))
            bar.set_postfix(failed=len(failures), refresh=False)
    return PrecomputeReport(encoded, tuple(failures), time.perf_counter() - start)


class _Pictures(Dataset):
    """Rows of the store: (row, (variants * V, 3, n, n) inputs), or (row, reason) of a failure."""

    def __init__(self, records, rows, boxes, mirror, resolution):
        self.records = [without_annotations(record) for record in records]
        self.rows, self.boxes = rows.tolist(), boxes
        self.mirror, self.resolution = mirror, resolution

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        row, record = self.rows[index], self.records[index]
        image = read_picture(record)
        if isinstance(image, str):
            return row, image
        variants = [image, np.ascontiguousarray(image[:, ::-1])] if self.mirror else [image]
        inputs = [clip_inputs(variant, self.boxes, self.resolution) for variant in variants]
        return row, torch.cat(inputs)


def _collate(items):
    """To rows, their inputs (rows, variants * V, 3, n, n) or None, and (row, reason) pairs."""
    good = [(row, inputs) for row, inputs in items if isinstance(inputs, Tensor)]
    failed = [(row, reason) for row, reason in items if not isinstance(reason, Tensor)]
    images = torch.stack([inputs for _, inputs in good]) if good else None
    return [row for row, _ in good], images, failed
