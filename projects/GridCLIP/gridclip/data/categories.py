"""The categories of an annotation file, checked and put in contiguous order."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from gridclip.text.names import category_name

from .annotation_file import AnnotationFile, Category
from .findings import Findings

_FREQUENCIES = ("r", "c", "f")


def check_categories(file: AnnotationFile, leave_out: Sequence[Any], found: Findings) -> list:
    """The categories in the order of their ids, without those that are left out on request.

    Args:
        leave_out: names, or ids where two have one name.
        found: gets what was found.
    """
    things = [c for c in file.categories if c.isthing]
    found.fault("no categories", [] if things else ["'categories' is empty"], "name them there")
    _check_ids("category", [c.id for c in things], "of categories", found)
    unnamed = [f"category {c.id}" for c in things if not _is_name(c.name)]
    found.fault("category without a name", unnamed, "give it a name")
    found.raise_faults()
    things.sort(key=lambda c: c.id)
    known = {c.id for c in things} | {category_name(c.name) for c in things}
    wanted = [category_name(x) if isinstance(x, str) else x for x in leave_out]
    unknown = [f"'{x}'" for x in wanted if x not in known]
    found.fault("leave_out names no category", unknown, f"there are {_listed(things)}")
    kept = [c for c in things if c.id not in wanted and category_name(c.name) not in wanted]
    found.fault("no categories", [] if kept else ["all are left out"], "leave_out is too much")
    by_name = defaultdict(list)
    for c in kept:
        by_name[category_name(c.name).lower()].append(c)
    twice = [
        f"'{same[0].name}' (ids {', '.join(str(c.id) for c in same)})"
        for same in by_name.values()
        if len(same) > 1
    ]
    found.fault(
        "two categories of one name",
        twice,
        "rename one, or leave one out by its id: data.leave_out='[0]'",
    )
    with_frequency = [c for c in kept if c.frequency is not None]
    odd = [
        f"category {c.id} '{c.name}' has frequency {c.frequency!r}"
        for c in kept
        if with_frequency and c.frequency not in _FREQUENCIES
    ]
    odd.sort(key=lambda entry: entry.endswith("None"))  # an odd value says more than none
    found.fault("unknown frequency", odd, "give all categories 'r', 'c' or 'f', or none")
    found.raise_faults()
    return kept


def _check_ids(kind: str, ids: Sequence[Any], where: str, found: Findings) -> None:
    odd = [f"{kind} {i!r}" for i in ids if isinstance(i, bool) or not isinstance(i, int)]
    found.fault(f"{kind} id that is no integer", odd, "number them")
    if not odd:
        twice = [f"{kind} {i}" for i, count in Counter(ids).items() if count > 1]
        found.fault(f"{kind} id that occurs twice", twice, f"ids {where} must be unique")


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())


def _listed(categories: Sequence[Category]) -> str:
    names = [f"'{c.name}'" for c in categories[:5]]
    return ", ".join(names) + (", ..." if len(categories) > 5 else "")
