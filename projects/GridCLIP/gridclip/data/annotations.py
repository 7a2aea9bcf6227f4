"""The annotations of a data set as arrays, made of an annotation file once it has been checked."""

from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from .annotation_file import Annotation, AnnotationFile, Category, Picture
from .findings import Findings

_MOST_BAD_BOXES = 0.1  # of all boxes; with more, the file's boxes are probably of another format
_HUGE = 10**9  # pixels, more than any picture has a side

ImageId = int | str
T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Ragged:
    """A list of integers for each of N images: ``values[starts[i] : ends[i]]``."""

    values: NDArray
    starts: NDArray
    ends: NDArray

    @classmethod
    def of(cls, lists: Iterable[Sequence[int]]) -> "Ragged":
        lists = list(lists)
        offsets = np.cumsum([0, *map(len, lists)])
        values = np.array([i for ids in lists for i in ids], dtype=np.int64)
        return cls(values, offsets[:-1], offsets[1:])

    @classmethod
    def same(cls, values: Sequence[int], count: int) -> "Ragged":
        """One list for all images, kept once."""
        starts = np.zeros(count, dtype=np.int64)
        return cls(np.array(values, dtype=np.int64), starts, starts + len(values))

    def __getitem__(self, i: int) -> NDArray:
        return self.values[self.starts[i] : self.ends[i]]

    def without(self, classes: Collection[int]) -> "Ragged":
        """The lists without these values."""
        kept = ~np.isin(self.values, list(classes))
        before = np.concatenate([[0], np.cumsum(kept)])
        return Ragged(self.values[kept], before[self.starts], before[self.ends])


@dataclass(frozen=True, eq=False)
class Annotations:
    """N images and M boxes.

    Attributes:
        image_ids: the file's, ascending.
        file_names: below the folder of the pictures.
        sizes: (N, 2) int64, width and height in pixels.
        images: (M,) int64, the image's index, ascending.
        classes: (M,) int64, contiguous category ids.
        boxes: (M, 4) float64, XYWH in pixels.
        areas: (M,) float64, in pixels; LVIS's and COCO's are those of the object's mask.
        crowds: (M,) bool, whether a box is around many objects of the category.
        negatives, not_exhaustive: contiguous ids of the categories that are surely absent from an
            image, and of those of which some objects lack a box; None if all is annotated.
        available: False for a test set whose annotations are kept back.
    """

    image_ids: tuple[ImageId, ...]
    file_names: tuple[str, ...]
    sizes: NDArray
    images: NDArray
    classes: NDArray
    boxes: NDArray
    areas: NDArray
    crowds: NDArray
    negatives: Ragged | None
    not_exhaustive: Ragged | None
    available: bool

    def of_image(self, index: int) -> slice:
        """The boxes of an image."""
        first, end = np.searchsorted(self.images, (index, index + 1))
        return slice(int(first), int(end))


def in_folder(file: AnnotationFile, folder: str, found: Findings) -> AnnotationFile:
    """The images whose "coco_url" or "file_name" has this folder in it, and their boxes.

    Raises:
        DatasetError: there are none.
    """

    def is_in(picture: Picture) -> bool:
        paths = (picture.coco_url or "", picture.file_name or "")
        return any(folder in path.split("/")[:-1] for path in paths)

    kept = [p for p in file.images if is_in(p)]
    others = [p for p in file.images if not is_in(p)]
    first = next((p.coco_url or p.file_name for p in others), None)
    none = [] if kept else [f"'{folder}', where the first picture is {first}"]
    found.fault("no picture in the folder of only=", none, "name a folder that is in the paths")
    found.raise_faults()
    found.note("image outside of only=", [f"image {p.id!r}" for p in others], "left out on request")
    left_out = {p.id for p in others if isinstance(p.id, int | str)}
    boxes = file.annotations and [a for a in file.annotations if not _is_in(a.image_id, left_out)]
    return AnnotationFile(kept, file.categories, boxes)


def build_annotations(
    file: AnnotationFile,
    categories: Sequence[Category],
    name_of_file: Callable[[Picture], str | None],
    found: Findings,
) -> Annotations:
    """Check images and boxes, and put them into arrays.

    Args:
        categories: those that count, in contiguous order.
        name_of_file: of a picture.
        found: gets what was found.

    Raises:
        DatasetError: what was found can't be put right.
    """
    pictures = _check_pictures(file.images, name_of_file, found)
    image_index = {picture.id: i for i, picture in enumerate(pictures)}
    to_class = {category.id: i for i, category in enumerate(categories)}
    left_out = {c.id for c in file.categories} - to_class.keys()
    annotations = _check_references(file.annotations or [], image_index, to_class, left_out, found)
    found.raise_faults()
    annotations = _drop_bad_boxes(annotations, pictures, image_index, found)
    found.raise_faults()
    negatives, not_exhaustive = (
        _class_lists(pictures, field, to_class, left_out, found)
        for field in ("neg_category_ids", "not_exhaustive_category_ids")
    )
    found.raise_faults()
    images = np.array([image_index[a.image_id] for a in annotations], dtype=np.int64)
    boxes = np.array([a.bbox for a in annotations], dtype=np.float64).reshape(-1, 4)
    order = np.argsort(images, kind="stable")
    made = Annotations(
        image_ids=tuple(p.id for p in pictures),
        file_names=tuple(str(name_of_file(p)) for p in pictures),
        sizes=np.array([(p.width, p.height) for p in pictures], dtype=np.int64).reshape(-1, 2),
        images=images[order],
        classes=np.array([to_class[a.category_id] for a in annotations], dtype=np.int64)[order],
        boxes=boxes[order],
        areas=_areas(annotations, boxes, found)[order],
        crowds=np.array([bool(a.iscrowd) for a in annotations], dtype=bool)[order],
        negatives=negatives,
        not_exhaustive=not_exhaustive,
        available=bool(file.annotations),
    )
    _check_scale(made, categories, found)
    found.raise_faults()
    return made


def _check_pictures(
    pictures: list[Picture], name_of_file: Callable[[Picture], str | None], found: Findings
) -> list[Picture]:
    found.fault("no pictures", [] if pictures else ["'images' is empty"], "list them there")
    kinds = Counter(type(p.id) for p in pictures)
    odd = [f"image {p.id!r}" for p in pictures if type(p.id) not in (int, str)]
    found.fault("image id that is neither integer nor string", odd, "number the images")
    if len(kinds) > 1 and not odd:
        rarest = min(kinds, key=lambda kind: kinds[kind])
        mixed = [f"image {p.id!r}" for p in pictures if type(p.id) is rarest]
        found.fault("image ids of two types", mixed, "make all integers, or all strings")
    sizes = [
        f"image {p.id!r}: {p.width!r} x {p.height!r}"
        for p in pictures
        if not (_is_size(p.width) and _is_size(p.height))
    ]
    found.fault("image without width and height in pixels", sizes, "give both as integers")
    nameless = [f"image {p.id!r}" for p in pictures if not name_of_file(p)]
    found.fault("image without file_name", nameless, "name the file of each picture")
    found.raise_faults()
    unique: dict[ImageId, Picture] = {}
    same: list[str] = []
    different: list[str] = []
    for picture in pictures:
        other = unique.setdefault(picture.id, picture)
        if other is not picture:
            (same if other == picture else different).append(f"image {picture.id!r}")
    found.note("image listed twice", same, "counted once")
    found.fault("two images of one id", different, "give each an id of its own")
    by_file = Counter(name_of_file(p) for p in unique.values())
    shared = [f"{name}" for name, count in by_file.items() if count > 1]
    found.note("file that several images name", shared, "kept: each counts")
    found.raise_faults()
    return sorted(unique.values(), key=lambda p: p.id)


def _check_references(
    annotations: list[Annotation],
    image_index: Mapping[Any, int],
    to_class: Mapping[int, int],
    left_out: Collection[int],
    found: Findings,
) -> list[Annotation]:
    """The annotations of categories that count."""

    def unknown(what: str, value: Any, known: Collection) -> str:
        sample = next(iter(known), None)
        return f"{what} {value!r}; ids of that kind are like {sample!r}"

    no_image = [
        f"annotation of {unknown('image', a.image_id, image_index)}"
        for a in _unless_all_in([a.image_id for a in annotations], image_index, annotations)
        if not _is_in(a.image_id, image_index)
    ]
    found.fault("box of an image that is not listed", no_image, "do the parts belong together?")
    no_category = [
        f"annotation of {unknown('category', a.category_id, to_class)}"
        for a in _unless_all_in([a.category_id for a in annotations], to_class, annotations)
        if not (_is_in(a.category_id, to_class) or _is_in(a.category_id, left_out))
    ]
    found.fault("box of a category that is not listed", no_category, "add it to 'categories'")
    if no_image or no_category:
        return []
    odd = [f"{a.iscrowd!r} (image {a.image_id!r})" for a in annotations if a.iscrowd not in (0, 1)]
    found.fault("iscrowd that is neither 0 nor 1", odd, "0 is one object, 1 is a crowd of them")
    without = [f"category {a.category_id}" for a in annotations if a.category_id in left_out]
    found.note("box of a category that is left out on request", without, "left out")
    return [a for a in annotations if a.category_id not in left_out]


def _drop_bad_boxes(
    annotations: list[Annotation],
    pictures: Sequence[Picture],
    image_index: Mapping[ImageId, int],
    found: Findings,
) -> list[Annotation]:
    images = [image_index[a.image_id] for a in annotations]
    doubtful = np.flatnonzero(~_surely_good([a.bbox for a in annotations], pictures, images))
    left_out = set()
    bad: dict[str, list[str]] = {
        "box that is not four finite numbers": [],
        "box without width or height": [],
        "box outside its picture": [],
    }
    malformed, empty, outside = bad.values()
    for index in doubtful.tolist():
        a, picture = annotations[index], pictures[images[index]]
        if not _is_box(a.bbox):
            into = malformed
        else:
            x, y, w, h = a.bbox
            if w <= 0 or h <= 0:
                into = empty
            elif x >= picture.width or y >= picture.height or x + w <= 0 or y + h <= 0:
                into = outside
            else:
                continue
        left_out.add(index)
        into.append(f"box {index} (image {a.image_id!r}, category {a.category_id}): {a.bbox}")
    tell, action = found.note, "left out"
    if sum(map(len, bad.values())) > _MOST_BAD_BOXES * len(annotations):
        tell = found.fault
        action = f"more than {_MOST_BAD_BOXES:.0%} of all boxes: are they [x, y, width, height]?"
    for what, entries in bad.items():
        tell(what, entries, action)
    return [a for i, a in enumerate(annotations) if i not in left_out] if left_out else annotations


def _surely_good(boxes: list, pictures: Sequence[Picture], images: list[int]) -> NDArray:
    """(n,) bool: boxes in their picture, with a width and a height. None of them if some are not
    four numbers. A million boxes are not looked at one by one for the few that are not good.

    Args:
        images: of each box, the index of its picture.
    """
    lists = set(map(type, boxes)) <= {list} and set(map(len, boxes)) <= {4}
    if not lists or not set(map(type, chain.from_iterable(boxes))) <= {int, float}:
        return np.zeros(len(boxes), dtype=bool)
    try:
        corners = np.fromiter(chain.from_iterable(boxes), np.float64).reshape(-1, 4)
    except OverflowError:  # an integer beyond all floats
        return np.zeros(len(boxes), dtype=bool)
    low, size = corners[:, :2], corners[:, 2:]
    pixels = np.array([(p.width, p.height) for p in pictures], dtype=np.float64)[images]
    inside = (low < pixels) & (low + size > 0) & (low > -_HUGE)
    return np.all(inside & (size > 0) & (size < _HUGE), axis=1)


def _class_lists(
    pictures: Sequence[Picture],
    field: str,
    to_class: Mapping[int, int],
    left_out: Collection[int],
    found: Findings,
) -> Ragged | None:
    lists = [getattr(p, field) for p in pictures]
    lacking = [f"image {p.id!r}" for p, ids in zip(pictures, lists, strict=True) if ids is None]
    if len(lacking) == len(pictures):
        return None
    found.fault(f"image without {field}, which others have", lacking, "all images need it or none")
    unknown = [
        f"image {p.id!r} has {i!r}"
        for p, ids in _unless_all_in(
            list(chain.from_iterable(ids or () for ids in lists)),
            to_class,
            zip(pictures, lists, strict=True),
        )
        for i in ids or ()
        if not (_is_in(i, to_class) or _is_in(i, left_out))
    ]
    found.fault(f"category in {field} that is not listed", unknown, "give ids of 'categories'")
    if lacking or unknown:
        return None
    return Ragged.of([[to_class[i] for i in ids if i in to_class] for ids in lists])


def _areas(annotations: Sequence[Annotation], boxes: NDArray, found: Findings) -> NDArray:
    areas = boxes[:, 2] * boxes[:, 3]
    lacking = []
    for i, a in enumerate(annotations):
        if _is_number(a.area) and 0 < a.area < _HUGE**2:
            areas[i] = a.area
        else:
            lacking.append(f"image {a.image_id!r}")
    found.note("box without an area above 0", lacking, "width x height is taken")
    return areas


def _check_scale(made: Annotations, categories: Sequence[Category], found: Findings) -> None:
    """What is seen of all boxes together: another unit, another format, empty categories."""
    if len(made.boxes):
        corners = made.boxes[:, :2] + made.boxes[:, 2:]
        if corners.max() <= 1 and made.sizes.min() > 1:
            first = [f"{made.boxes[0].tolist()}"] * len(made.boxes)
            found.fault("box between 0 and 1", first, "give pixels, not shares of the picture")
        outside = (corners > made.sizes[made.images] + 1).any(axis=1) | (
            made.boxes[:, :2] < -1
        ).any(axis=1)
        entries = [
            f"image {made.image_ids[made.images[i]]!r}: {made.boxes[i].tolist()}"
            for i in np.flatnonzero(outside)
        ]
        if len(entries) > len(made.boxes) / 2:
            fix = "most do: are they [x, y, width, height], and the images' sizes right?"
            found.fault("box that reaches out of its picture", entries, fix)
        found.note("box that reaches out of its picture", entries, "cut at the border in training")
    if made.available:
        used = set(made.classes.tolist())
        unused = [f"'{c.name}' (id {c.id})" for i, c in enumerate(categories) if i not in used]
        found.note(
            "category without boxes", unused, "kept; one that is only a root: data.leave_out"
        )
        empty = len(made.image_ids) - len(np.unique(made.images))
        found.note("picture without boxes", ["background"] * empty, "kept")


def _unless_all_in(values: list, known: Mapping, items: Iterable[T]) -> Iterable[T]:
    """Nothing if all values are known, else the items, to be looked at one by one."""
    all_known = set(map(type, values)) <= {int, str} and known.keys() >= set(values)
    return () if all_known else items


def _is_in(value: Any, known: Collection) -> bool:
    # JSON's true and 1.0 would be found as 1.
    return isinstance(value, int | str) and not isinstance(value, bool) and value in known


def _is_size(value: Any) -> bool:
    return _is_number(value) and 0 < value < _HUGE and value == int(value)


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_box(box: Any) -> bool:
    return (
        isinstance(box, list | tuple)
        and len(box) == 4
        and all(_is_number(x) and -_HUGE < x < _HUGE for x in box)  # not so of NaN
    )
