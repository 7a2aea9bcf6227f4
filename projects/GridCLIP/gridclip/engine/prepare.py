"""What training needs besides images and boxes: text embeddings and the teacher's embeddings."""

import logging
from pathlib import Path

from detectron2.data import DatasetCatalog
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from gridclip.data.datasets import check_annotations_exist
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.regions import Proposals, Regions, Windows
from gridclip.data.store import StoreError
from gridclip.data.teacher import precompute_embeddings
from gridclip.text import TextEmbeddings, as_text_embeddings, load_categories

logger = logging.getLogger("detectron2.gridclip")


def check_data(cfg: DictConfig, *parts: str) -> None:
    """Raise a FileNotFoundError that names file and fix if ``cfg.dataloader[part]`` lacks them."""
    for part in parts:
        names = cfg.dataloader[part].dataset.names
        for name in [names] if isinstance(names, str) else names:
            check_annotations_exist(name)


def prepare_text_embeddings(cfg: DictConfig) -> None:
    """Compute the training vocabulary's text embeddings if their file is missing. Raises ValueError
    if the file that is there is of other categories or another width."""
    path = Path(cfg.model.classifier.text_embeddings)
    if not path.is_file() and comm.is_main_process():
        logger.info(f"No text embeddings at {path}: computing them from {cfg.clip.weights}")
        as_text_embeddings(
            cfg.clip.names, cfg.clip.weights, cfg.clip.templates, device=cfg.train.device
        ).save(path)
    comm.synchronize()
    TextEmbeddings.load(path).check(
        names=[category.name for category in load_categories(cfg.clip.names)],
        dim=cfg.model.classifier.embed_dim,
    )


def prepare_embeddings(cfg: DictConfig) -> None:
    """Complete the store of the teacher's embeddings, each rank its share, if the config uses one.

    The regions are the proposals that ``clip.proposals`` names (ViLD), else ``clip.windows``.

    Raises:
        RuntimeError: some images could not be embedded; names them.
        ValueError: the store is of other images, another teacher or other regions, or proposals are
            missing.
    """
    store_path = OmegaConf.select(cfg, "dataloader.train.mapper.embeddings")
    if store_path is None:
        return
    clip = cfg.clip
    dataset_dicts = DatasetCatalog.get(clip.image_dataset)
    if OmegaConf.select(cfg, "clip.proposals") is None:
        regions: Regions = Windows(clip.windows)
    else:
        regions = Proposals(_open_proposals(clip.proposals, dataset_dicts))
    options = dict(num_workers=cfg.dataloader.train.num_workers, device=cfg.train.device)
    report = precompute_embeddings(
        dataset_dicts, clip.image_dataset, store_path, clip.weights, regions, **options
    )
    failures = [failure for part in comm.all_gather(report.failures) for failure in part]
    if failures:
        raise RuntimeError(
            f"{len(failures)} images of {clip.image_dataset} could not be embedded, the first "
            f"{failures[0]}. Replace the files and start again: what is done is kept."
        )
    _check_same_teacher(cfg, EmbeddingStore.open(store_path))


def _open_proposals(path: str, dataset_dicts: list[dict]) -> ProposalStore:
    try:
        store = ProposalStore.open(path)
        store.check(record["image_id"] for record in dataset_dicts)
        return store
    except StoreError as error:
        raise StoreError(
            f"{error}\nThe weights are those of ViLD-text trained on base categories only:\n"
            "  python projects/GridCLIP/train_net.py --config-file "
            "projects/GridCLIP/configs/lvis/vild_text_r50_ov.py"
        ) from error


def _check_same_teacher(cfg: DictConfig, store: EmbeddingStore) -> None:
    """Text and image embeddings must be of one CLIP model, or the losses pull apart."""
    text, manifest = TextEmbeddings.load(cfg.model.classifier.text_embeddings), store.manifest
    if text.clip_sha256 and text.clip_sha256 != manifest.teacher_sha256:
        raise ValueError(
            f"{cfg.model.classifier.text_embeddings} is of CLIP model {text.clip_model}, "
            f"{store.path} of {manifest.teacher}: compute one of them anew."
        )
