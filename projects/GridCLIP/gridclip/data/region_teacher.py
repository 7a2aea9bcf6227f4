"""The frozen CLIP image encoder as ViLD's teacher: its embeddings of a dataset's proposals."""

import os
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence

import clip
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from gridclip.clip_checkpoint import load_clip
from gridclip.data.array_store import StoreError
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.region_store import RegionManifest, RegionStore
from gridclip.data.teacher import (
    ImageFailure,
    PrecomputeReport,
    encode_images,
    read_picture,
    without_annotations,
)

CROP_SCALES = (1.0, 1.5)


def region_windows(boxes: Tensor, height: int, width: int) -> Tensor:
    """The part of a picture that a crop shows: boxes scaled about their centres, clipped to the
    picture, rounded outwards to whole pixels, never empty.

    The paper names the two scales; as far as is known its authors clip at the border too, so that
    the crop of a region there is not centred on it, and nothing is padded.

    Args:
        boxes: (k, 4) XYXY in pixels of the picture.
        height, width: of the picture in pixels.

    Returns:
        (k, 2, 4) int64 XYXY at scales 1 and 1.5; the right and lower edges are exclusive.
    """
    boxes = boxes.double()[:, None]
    centre = (boxes[..., :2] + boxes[..., 2:]) / 2
    half = (boxes[..., 2:] - boxes[..., :2]) / 2 * boxes.new_tensor(CROP_SCALES)[:, None]
    size = torch.tensor([width, height], device=boxes.device)
    low = (centre - half).floor().long().clamp(min=0).minimum(size - 1)
    high = (centre + half).ceil().long().minimum(size).maximum(low + 1)
    return torch.cat([low, high], dim=-1)


def region_inputs(image: Tensor, boxes: Tensor, resolution: int) -> Tensor:
    """Cut regions from a picture and prepare them for CLIP's image encoder.

    A crop is squashed to a square, as the image teacher's windows are, by torch's antialiased
    bicubic resampling. CLIP's own preprocessing uses Pillow's: on photographs the two differ by at
    most 2 of 255 levels, 0.01 on average over a crop. The exception are crops higher than ``n``
    with Pillow 13, which shrinks some of them along the columns first, where torch begins with the
    rows; both clip to 0..255 in between. Single pixels at hard edges then
    differ by up to 20 levels, 0.3 on average.

    Args:
        image: (3, H, W) uint8 RGB, on any device. On the CPU the channels had better lie together
            in memory, as in a permuted (H, W, 3).
        boxes: (k, 4) XYXY in pixels.
        resolution: n, the encoder's input size in pixels.

    Returns:
        (k, 2, 3, n, n) float32, crops at scale 1 and 1.5 (see :func:`region_windows`), normalised
        with CLIP's mean and standard deviation, on the image's device.
    """
    windows = region_windows(boxes, *image.shape[1:]).tolist()
    if image.is_cuda:
        image = image.float()  # torch resamples whole numbers on the CPU only
    crops = image.new_empty(len(windows), len(CROP_SCALES), 3, resolution, resolution)
    for i, scales in enumerate(windows):
        for j, (x0, y0, x1, y1) in enumerate(scales):
            crop = image[None, :, y0:y1, x0:x1]
            crops[i, j] = F.interpolate(
                crop, (resolution, resolution), mode="bicubic", antialias=True
            )[0]
    if image.is_cuda:
        crops = crops.round_().clamp_(0, 255)
    return clip.clip._transform(resolution).transforms[-1](crops.float() / 255)


def encode_regions(model: clip.model.CLIP, inputs: Tensor) -> Tensor:
    """Embed regions: the unit-norm embeddings of both crops, averaged, to unit norm again.

    Args:
        inputs: (k, 2, 3, n, n) float32 as :func:`region_inputs` makes them.

    Returns:
        (k, D) float32 of unit norm, on the model's device.
    """
    embeddings = encode_images(model, inputs.flatten(0, 1))
    return F.normalize(embeddings.unflatten(0, inputs.shape[:2]).mean(dim=1), dim=-1)


def precompute_region_embeddings(
    proposals: ProposalStore,
    dataset_dicts: Sequence[dict],
    store_path: str | os.PathLike,
    clip_source: str | os.PathLike,
    *,
    batch_size: int = 128,
    num_workers: int = 4,
    device: str | torch.device = "cpu",
    rank: int = 0,
    world: int = 1,
    progress: bool = True,
) -> PrecomputeReport:
    """Embed the proposals of all pictures that are not in the store yet.

    A picture that cannot be read, or whose size is not the annotated one, is reported and stays
    undone; the others go on.

    Args:
        proposals: a complete store; all of its boxes are embedded.
        dataset_dicts: in detectron2's format, with the pictures of the proposals; used are
            "image_id", "file_name", "width", "height".
        store_path: the region store's folder, made if need be.
        clip_source: the teacher's weights, as :func:`gridclip.clip_checkpoint.load_clip` takes
            them.
        batch_size: crops that the encoder gets at once, two a region, of several pictures.
        num_workers: processes that read pictures.
        device: where crops are cut and the encoder runs.
        rank, world: this process fills the rows ``rank::world``.
        progress: whether to show a progress bar.

    Raises:
        StoreError: the folder holds a store of something else, or the dataset lacks a picture.
        ValueError: bad weights.
    """
    records = _records_of(proposals, dataset_dicts)
    model, checkpoint = load_clip(clip_source, device)
    resolution = model.visual.input_resolution
    manifest = RegionManifest(
        dataset=proposals.manifest.dataset,
        image_ids=proposals.manifest.image_ids,
        teacher=checkpoint.model_id,
        teacher_sha256=checkpoint.sha256,
        preprocessing=f"RGB, EXIF orientation applied; crops at scales {CROP_SCALES}, clipped to "
        f"the picture, squashed to {resolution} x {resolution}, bicubic; CLIP's mean and standard "
        "deviation; mean of unit-norm embeddings, unit norm",
        dim=model.visual.output_dim,
        proposals_sha256=proposals.digest(),
        counts=tuple(proposals.counts.tolist()),
    )
    store = RegionStore.create_in_turn(store_path, manifest, rank, world)
    rows = store.pending(rank, world)
    loader = DataLoader(
        _Pictures([records[row] for row in rows], rows),
        batch_size=None,
        num_workers=num_workers,
        pin_memory=torch.device(device).type == "cuda",
    )
    start = time.perf_counter()
    with tqdm(total=len(rows), unit="image", desc="embedding", disable=not progress) as bar:
        fill = _Fill(store, proposals, records, bar)
        for batch in _batches(fill.regions(loader), max(1, batch_size // len(CROP_SCALES))):
            inputs = torch.cat(
                [region_inputs(image.to(device), boxes, resolution) for _, image, boxes in batch]
            )
            embeddings = encode_regions(model, inputs).cpu().numpy()
            fill.add([row for row, _, boxes in batch for _ in boxes], embeddings)
    return PrecomputeReport(fill.encoded, tuple(fill.failures), time.perf_counter() - start)


def _records_of(proposals: ProposalStore, dataset_dicts: Sequence[dict]) -> list[dict]:
    """The records of the proposals' images, in their order."""
    by_id = {record["image_id"]: record for record in dataset_dicts}
    image_ids = proposals.manifest.image_ids
    if missing := [i for i in image_ids if i not in by_id]:
        raise StoreError(
            f"{proposals.path} has proposals of {len(missing)} images that are not in the dataset, "
            f"the first is id {missing[0]!r}; they were made for {proposals.manifest.dataset!r}."
        )
    return [by_id[i] for i in image_ids]


def _batches(
    pictures: Iterable[tuple[int, Tensor, Tensor]], size: int
) -> Iterator[list[tuple[int, Tensor, Tensor]]]:
    """Pictures and their boxes, dealt out in parts that have ``size`` boxes together."""
    batch, room = [], size
    for row, image, boxes in pictures:
        while len(boxes):
            batch.append((row, image, boxes[:room]))
            room, boxes = room - len(boxes[:room]), boxes[room:]
            if not room:
                yield batch
                batch, room = [], size
    if batch:
        yield batch


class _Fill:
    """Reads pictures and writes them to the store when all of their regions are embedded."""

    def __init__(self, store: RegionStore, proposals: ProposalStore, records: list[dict], bar):
        self.store, self.proposals, self.records, self.bar = store, proposals, records, bar
        self.encoded, self.failures = 0, []
        self._embeddings = defaultdict(list)

    def regions(self, loader: DataLoader) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(row, (3, H, W) uint8 picture, (k, 4) boxes) of pictures that can be read."""
        for row, image in loader:
            if isinstance(image, str):
                self._fail(row, image)
                continue
            boxes = self._boxes(row)
            if not len(boxes):
                self._write(row, boxes, np.empty((0, self.store.manifest.dim)))
            yield row, image.permute(2, 0, 1), torch.from_numpy(boxes)

    def add(self, rows: Sequence[int], embeddings: np.ndarray) -> None:
        """Take the next embeddings; a picture's come in the order of its boxes."""
        for row, embedding in zip(rows, embeddings, strict=True):
            done = self._embeddings[row]
            done.append(embedding)
            if len(done) == self.store.manifest.counts[row]:
                self._write(row, self._boxes(row), np.stack(self._embeddings.pop(row)))

    def _boxes(self, row: int) -> np.ndarray:
        return self.proposals.lookup(self.proposals.manifest.image_ids[row])[0]

    def _write(self, row: int, boxes: np.ndarray, embeddings: np.ndarray) -> None:
        if not np.isfinite(embeddings).all():
            return self._fail(row, "the teacher's embedding is not finite")
        self.store.write(row, boxes, embeddings)
        self.encoded += 1
        self.bar.update()

    def _fail(self, row: int, reason: str) -> None:
        record = self.records[row]
        self.failures.append(ImageFailure(record["image_id"], record["file_name"], reason))
        self.bar.set_postfix(failed=len(self.failures), refresh=False)
        self.bar.update()


class _Pictures(Dataset):
    """Rows of the store: (row, (H, W, 3) uint8 picture), or (row, reason) of a failure."""

    def __init__(self, records: list[dict], rows: np.ndarray):
        self.records = [without_annotations(record) for record in records]
        self.rows = rows.tolist()

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, index: int) -> tuple[int, Tensor | str]:
        image = read_picture(self.records[index])
        return self.rows[index], image if isinstance(image, str) else torch.tensor(image)
