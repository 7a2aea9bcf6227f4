"""Known benchmarks: what their files hold, and where they come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LVIS = "https://www.lvisdataset.org/dataset"
_COCO = "https://cocodataset.org/#download"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
_OBJECTS365 = "https://www.objects365.org"
_MINIVAL = "https://huggingface.co/GLIPModel/GLIP"


@dataclass(frozen=True)
class Benchmark:
    """Published counts; None: not known.

    Attributes:
        images, boxes, categories: of the annotation file, crowds and difficult objects included.
        annotations, pictures: pages to get them from; datasets/README.md says where they go.
    """

    name: str
    images: int
    boxes: int | None
    categories: int
    annotations: str
    pictures: str

    @property
    def how_to_get(self) -> str:
        """Where its parts are, and where they go."""
        pages = self.annotations
        if self.pictures != self.annotations:
            pages = f"{self.annotations} (annotations) and {self.pictures} (pictures)"
        return f"{self.name} is at {pages}; datasets/README.md says where it belongs."


# By the name of the annotation file, or of the registered data set.
_LVIS_TRAIN = Benchmark("LVIS v1 train", 100_170, 1_270_141, 1203, _LVIS, _COCO)
_LVIS_VAL = Benchmark("LVIS v1 val", 19_809, 244_707, 1203, _LVIS, _COCO)
_LVIS_MINIVAL = Benchmark("LVIS v1 minival", 4_809, None, 1203, _MINIVAL, _COCO)
_COCO_TRAIN = Benchmark("COCO 2017 train", 118_287, 860_001, 80, _COCO, _COCO)
_COCO_VAL = Benchmark("COCO 2017 val", 5_000, 36_781, 80, _COCO, _COCO)
_BENCHMARKS = {
    "lvis_v1_train": _LVIS_TRAIN,
    "lvis_v1_val": _LVIS_VAL,
    "lvis_v1_minival": _LVIS_MINIVAL,
    "lvis_v1_minival_inserted_image_name": _LVIS_MINIVAL,
    "coco_2017_train": _COCO_TRAIN,
    "instances_train2017": _COCO_TRAIN,
    "coco_2017_val": _COCO_VAL,
    "instances_val2017": _COCO_VAL,
    "voc_2007_test": Benchmark("Pascal VOC 2007 test", 4_952, 14_976, 20, _VOC, _VOC),
    "zhiyuan_objv2_val": Benchmark(
        "Objects365 v2 val", 80_000, 1_240_587, 365, _OBJECTS365, _OBJECTS365
    ),
}


def find_benchmark(names: Iterable[object]) -> Benchmark | None:
    """The benchmark that one of these is: registered names or annotation files; None if none is."""
    stems = (Path(str(name)).name.removesuffix(".json") for name in names if name)
    return next((_BENCHMARKS[stem] for stem in stems if stem in _BENCHMARKS), None)
