"""The ratios between detectors, computed from the record of a comparison alone."""

from typing import NamedTuple

from .inference import median_ratio

# Section and field of the record, by kind of ratio. A field of _BY_RUN is a list with a value for
# each run; a field of _SINGLE is one value.
_BY_RUN = {
    "official": ("inference", "seconds"),
    "matched": ("inference", "matched_seconds"),
    "step": ("training", "seconds"),
}
_SINGLE = {
    "memory": ("memory", "tensors"),
    "total": ("training_cost", "seconds"),
    "arithmetic": ("arithmetic", "gmac"),
}


class Ratio(NamedTuple):
    """The figure of ``top`` over that of ``bottom``; ``kind`` names the figure."""

    kind: str
    top: str
    bottom: str


DEFAULT = {
    "inference_vild_over_gridclip_official": Ratio("official", "vild", "gridclip"),
    "inference_vild_over_gridclip_matched": Ratio("matched", "vild", "gridclip"),
    "inference_vild_ensemble_over_gridclip_official": Ratio(
        "official", "vild_ensemble", "gridclip"
    ),
    "inference_vild_ensemble_over_gridclip_matched": Ratio("matched", "vild_ensemble", "gridclip"),
    "training_step_vild_over_gridclip": Ratio("step", "vild", "gridclip"),
    "training_total_vild_over_gridclip": Ratio("total", "vild_official", "gridclip_1x"),
    "inference_gridclip_over_fcos": Ratio("official", "gridclip", "fcos"),
    "inference_fasterrcnn_over_gridclip": Ratio("official", "faster_rcnn", "gridclip"),
    "inference_gridclip_light_over_gridclip": Ratio("official", "gridclip_light", "gridclip"),
    "inference_gridclip_bfloat16_over_gridclip": Ratio("official", "gridclip_bfloat16", "gridclip"),
    "inference_gridclip_float16_over_gridclip": Ratio("official", "gridclip_float16", "gridclip"),
    "inference_gridclip_compiled_over_gridclip": Ratio("official", "gridclip_compiled", "gridclip"),
    "training_step_gridclip_over_fcos": Ratio("step", "gridclip", "fcos"),
    "training_memory_gridclip_over_fcos": Ratio("memory", "gridclip", "fcos"),
}


def over_first(keys: list[str]) -> dict[str, Ratio]:
    """All kinds of ratio of every other detector over the first."""
    first, *others = keys
    names = {
        "official": "inference_{}_over_{}_official",
        "matched": "inference_{}_over_{}_matched",
        "step": "training_step_{}_over_{}",
        "memory": "training_memory_{}_over_{}",
        "total": "training_total_{}_over_{}",
    }
    return {
        name.format(key, first): Ratio(kind, key, first)
        for key in others
        for kind, name in names.items()
    }


def evaluate(record: dict, ratio: Ratio) -> float | None:
    """The value of a ratio; None if one of its figures was not measured."""
    section, field = (_BY_RUN | _SINGLE)[ratio.kind]
    measured = record[section]
    if ratio.top not in measured or ratio.bottom not in measured:
        return None
    top, bottom = measured[ratio.top][field], measured[ratio.bottom][field]
    return median_ratio(top, bottom) if ratio.kind in _BY_RUN else top / bottom


def default_ratios(record: dict) -> dict[str, float | None]:
    """The ratios of the default comparison, under fixed names."""
    measured = {name: evaluate(record, ratio) for name, ratio in DEFAULT.items()}
    inference, lvis = record["inference"], record["lvis_evaluation"]
    return {
        **measured,
        **{
            f"inference_{key}_over_gridclip_official_detectron2_nms": _with_detectron2_nms(
                inference.get(key), inference["gridclip"]
            )
            for key in ("vild", "vild_ensemble")
        },
        "classifier_share_1203": inference["gridclip"]["classifier_share"],
        "classifier_share_21k": inference["gridclip_21k"]["classifier_share"],
        "lvis_eval_api_over_ours": lvis and lvis["lvis_eval_api_over_ours"],
    }


def _with_detectron2_nms(vild: dict | None, gridclip: dict) -> float | None:
    """The ratio of official inference if ViLD used detectron2's function, of equal result."""
    if vild is None:
        return None
    rest = vild["p50"] - vild["stages"]["post-processing"]
    return (rest + vild["naive_post_processing"]) / gridclip["p50"]


def arithmetic_ratios(record: dict, ratios: dict[str, Ratio]) -> dict[str, float | None]:
    """By ratio of inference times, the ratio of multiply-adds in its place."""
    return {
        name: evaluate(record, Ratio("arithmetic", ratio.top, ratio.bottom))
        for name, ratio in ratios.items()
        if ratio.kind in ("official", "matched")
    }
