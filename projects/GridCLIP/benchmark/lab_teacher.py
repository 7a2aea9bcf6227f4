"""Count what the workers of the teacher's pass hold ready, with LVIS's settings on eight GPUs.

    python -m benchmark.lab_teacher --json FILE

Each process has workers that read pictures ahead: ``prefetch_factor`` a worker, plus the one that
the process embeds. What one holds is counted on what a worker really hands over, for a picture of
random pixels. "before" is how it was handed over until commit 37b93f7: as the same crops,
normalised, in float32, in shared memory. There, this printed ``torch.float32 10838016``:

    python -c 'import numpy as np; from gridclip.data.regions import Windows
    crops = Windows("tiles9").prepare(np.zeros((480, 640, 3), np.uint8), 224)
    print(crops.dtype, crops.nbytes)'

and one process with four workers, which was made to wait, held nine of them, 97.6 MB, in a
/dev/shm of its own. Now the crops are bytes that go through a pipe.
"""

import argparse
import pickle
import tempfile
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from gridclip.clip_models import CLIP_RESNETS
from gridclip.data.embedding_store import EmbeddingManifest, EmbeddingStore
from gridclip.data.filling import Filling
from gridclip.data.regions import Windows, normalised
from gridclip.evaluation.results import git_commit, versions
from gridclip.pictures import read_picture

from .contestants import load_config
from .sections import write_sections
from .teacher_passes import HEIGHT, WIDTH

CONFIG = Path(__file__).parents[1] / "configs/lvis/gridclip_r50_ov_1x.py"
RANKS = 8


def measure(ranks: int = RANKS) -> dict:
    """Bytes that the workers of ``ranks`` processes hold ready, before and after the change, and
    how many of them lie in shared memory."""
    cfg = load_config(CONFIG)
    regions, workers = Windows(cfg.clip.windows), cfg.dataloader.train.num_workers
    resolution = CLIP_RESNETS[cfg.clip.weights.removeprefix("clip://")]["input_resolution"]
    with tempfile.TemporaryDirectory() as folder:
        loader = _filling(Path(folder), regions, resolution, workers).loader
        item = loader.dataset[0]
    _, handed_over, failure = item
    if failure:
        raise RuntimeError(failure)
    pictures = ranks * (loader.num_workers * loader.prefetch_factor + 1)
    crops = torch.from_numpy(pickle.loads(handed_over))
    before, after = normalised(crops).nbytes, len(handed_over)
    shared = sum(part.nbytes for part in item if isinstance(part, torch.Tensor))
    return {
        "bytes_in_flight": {"before": pictures * before, "after": pictures * after},
        "bytes_in_shared_memory": {"before": pictures * before, "after": pictures * shared},
        "bytes_a_picture": {"before": before, "after": after},
        "pictures_in_flight": pictures,
        "ranks": ranks,
        "workers_a_rank": workers,
        "crops": list(crops.shape),
        "windows": regions.name,
        "commit": git_commit(),
        "versions": versions(),
    }


def _filling(folder: Path, regions: Windows, resolution: int, workers: int) -> Filling:
    """The pass over one picture, as :func:`gridclip.data.teacher.precompute_embeddings` starts."""
    pixels = np.random.default_rng(0).integers(0, 256, (HEIGHT, WIDTH, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(folder / "picture.png")
    manifest = EmbeddingManifest(
        dataset="one picture",
        image_ids=(1,),
        teacher="none",
        teacher_sha256="",
        preprocessing=regions.describe(resolution),
        regions=regions.name,
        regions_sha256=regions.digest(),
        max_regions=regions.most,
        mirror=regions.mirror,
        dim=1,
    )
    return Filling(
        EmbeddingStore.create(folder / "store", manifest),
        [dict(file_name=str(folder / "picture.png"), image_id=1, width=WIDTH, height=HEIGHT)],
        partial(_prepare, regions, resolution),
        num_workers=workers,
        description="counting",
    )


def _prepare(regions: Windows, resolution: int, record: dict) -> np.ndarray:
    return regions.prepare(read_picture(record["file_name"]), resolution)


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    text = "gets the counts as teacher_pass; what else it has stays"
    parser.add_argument("--json", type=Path, metavar="FILE", help=text)
    args = parser.parse_args(argv)
    record = measure()
    for name in ("bytes_in_flight", "bytes_in_shared_memory"):
        before, after = record[name].values()
        print(f"{name}: {before:,} before, {after:,} after")
    if args.json:
        write_sections(args.json, {"teacher_pass": record})


if __name__ == "__main__":
    main()
