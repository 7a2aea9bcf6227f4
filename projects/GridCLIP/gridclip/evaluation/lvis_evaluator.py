"""Box AP on LVIS, also over the novel and over the base categories."""

from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from detectron2.data.catalog import Metadata
from detectron2.evaluation import LVISEvaluator
from detectron2.utils.logger import create_small_table
from lvis import LVIS

from gridclip.files import write_json

from .detections import Detections
from .fast_lvis_eval import FastLVISEval
from .results import nan_to_none


def contiguous_category_ids(metadata: Metadata, category_ids: Iterable[int]) -> dict[int, int]:
    """From category ids of the annotation file to contiguous class ids, counted from 0.

    As in detectron2: by ``metadata.thing_dataset_id_to_contiguous_id`` where the dataset has it,
    otherwise id - 1, since LVIS counts its categories from 1.
    """
    return metadata.get("thing_dataset_id_to_contiguous_id", {i: i - 1 for i in category_ids})


def rare_classes(metadata: Metadata, categories: Sequence[dict]) -> list[int]:
    """Contiguous ids of LVIS's usual novel categories: those of an annotation file's "categories"
    whose "frequency" is "r"."""
    to_contiguous = contiguous_category_ids(metadata, (c["id"] for c in categories))
    return sorted(to_contiguous[c["id"]] for c in categories if c["frequency"] == "r")


class OpenVocabularyLVISEvaluator(LVISEvaluator):
    """detectron2's LVISEvaluator for boxes, with AP_novel and AP_base.

    The metrics, in percent, are those of lvis-api (AP, AP50, AP75, APs, APm, APl, APr, APc, APf),
    computed by :class:`FastLVISEval`. Where the novel categories are known, there are also AP_novel
    and AP_base, the mean AP over the novel and over the other categories; where the metadata has
    "novel_axes" (contiguous ids by axis, as in ShapesLVIS), also APr_<axis>. All means are over
    the categories with ground truth, as lvis-api's; a group without any is nan. A detector that
    finds nothing has AP 0.

    Attributes:
        novel_classes: contiguous ids of the novel categories; None if they are not known.
        per_category: AP in percent by category name, nan without ground truth. :meth:`evaluate`
            fills it and ``image_ids``, on the main process.
        image_ids: the images that the detector was run on.
    """

    def __init__(
        self,
        dataset_name: str,
        distributed: bool = True,
        output_dir: str | None = None,
        *,
        max_dets_per_image: int = 300,
        novel_classes: Sequence[int] | str | None = None,
    ):
        """
        Args:
            dataset_name: a registered dataset whose metadata has "json_file".
            distributed: gather the predictions of all ranks.
            output_dir: for detectron2's ``instances_predictions.pth`` and
                ``lvis_instances_results.json`` and for ``lvis_per_category_ap.json`` (category name
                to AP, null where there is no ground truth); None writes no file.
            max_dets_per_image: the best detections of an image that count, in LVIS 300.
            novel_classes: contiguous ids; or "rare" for the categories that the annotation file
                calls "r"; or None for the metadata's "novel_classes". If the metadata has none,
                AP_novel and AP_base are left out.

        Raises:
            ValueError: the dataset lacks a novel class, or its annotation file a field of LVIS.
        """
        super().__init__(
            dataset_name, ("bbox",), distributed, output_dir, max_dets_per_image=max_dets_per_image
        )
        _check_lvis_fields(self._lvis_api, self._metadata.json_file)
        self._to_contiguous = contiguous_category_ids(self._metadata, self._lvis_api.get_cat_ids())
        self.novel_classes = self._resolve_novel_classes(novel_classes)
        self.per_category: dict[str, float] = {}
        self.image_ids: list[int] = []

    def _resolve_novel_classes(self, novel_classes: Sequence[int] | str | None) -> list[int] | None:
        if novel_classes is None:
            novel_classes = self._metadata.get("novel_classes")
        if novel_classes is None:
            return None
        if novel_classes == "rare":
            return rare_classes(self._metadata, self._lvis_api.load_cats(None))
        if isinstance(novel_classes, str):
            raise ValueError(f'novel_classes="{novel_classes}": give contiguous ids, or "rare".')
        if unknown := set(novel_classes) - set(self._to_contiguous.values()):
            raise ValueError(
                f"novel_classes {sorted(unknown)} are not among the {len(self._to_contiguous)} "
                f"categories of {self._metadata.json_file}; ids are contiguous, from 0."
            )
        return sorted(set(novel_classes))

    def _eval_predictions(self, predictions: list[dict]) -> None:
        # Unlike the parent's, it does not change the predictions: evaluate() may be called again.
        results = self._to_lvis_results(predictions)
        self.image_ids = sorted({prediction["image_id"] for prediction in predictions})
        in_file = len(self._lvis_api.imgs)
        if len(self.image_ids) < in_file:
            self._logger.warning(f"{len(self.image_ids)} of {in_file} images are evaluated.")
        if self._output_dir:
            write_json(Path(self._output_dir) / "lvis_instances_results.json", results)
        if not self._do_evaluation:
            self._logger.info("Annotations are not available for evaluation.")
            return
        if not results:
            self._logger.warning("The model detected nothing in any image: AP is 0.")

        lvis_eval = FastLVISEval(
            self._lvis_api, Detections.from_results(results), max_dets=self._max_dets_per_image
        )
        lvis_eval.params.img_ids = self.image_ids
        lvis_eval.run()
        lvis_eval.print_results()
        self._results["bbox"] = self._summarize(lvis_eval)

    def _to_lvis_results(self, predictions: list[dict]) -> list[dict]:
        to_category_id = {v: k for k, v in self._to_contiguous.items()}
        try:
            return [
                {**instance, "category_id": to_category_id[instance["category_id"]]}
                for prediction in predictions
                for instance in prediction["instances"]
            ]
        except KeyError as error:
            raise ValueError(
                f"The predicted class {error} is not one of the {len(to_category_id)} categories "
                f"of {self._metadata.json_file}: evaluate with the vocabulary of the dataset."
            ) from error

    def _summarize(self, lvis_eval: FastLVISEval) -> dict[str, float]:
        metrics = {k: _percent(v) for k, v in lvis_eval.results.items() if k.startswith("AP")}
        # (IoU thresholds, recalls, categories); -1 throughout for a category without ground truth
        precision = lvis_eval.eval["precision"][..., 0]
        aps = map(_percent, precision.mean((0, 1)))
        by_id = dict(zip(lvis_eval.params.cat_ids, aps, strict=True))
        self.per_category = {self._lvis_api.cats[i]["name"]: ap for i, ap in by_id.items()}
        groups: dict[str, Collection[int]] = {}
        if self.novel_classes is not None:
            base = set(self._to_contiguous.values()).difference(self.novel_classes)
            groups = {"AP_novel": self.novel_classes, "AP_base": base}
        for axis, classes in self._metadata.get("novel_axes", {}).items():
            groups[f"APr_{axis}"] = classes
        known = {self._to_contiguous[i]: ap for i, ap in by_id.items() if not np.isnan(ap)}
        for name, classes in groups.items():
            own = [ap for i, ap in known.items() if i in classes]
            metrics[name] = float(np.mean(own)) if own else float("nan")

        if self._output_dir:
            path = Path(self._output_dir) / "lvis_per_category_ap.json"
            write_json(path, nan_to_none(self.per_category), indent=1)
        self._logger.info("Evaluation results for bbox:\n" + create_small_table(metrics))
        return metrics


def _check_lvis_fields(lvis_api: LVIS, json_file: str) -> None:
    """Raise ValueError where lvis-api would fail late, with a bare KeyError."""
    images = lvis_api.imgs if lvis_api.anns else {}  # test images are never evaluated
    for kind, records, fields in (
        ("category", lvis_api.cats, ("name", "frequency")),
        ("image", images, ("neg_category_ids", "not_exhaustive_category_ids")),
    ):
        for record in records.values():
            if missing := [field for field in fields if field not in record]:
                raise ValueError(
                    f"{json_file}: {kind} {record['id']} lacks {', '.join(missing)}; "
                    "is this an LVIS annotation file?"
                )


def _percent(value: float) -> float:
    """lvis-api's value in percent. Its -1 for "nothing to average" becomes nan."""
    return 100 * float(value) if value > -1 else float("nan")
