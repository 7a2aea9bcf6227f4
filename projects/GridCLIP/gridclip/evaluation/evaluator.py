"""Box AP by LVIS's or COCO's metrics, also over the novel and over the base categories."""

import logging
from collections.abc import Sequence
from importlib.metadata import version
from pathlib import Path

import numpy as np
from detectron2.evaluation import DatasetEvaluator
from detectron2.utils import comm
from detectron2.utils.logger import create_small_table
from numpy.typing import NDArray

from gridclip.data.description import MAX_DETS, DatasetDescription
from gridclip.files import write_json

from .detections import Detections
from .ground_truth import coco_precision, lvis_precision, per_category, summarise
from .results import nan_to_none

# Dave et al., "Evaluating Large-Vocabulary Object Detectors: The Devil is in the Details".
_FIXED_AP_DETS = 10_000

logger = logging.getLogger("detectron2.gridclip")


class OpenVocabularyEvaluator(DatasetEvaluator):
    """Box AP on a data set, with AP_novel and AP_base where it has novel categories.

    Metrics are in percent: AP, AP50, AP75, APs, APm and APl; with LVIS's metrics also APr, APc and
    APf; with COCO's AP50_novel and AP50_base; and "APr_<group>" for each group of the data set. All
    means are over the categories with ground truth; a group without any is nan. A detector that
    finds nothing has AP 0.

    Attributes:
        data: the description of the data set.
        detector_limit: the most detections of an image that the detector gives, if it is known.
        per_category: AP in percent by category name, nan without ground truth; :meth:`evaluate`
            fills it on the main process.
    """

    def __init__(
        self,
        data: DatasetDescription,
        output_dir: str | None = None,
        *,
        ap: str = "standard",
        max_dets_per_image: int | None = None,
    ):
        """
        Args:
            output_dir: for ``<metrics>_instances_results.json``, the detections in COCO's format of
                results, and ``per_category_ap.json`` (category name to AP, null where there is no
                ground truth); None writes no file.
            ap: "standard", or "fixed" for Fixed AP: the best 10,000 detections of a category over
                the whole set count, however many are in one image. The detector has to give many:
                raise its max_detections_per_image.
            max_dets_per_image: the best detections of an image that count. None: 300 for LVIS, 100
                for COCO, no limit for Fixed AP.

        Raises:
            ValueError: one of these is not as described.
        """
        self.data, self.metrics, self.ap = data, data.metrics, ap
        if ap not in ("standard", "fixed"):
            raise ValueError(f"ap is '{ap}': take standard or fixed.")
        if ap == "fixed" and max_dets_per_image is not None:
            raise ValueError("Fixed AP has no limit per image: leave max_dets_per_image out.")
        if max_dets_per_image is not None and max_dets_per_image < 1:
            raise ValueError(f"max_dets_per_image is {max_dets_per_image}: at least 1 counts.")
        self.max_dets_per_image = max_dets_per_image
        if ap == "standard" and max_dets_per_image is None:
            self.max_dets_per_image = MAX_DETS[self.metrics]
        self.detector_limit: int | None = None
        self._output_dir = None if output_dir is None else Path(output_dir)
        self._image_index = {image_id: i for i, image_id in enumerate(data.annotations.image_ids)}
        self._class_of: NDArray = np.arange(len(data.names))
        self.per_category: dict[str, float] = {}
        self.reset()

    @property
    def predictions_file(self) -> Path | None:
        """Where the detections are written."""
        name = f"{self.metrics}_instances_results.json"
        return self._output_dir and self._output_dir / name

    def use_vocabulary(self, names: Sequence[str]) -> None:
        """Take the detector's classes to be these. Those that the data set does not have are left
        out of the evaluation; without this call the classes are the data set's own."""
        own = {name: i for i, name in enumerate(self.data.names)}
        self._class_of = np.array([own.get(name, -1) for name in names], dtype=np.int64)

    def reset(self) -> None:
        self._images: list[int] = []
        self._found: list[Detections] = []

    def process(self, inputs: list[dict], outputs: list[dict]) -> None:
        for record, output in zip(inputs, outputs, strict=True):
            image = self._image_index.get(record["image_id"])
            if image is None:
                raise ValueError(f"Image {record['image_id']!r} is not one of {self.data.source}.")
            instances = output["instances"].to("cpu")
            boxes = instances.pred_boxes.tensor.numpy().copy()
            boxes[:, 2:] -= boxes[:, :2]  # as detectron2 does, in the boxes' own precision
            predicted = instances.pred_classes.numpy()
            odd = predicted[(predicted < 0) | (predicted >= len(self._class_of))]
            if len(odd):
                raise ValueError(
                    f"The predicted class {odd[0]} is not one of the {len(self._class_of)} "
                    f"categories of {self.data.source}: evaluate with the vocabulary of the data "
                    "set."
                )
            classes, scores = self._class_of[predicted], instances.scores.double().numpy()
            if not (np.isfinite(boxes).all() and np.isfinite(scores).all()):
                raise ValueError(
                    f"In image {record['image_id']!r}, a score or a box is not finite: the weights "
                    "are of a training that diverged, or damaged."
                )
            images = np.full(len(boxes), image, dtype=np.int32)
            found = Detections(images, classes.astype(np.int32), boxes, scores).take(classes >= 0)
            if self.max_dets_per_image is not None:
                # COCO's rule is over all categories of an image, too; pycocotools has it for each.
                found = found.best_of_each_image(self.max_dets_per_image)
            self._images.append(image)
            self._found.append(found)

    def evaluate(self) -> dict[str, dict[str, float]]:
        """The metrics of all ranks' detections as {"bbox": metrics}, on the main process.

        Without annotations there are none: the detections are written, and the log says where.
        """
        # In place of their parts: evaluate() may be called again.
        self._found = [Detections.cat(self._found)]
        comm.synchronize()  # here the first ranks wait for the last: a gather has less patience
        gathered = comm.gather((self._images, self._found[0]))
        if not comm.is_main_process():
            return {}
        images = [image for part, _ in gathered for image in part]
        found = Detections.cat([part for _, part in gathered])
        del gathered
        if len(images) != len(set(images)) or not images:
            many = f"{len(images)} images were evaluated, {len(set(images))} different ones"
            raise ValueError(f"{many}: call reset() and then process() once an image.")
        images = sorted(images)
        if len(images) < len(self.data):
            logger.info(f"{len(images)} of {len(self.data)} images are evaluated.")
        if self.ap == "fixed":
            found = found.best_of_each_category(_FIXED_AP_DETS)
        if self.predictions_file is not None:
            ids = self.data.annotations.image_ids, self.data.category_ids
            found.write(self.predictions_file, *ids)
        if not self.data.annotations.available:
            where = self.predictions_file and f" The detections are in {self.predictions_file}."
            logger.info(
                f"{self.data.source} has no annotations: there are no metrics.{where or ''}"
            )
            return {}
        if not len(found.scores):
            logger.warning("The model detected nothing in any image: AP is 0.")
        precision_of = lvis_precision if self.metrics == "lvis" else coco_precision
        precision = precision_of(self.data, found, images)
        return {"bbox": self._summarise(precision)}

    def protocol(self) -> dict[str, str]:
        """The evaluation in words, as it is applied."""
        evaluator = f"COCO's metrics, computed by pycocotools {version('pycocotools')}"
        if self.metrics == "lvis":
            evaluator = f"lvis-api {version('lvis')}'s metrics, computed by FastLVISEval"
        limits = [x for x in (self.max_dets_per_image, self.detector_limit) if x is not None]
        limit = f"at most {min(limits)} detections an image" if limits else "no limit per image"
        if self.metrics == "coco" and self.data.federated:
            evaluator += ", as if categories that the annotation leaves open were absent"
        ap = f"standard, {limit} (not Fixed AP)"
        if self.ap == "fixed":
            ap = f"Fixed AP, the best {_FIXED_AP_DETS} of a category over the set; {limit}"
        return {"evaluator": evaluator, "ap": ap}

    def _summarise(self, precision: NDArray) -> dict[str, float]:
        data, groups = self.data, {}
        if self.metrics == "lvis" and data.frequencies:
            for frequency in "rcf":
                of_frequency = [i for i, f in enumerate(data.frequencies) if f == frequency]
                groups[f"AP{frequency}"] = of_frequency
        if data.novel_classes is not None:
            groups |= {"AP_novel": list(data.novel_classes), "AP_base": data.base_classes}
        groups |= {f"APr_{name}": list(classes) for name, classes in data.groups.items()}
        metrics = summarise(precision, groups, group_ap50=self.metrics == "coco")
        self.per_category = dict(zip(data.names, per_category(precision), strict=True))
        if self._output_dir is not None:
            path = self._output_dir / "per_category_ap.json"
            write_json(path, nan_to_none(self.per_category), indent=1)
        said = self.protocol()
        logger.info(
            f"Box AP on {data.name}, {said['evaluator']}, {said['ap']}:\n"
            + create_small_table(metrics)
        )
        return metrics
