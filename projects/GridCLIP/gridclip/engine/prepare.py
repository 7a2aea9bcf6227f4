"""What training needs besides images and boxes: text embeddings and the image-embedding store."""

import logging
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from gridclip.data.datasets import check_annotations_exist
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.teacher import precompute_image_embeddings
from gridclip.text import TextEmbeddings, load_categories, precompute_text_embeddings

logger = logging.getLogger("detectron2.gridclip")


def check_data(cfg: DictConfig, *, training: bool) -> None:
    """Fail before anything long starts if annotations are missing.

    Raises:
        FileNotFoundError: names the file and the fix.
    """
    parts = ("train", "test") if training else ("test",)
    for part in parts:
        names = cfg.dataloader[part].dataset.names
        for name in [names] if isinstance(names, str) else names:
            check_annotations_exist(name)


def prepare_text_embeddings(cfg: DictConfig) -> None:
    """Compute the training vocabulary's text embeddings if their file is missing.

    Raises:
        ValueError: the file that is there is of other categories or another width.
    """
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file() and comm.is_main_process():
        logger.info(f"No text embeddings at {path}: computing them from {cfg.clip.weights}")
        precompute_text_embeddings(
            cfg.clip.names, cfg.clip.weights, cfg.clip.templates, path, device=cfg.train.device
        )
    comm.synchronize()
    TextEmbeddings.load(path).check(
        names=[category.name for category in load_categories(cfg.clip.names)],
        dim=cfg.model.classifier.embed_dim,
    )


def prepare_image_embeddings(cfg: DictConfig) -> None:
    """Complete the image-embedding store, each rank its share, if the config uses one.

    Raises:
        RuntimeError: some images could not be embedded; names them.
        ValueError: the store is of other images, another teacher or other windows.
    """
    store_path = OmegaConf.select(cfg, "dataloader.train.mapper.image_embeddings")
    if store_path is None:
        return
    report = precompute_image_embeddings(
        DatasetCatalog.get(cfg.clip.image_dataset),
        cfg.clip.image_dataset,
        store_path,
        cfg.clip.weights,
        windows=cfg.clip.windows,
        num_workers=cfg.dataloader.train.num_workers,
        device=cfg.train.device,
        rank=comm.get_rank(),
        world=comm.get_world_size(),
        progress=comm.is_main_process(),
    )
    failures = [failure for part in comm.all_gather(report.failures) for failure in part]
    if failures:
        raise RuntimeError(
            f"{len(failures)} images of {cfg.clip.image_dataset} could not be embedded, the first "
            f"{failures[0]}. Replace the files and start again: what is done is kept."
        )
    _check_same_teacher(cfg, store_path)


def _check_same_teacher(cfg: DictConfig, store_path: str) -> None:
    """Text and image embeddings must be of one CLIP model, or the losses pull apart."""
    text = TextEmbeddings.load(cfg.model.classifier.text_embeddings)
    manifest = EmbeddingStore.open(store_path).manifest
    if text.clip_sha256 and text.clip_sha256 != manifest.teacher_sha256:
        raise ValueError(
            f"{cfg.model.classifier.text_embeddings} is of CLIP model {text.clip_model}, "
            f"{store_path} of {manifest.teacher}: compute one of them anew."
        )
