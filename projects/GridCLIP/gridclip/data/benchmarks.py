"""Known benchmarks: what their files hold, and where they come from."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

_LVIS = "https://www.lvisdataset.org/dataset"
_COCO = "https://cocodataset.org/#download"
_VOC = "http://host.robots.ox.ac.uk/pascal/VOC/voc2007/"
_O365 = "https://www.objects365.org"
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


# By a name that is registered, or ours.
_BENCHMARKS = {
    "lvis_v1_train": Benchmark("LVIS v1 train", 100_170, 1_270_141, 1203, _LVIS, _COCO),
    "lvis_v1_val": Benchmark("LVIS v1 val", 19_809, 244_707, 1203, _LVIS, _COCO),
    "lvis_v1_minival": Benchmark("LVIS v1 minival", 4_809, None, 1203, _MINIVAL, _COCO),
    "coco_2017_train": Benchmark("COCO 2017 train", 118_287, 860_001, 80, _COCO, _COCO),
    "coco_2017_val": Benchmark("COCO 2017 val", 5_000, 36_781, 80, _COCO, _COCO),
    "voc_2007_test": Benchmark("Pascal VOC 2007 test", 4_952, 14_976, 20, _VOC, _VOC),
    "objects365_v2_val": Benchmark("Objects365 v2 val", 80_000, 1_240_587, 365, _O365, _O365),
}
# Files that are not called so.
_FILES = {
    "lvis_v1_val, val2017 only": "lvis_v1_minival",
    "lvis_v1_minival_inserted_image_name": "lvis_v1_minival",
    "instances_train2017": "coco_2017_train",
    "instances_val2017": "coco_2017_val",
    "zhiyuan_objv2_val": "objects365_v2_val",
}


def find_benchmark(names: Iterable[object]) -> Benchmark | None:
    """The benchmark that one of these is: registered names or annotation files; None if none is."""
    stems = (Path(str(name)).name.removesuffix(".json") for name in names if name)
    known = (_BENCHMARKS.get(_FILES.get(stem, stem)) for stem in stems)
    return next((benchmark for benchmark in known if benchmark), None)
