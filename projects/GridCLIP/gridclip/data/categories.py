"""The categories of an annotation file, checked and put in contiguous order."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import Any

from gridclip.text.embeddings import quote
from gridclip.text.names import category_name

from .annotation_file import AnnotationFile
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
    odd = [f"category {c.id!r}" for c in things if type(c.id) is not int]
    found.fault("category id that is no integer", odd, "number them")
    if not odd:
        counts = Counter(c.id for c in things)
        twice = [f"category {i}" for i, count in counts.items() if count > 1]
        found.fault("category id that occurs twice", twice, "ids of categories must be unique")
    unnamed = [f"category {c.id}" for c in things if not _is_name(c.name)]
    found.fault("category without a name", unnamed, "give it a name")
    found.raise_faults()
    things.sort(key=lambda c: c.id)
    known = {c.id for c in things} | {category_name(c.name) for c in things}
    wanted = [category_name(x) if isinstance(x, str) else x for x in leave_out]
    unknown = [f"'{x}'" for x in wanted if x not in known]
    found.fault(
        "leave_out names no category", unknown, f"there are {quote([c.name for c in things])}"
    )
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


def _is_name(value: Any) -> bool:
    return isinstance(value, str) and bool(value.strip())
