"""Who is measured on what."""

from typing import NamedTuple

from . import hugging_face, ours, yolo
from .detect import INT8, OPENVINO, PYTORCH, Contestant

NAMES = 1203  # of LVIS
MANY_NAMES = 21_841  # of ImageNet-21k


class Plan(NamedTuple):
    """
    Attributes:
        side, names: of the square pictures, and how many names, on which all are compared.
        runs: counted runs of every form.
        contestants: the first is GridCLIP, which takes turns with every other one.
        by_names, by_side: keys of those that are measured with other numbers of names and sides.
        name_counts, sides: these numbers.
        wide: height and width at which GridCLIP is compared with its trunk.
    """

    side: int
    names: int
    runs: int
    contestants: list[Contestant]
    by_names: tuple[str, ...]
    by_side: tuple[str, ...]
    name_counts: tuple[int, ...]
    sides: tuple[int, ...]
    wide: tuple[int, int]


class Block(NamedTuple):
    """A contestant on pictures of one size, height by width, in some forms."""

    contestant: Contestant
    size: tuple[int, int]
    names: int
    forms: tuple[str, ...]


def whole_plan(runs: int) -> Plan:
    return Plan(
        side=640,
        names=NAMES,
        runs=runs,
        contestants=[
            ours.gridclip(ours.GridCLIPSource()),
            *ours.vild(),
            *(yolo.yolo_world(scale) for scale in "smlx"),
            yolo.yoloe("l"),
            *hugging_face.contestants(),
        ],
        by_names=("gridclip", "vild_matched", "yolo_world_l"),
        by_side=("gridclip", "vild_matched", "yolo_world_l"),
        name_counts=(80, MANY_NAMES),
        sides=(320, 960),
        wide=(800, 1333),
    )


def quick_plan(runs: int) -> Plan:
    """Small pictures and small models, to try it out; its ratios mean nothing."""
    return Plan(
        side=128,
        names=80,
        runs=runs,
        contestants=[
            ours.gridclip(ours.GridCLIPSource()),
            *ours.vild(),
            yolo.yolo_world("s"),
        ],
        by_names=("gridclip",),
        by_side=("gridclip",),
        name_counts=(20,),
        sides=(64,),
        wide=(64, 96),
    )


def blocks(plan: Plan) -> list[Block]:
    """In order. What all are compared on is not repeated for the curves."""
    found = [
        Block(c, 2 * (c.side or plan.side,), c.names or plan.names, c.forms)
        for c in plan.contestants
    ]
    by_key = {c.key: c for c in plan.contestants}
    # Of YOLO-World both: which is faster depends on the number of names.
    forms = {key: (PYTORCH, INT8) for key in by_key} | {
        key: (PYTORCH, OPENVINO, INT8) for key in by_key if key.startswith("yolo_world")
    }
    for names in plan.name_counts:
        for key in plan.by_names:
            side = by_key[key].side or plan.side
            found.append(Block(by_key[key], (side, side), names, forms[key]))
    for side in plan.sides:
        found += [Block(by_key[k], (side, side), plan.names, forms[k]) for k in plan.by_side]
    wide = Block(plan.contestants[0], plan.wide, plan.names, (PYTORCH, ours.TRUNK))
    return [*found, wide]
