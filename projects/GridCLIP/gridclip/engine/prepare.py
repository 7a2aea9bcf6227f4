"""What training and evaluation need before they start: data, and CLIP's embeddings of them."""

import logging
from collections.abc import Iterable, Sequence
from pathlib import Path

from detectron2.config import instantiate
from detectron2.data.datasets.lvis_v1_categories import LVIS_CATEGORIES
from detectron2.utils import comm
from omegaconf import DictConfig, OmegaConf

from gridclip.clip_models import CLIPPathHandler, openai_sha256
from gridclip.clip_weights import clip_file
from gridclip.data.description import DatasetDescription
from gridclip.data.embedding_store import EmbeddingStore
from gridclip.data.proposal_store import ProposalStore
from gridclip.data.records import all_records
from gridclip.data.regions import PROPOSALS, Proposals, Regions, Windows
from gridclip.data.store import StoreError
from gridclip.data.teacher import precompute_embeddings
from gridclip.distributed import all_gather
from gridclip.files import sha256_of_file
from gridclip.text import TextEmbeddings, as_text_embeddings, get_templates, load_categories
from gridclip.text.names import category_name

logger = logging.getLogger("detectron2.gridclip")


def open_data(cfg: DictConfig, part: str) -> DatasetDescription:
    """The data set ``cfg.data[part]``; the report on it is logged, and its pictures are there.

    Raises:
        ValueError, FileNotFoundError: it can't be used; names the part, the file and the fix.
    """
    try:
        data = instantiate(cfg.data[part])
    except ValueError as error:
        raise ValueError(f"data.{part}: {error}") from error
    data.check_pictures()
    logger.info(f"data.{part}: {data.describe()}\n{data.findings}")
    return data


def check_same_categories(train: DatasetDescription, val: DatasetDescription) -> None:
    """Raise ValueError if the data set that a training is evaluated on has a category that the
    training does not know. Their order and ids may differ, and ``val`` may lack some."""
    if unknown := [name for name in val.names if name not in set(train.names)]:
        raise ValueError(
            f"data.val ({val.source}) has {len(unknown)} categories that data.train "
            f"({train.source}) does not have, the first '{unknown[0]}'; the first of data.train is "
            f"'{train.names[0]}'. Another vocabulary is for --eval-only."
        )
    if both := set(map(train.file_name, range(len(train)))).intersection(
        map(val.file_name, range(len(val)))
    ):
        logger.warning(
            f"{len(both)} pictures are in data.train and in data.val, among them {min(both)}: the "
            "evaluation is not on unseen pictures."
        )


def prepare_text_embeddings(cfg: DictConfig, data: DatasetDescription | None) -> None:
    """Compute the text embeddings of a data set's categories if their file is missing. Without the
    data set they are those of ``clip.names``.

    Without ``clip.weights`` they are random vectors, for a vocabulary that stays as it is.

    Raises:
        ValueError: the file that is there is of other categories, templates, width or weights.
    """
    path, clip = Path(cfg.model.classifier.text_embeddings), cfg.clip
    names = _category_names(cfg, data)
    if not path.is_file() and comm.is_main_process():
        if clip.weights is None:
            logger.info(f"No clip.weights: random text embeddings at {path}")
            made = TextEmbeddings.random(names, cfg.model.classifier.embed_dim)
        else:
            logger.info(f"No text embeddings at {path}: computing them from {clip.weights}")
            words = list(names) if clip.names is None else clip.names
            made = as_text_embeddings(words, clip.weights, clip.templates, device=cfg.train.device)
        made.save(path)
    comm.synchronize()
    check_text_embeddings(cfg, names=names)


def choose_vocabulary(cfg: DictConfig, val: DatasetDescription) -> tuple[str, ...]:
    """The names that a detector is evaluated with: those of the file of text embeddings if it has
    all of the data set's, else the data set's, whose text embeddings are then prepared. Raises
    ValueError as :func:`prepare_text_embeddings`."""
    path = Path(cfg.model.classifier.text_embeddings)
    _category_names(cfg, val)  # clip.names must agree with the data
    if path.is_file() and set(val.names) <= set(names := TextEmbeddings.load(path).names):
        check_text_embeddings(cfg)
        return names
    prepare_text_embeddings(cfg, val)
    return val.names


def check_text_embeddings(cfg: DictConfig, names: Sequence[str] | None = None) -> None:
    """Raise ValueError if the file of text embeddings is not what the config describes: of other
    names, templates or width, or of another CLIP model."""
    path = Path(cfg.model.classifier.text_embeddings)
    embeddings = TextEmbeddings.load(path)
    templates = None if cfg.clip.weights is None else get_templates(cfg.clip.templates)
    try:
        if cfg.clip.weights is not None and embeddings.clip_model == TextEmbeddings.RANDOM:
            raise ValueError(f"It holds random vectors, and clip.weights is {cfg.clip.weights}.")
        embeddings.check(
            names=names,
            dim=cfg.model.classifier.embed_dim,
            templates=templates,
            clip_sha256=_sha256_of_clip(cfg.clip.weights),
        )
    except ValueError as error:
        raise ValueError(
            f"{path} does not fit: {error} Delete the file, and it is made anew; or name another "
            "one with clip.text_embeddings."
        ) from error


def _category_names(cfg: DictConfig, data: DatasetDescription | None) -> tuple[str, ...]:
    """Those of the data set, which ``clip.names`` must agree with where both are given."""
    if data is not None and cfg.clip.names is None:
        return data.names
    given = tuple(category.name for category in load_categories(cfg.clip.names))
    if data is not None and given != data.names:
        pairs = zip(given, data.names, strict=False)
        differ = [(i, a, b) for i, (a, b) in enumerate(pairs) if a != b]
        first = "number {}: '{}' and '{}'".format(*differ[0]) if differ else "the number of names"
        raise ValueError(
            f"clip.names={cfg.clip.names} has {len(given)} names, {data.source} has "
            f"{len(data.names)} categories; they first differ in {first}. Leave clip.names out: "
            "the names are those of the data."
        )
    return given


def novel_names(cfg: DictConfig) -> frozenset[str] | None:
    """The names that ``data.novel`` holds out of training, without reading the data; None if there
    are none, or only the data tell."""
    novel = instantiate(cfg.data.get("novel"))
    if novel == "rare":  # LVIS's own, which detectron2 lists
        rare = [x["name"] for x in LVIS_CATEGORIES if x["frequency"] == "r"]
        known = {category.name for category in load_categories("lvis_v1")}
        path = Path(cfg.model.classifier.text_embeddings)
        of_lvis = path.is_file() and set(TextEmbeddings.load(path).names) == known
        return frozenset(map(category_name, rare)) if of_lvis else None
    if isinstance(novel, str):
        novel = [c.name for c in load_categories(novel)] if Path(novel).is_file() else None
    return frozenset(map(category_name, novel)) if novel else None


def _sha256_of_clip(source: str | None) -> str | None:
    """The digest of CLIP's weights; None if they are not at hand, or not known by their name."""
    if source is None:
        return None
    if known := openai_sha256(source.removeprefix(CLIPPathHandler.prefix)):
        return known
    try:
        return sha256_of_file(clip_file(source))
    except FileNotFoundError:
        return None


def check_embeddings(cfg: DictConfig) -> None:
    """Refuse embeddings and proposals that can't be used, as far as they tell without the data:
    reading those takes a while, and what is missing may take days.

    Raises:
        StoreError: proposals are missing, or a store is damaged, or of other regions. Embeddings
            that are incomplete are no fault: :func:`prepare_embeddings` completes them.
        ValueError: text embeddings are not what the config describes, or of another CLIP model.
    """
    has_text = Path(cfg.model.classifier.text_embeddings).is_file()
    if has_text:
        check_text_embeddings(cfg)
    store_path = OmegaConf.select(cfg, "dataloader.train.mapper.embeddings")
    if store_path is None:
        return
    proposals = OmegaConf.select(cfg, "clip.proposals")
    if proposals is not None:
        _open_proposals(proposals)
    if Path(store_path).is_dir():
        regions = cfg.clip.windows if proposals is None else PROPOSALS
        store = EmbeddingStore(store_path, regions=regions)
        if has_text:
            _check_same_teacher(cfg, store)


def prepare_embeddings(cfg: DictConfig, data: DatasetDescription) -> None:
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
    records = all_records(data, boxes=False)
    if OmegaConf.select(cfg, "clip.proposals") is None:
        regions: Regions = Windows(clip.windows)
    else:
        ids = data.annotations.image_ids
        regions = Proposals(_open_proposals(clip.proposals, ids))
    options = dict(num_workers=cfg.dataloader.train.num_workers, device=cfg.train.device)
    report = precompute_embeddings(records, data.name, store_path, clip.weights, regions, **options)
    failures = [failure for part in all_gather(report.failures) for failure in part]
    if failures:
        raise RuntimeError(
            f"{len(failures)} images of {data.source} could not be embedded, the first "
            f"{failures[0]}. Replace the files and start again: what is done is kept."
        )
    _check_same_teacher(cfg, EmbeddingStore.open(store_path))


def _open_proposals(path: str, image_ids: Iterable[int | str] = ()) -> ProposalStore:
    """The complete store; of at least these images."""
    try:
        store = ProposalStore.open(path)
        store.check(image_ids)
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
