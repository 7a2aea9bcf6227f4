"""Opening a data set: an annotation file and a folder of pictures, or a registered name."""

import difflib
import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import detectron2.data.datasets  # noqa: F401  registers detectron2's own, LVIS among them
import msgspec
from detectron2.data import DatasetCatalog, MetadataCatalog
from detectron2.data.catalog import Metadata

from gridclip.files import sha256_of_file
from gridclip.text.embeddings import quote
from gridclip.text.names import category_name, load_categories

from .annotation_file import AnnotationFile, Picture, from_records, read_annotation_file
from .annotations import build_annotations, in_folder
from .categories import check_categories
from .description import MAX_DETS, DatasetDescription
from .findings import DatasetError, Findings

_HINT = (
    "Point the environment variable DETECTRON2_DATASETS at the folder that holds the data "
    "(see datasets/README.md)."
)
# Functions of these modules, registered with a "json_file", read just that file.
_JSON_LOADERS = ("detectron2.data.datasets.coco", "detectron2.data.datasets.lvis")


def open_dataset(
    *,
    json: str | os.PathLike | None = None,
    images: str | os.PathLike | None = None,
    dataset: str | None = None,
    novel: str | Sequence[str] | None = None,
    leave_out: Sequence[str | int] = (),
    only: str | None = None,
    groups: Mapping[str, Sequence[str]] | None = None,
    metrics: str | None = None,
    hint: str | None = None,
) -> DatasetDescription:
    """Describe a data set. In one process, its file is read once.

    Args:
        json: an annotation file in COCO's or LVIS's format. It is federated if its images have
            LVIS's "neg_category_ids".
        images: the folder of its pictures. They are found by "file_name", those of a federated
            file by the last two parts of "coco_url", as in detectron2.
        dataset: in place of the two, a name in detectron2's DatasetCatalog.
        novel: categories that training leaves out: their names; a file of names; "rare" for those
            that the file calls "r"; None for none.
        leave_out: names, or ids, of categories to be treated as if they were not in the file.
        only: a folder, such as "val2017": the images are those that "coco_url" or "file_name" puts
            into it. LVIS's minival is the part of LVIS val in COCO's val2017.
        groups: further groups of categories whose AP is reported: names of the categories.
        metrics: "coco" or "lvis". None: LVIS's for a federated data set, else COCO's.
        hint: what to do if the file is missing; None: what is usual.

    Raises:
        ValueError: arguments that do not fit, or a DatasetError: the file can't be used.
        FileNotFoundError: the file is missing.
    """
    if (dataset is None) == (json is None) or (json is None) != (images is None):
        raise ValueError(
            "no data set: give a file and a folder, json=FILE and images=FOLDER, or the name of a "
            "registered data set, dataset=NAME."
        )
    if metrics not in (None, *MAX_DETS):
        raise ValueError(f"metrics is '{metrics}': take one of {', '.join(MAX_DETS)}.")
    options = _Options(
        novel if novel is None or isinstance(novel, str) else _as_list(novel, "novel"),
        _as_list(leave_out, "leave_out"),
        only or None,
        tuple((name, _as_list(of, f"groups.{name}")) for name, of in (groups or {}).items()),
        metrics,
    )
    if hint is None:
        hint = "Check the path." if dataset is None else _HINT
    if dataset is not None:
        _check_registered(dataset)
        metadata, load = MetadataCatalog.get(dataset), DatasetCatalog[dataset]
        if getattr(load, "__module__", None) in _JSON_LOADERS and metadata.get("json_file"):
            path, images = metadata.json_file, metadata.image_root
            stamp = _stamp(path, dataset, hint)
            return _describe_json(dataset, path, images, options, True, *stamp)
        return _describe_records(dataset, load, options, hint)
    path = os.fspath(json)  # type: ignore[arg-type]
    name = Path(path).name
    return _describe_json(name, path, str(images), options, False, *_stamp(path, name, hint))


@dataclass(frozen=True)
class _Options:
    """Arguments of :func:`open_dataset`, which see."""

    novel: str | tuple[str, ...] | None
    leave_out: tuple[str | int, ...]
    only: str | None
    groups: tuple[tuple[str, tuple[str, ...]], ...]
    metrics: str | None


def _as_list(values: Sequence, what: str) -> tuple:
    if isinstance(values, str):
        raise ValueError(f"{what} is '{values}': write names as a list, {what}='[{values}]'.")
    if odd := [value for value in values if not isinstance(value, str | int)]:
        raise ValueError(f"{what} has {odd[0]!r}, which is no name.")
    return tuple(values)


@dataclass(frozen=True, eq=False)
class _Read:
    """An annotation file and where it comes from."""

    name: str
    source: str
    root: str
    arguments: Mapping[str, str]
    sha256: str
    file: AnnotationFile


def _fill_metadata(metadata: Metadata, file: AnnotationFile) -> None:
    """Set what detectron2's own loading of a COCO file sets, for its own evaluators."""
    if metadata.get("thing_classes") is None:
        things = sorted((c for c in file.categories if c.isthing), key=lambda c: c.id)
        metadata.thing_classes = [c.name for c in things]
        metadata.thing_dataset_id_to_contiguous_id = {c.id: i for i, c in enumerate(things)}


def _stamp(path: str, name: str, hint: str) -> tuple[int, int]:
    """Changes when the file does."""
    if not Path(path).is_file():
        raise FileNotFoundError(_missing(name, path, hint))
    status = os.stat(path)
    return status.st_mtime_ns, status.st_size


def _missing(name: str, path: str, hint: str) -> str:
    return f"Annotations of '{name}' are not at {path}. {hint}"


# What was read is not kept: of a file as large as LVIS's, it takes ten times the arrays' memory.
@lru_cache(maxsize=4)
def _describe_json(
    name: str, path: str, images: str, options: _Options, registered: bool, *stamp: int
) -> DatasetDescription:
    file = read_annotation_file(Path(path))
    where = {"json": path, "images": images}
    if registered:
        where = {"dataset": name}
        _fill_metadata(MetadataCatalog.get(name), file)
    return _describe(_Read(name, path, images, where, sha256_of_file(path), file), options)


@lru_cache(maxsize=4)
def _describe_records(
    name: str, load: Callable[[], list[dict]], options: _Options, hint: str
) -> DatasetDescription:
    try:
        records = load()
    except FileNotFoundError as error:
        raise FileNotFoundError(_missing(name, error.filename or str(error), hint)) from error
    file = from_records(records, MetadataCatalog.get(name))
    # Where the pictures lie differs between machines.
    pictures = [msgspec.structs.replace(p, file_name=None) for p in file.images]
    content = msgspec.json.encode([pictures, file.categories, file.annotations])
    source, digest = f"the registered data set '{name}'", hashlib.sha256(content).hexdigest()
    return _describe(_Read(name, source, "", {"dataset": name}, digest, file), options)


def _describe(read: _Read, options: _Options) -> DatasetDescription:
    novel, leave_out, only = options.novel, options.leave_out, options.only
    found = Findings(read.source)
    file = read.file if only is None else in_folder(read.file, only, found)
    categories = check_categories(file, leave_out, found)
    names = tuple(category_name(c.name) for c in categories)
    frequencies = tuple(c.frequency for c in categories if c.frequency is not None)
    rule = _file_rule(read.root, file.images)
    annotations = build_annotations(file, categories, rule, found)
    usual = "coco" if annotations.negatives is None else "lvis"
    novel_classes = _resolve_novel(novel, names, frequencies, read.source)
    return DatasetDescription(
        name=read.name if only is None else f"{read.name}, {only} only",
        source=read.source,
        root=read.root,
        names=names,
        category_ids=tuple(c.id for c in categories),
        frequencies=frequencies,
        novel_classes=novel_classes,
        groups={k: classes_of(v, names, f"groups.{k}", read.source) for k, v in options.groups},
        metrics=options.metrics or usual,
        arguments={
            **read.arguments,
            "novel": None if novel_classes is None else [names[i] for i in novel_classes],
            "leave_out": list(leave_out),
            "only": only,
            "metrics": options.metrics,
        },
        annotations=annotations,
        sha256=read.sha256,
        findings=found,
    )


def _resolve_novel(
    novel: str | tuple[str, ...] | None,
    names: Sequence[str],
    frequencies: Sequence[str],
    source: str,
) -> tuple[int, ...] | None:
    if novel is None:
        return None
    if novel == "rare":
        if not frequencies:
            raise DatasetError(
                f'novel="rare", but the categories of {source} have no "frequency": name the '
                "novel ones, novel='[zebra]'."
            )
        return tuple(i for i, frequency in enumerate(frequencies) if frequency == "r")
    if isinstance(novel, str):
        if not Path(novel).is_file():
            raise ValueError(
                f"novel is '{novel}', which is neither a file of names nor \"rare\": write names "
                f"as a list, novel='[{novel or 'zebra'}]'."
            )
        novel = tuple(category.name for category in load_categories(novel))
    return classes_of(novel, names, "novel", source)


def classes_of(
    wanted: Sequence[str], names: Sequence[str], what: str, source: str
) -> tuple[int, ...]:
    """Contiguous ids, ascending, of categories by their names. Raises DatasetError for a name that
    is not there, with the nearest one."""
    index = {name: i for i, name in enumerate(names)}
    for name in wanted:
        if category_name(str(name)) not in index:
            close = difflib.get_close_matches(str(name), names, n=1)
            hint = f"did you mean '{close[0]}'?" if close else f"there are {quote(names)}."
            raise DatasetError(
                f"{what} has '{name}', which is none of the {len(names)} categories of {source}: "
                f"{hint}"
            )
    return tuple(sorted({index[category_name(str(name))] for name in wanted}))


def _file_rule(root: str, pictures: list[Picture]) -> Callable[[Picture], str | None]:
    """How a picture's file is named: the rule that finds the first one, else the usual one."""

    def by_url(picture: Picture) -> str | None:
        return picture.coco_url and "/".join(picture.coco_url.split("/")[-2:])

    def by_file_name(picture: Picture) -> str | None:
        return picture.file_name

    rules = [by_file_name, by_url]
    if any(p.neg_category_ids is not None for p in pictures[:1]):
        rules.reverse()
    usual, other = (rule(pictures[0]) if pictures else None for rule in rules)
    if not _is_file(root, usual) and _is_file(root, other):
        rules.reverse()
    return lambda picture: rules[0](picture) or rules[1](picture)


def _is_file(root: str, name: str | None) -> bool:
    return name is not None and os.path.isfile(os.path.join(root, name))


def _check_registered(name: str) -> None:
    if name not in DatasetCatalog:
        close = difflib.get_close_matches(name, DatasetCatalog.list())
        raise ValueError(
            f"No data set '{name}' is registered; close names: {', '.join(close) or 'none'}."
        )
