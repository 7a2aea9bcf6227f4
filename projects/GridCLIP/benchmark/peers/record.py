"""What follows from the record of a comparison: single figures and ratios."""

from ..inference import median_ratio
from .detect import INT8, PYTORCH
from .ours import TRUNK


def find(record: dict, detector: str, form: str, where: dict) -> dict | None:
    """What was measured of a detector in a form.

    Args:
        where: has the "size" and the number of "names".
    """
    wanted = {"detector": detector, "form": form, "size": where["size"], "names": where["names"]}
    for entry in record["latency"]:
        if all(entry[key] == value for key, value in wanted.items()):
            return entry
    return None


def ratios(record: dict) -> dict[str, float | None]:
    """Medians over the runs of the ratio within a run; None where a figure was not measured."""
    setup = record["setup"]
    wide = {"size": setup["wide"], "names": setup["names"]}
    gridclip, trunk = (find(record, "gridclip", f, wide) for f in (PYTORCH, TRUNK))
    own = [find(record, "gridclip", form, setup) for form in (PYTORCH, INT8)]
    vild = find(record, "vild", PYTORCH, setup)
    stages = record["stages"]
    return {
        "gridclip_fp32_over_int8": _ratio(*own),
        "yolo_world_l_best_over_gridclip_int8": _over_int8(best_form(record, "yolo_world_l")),
        "vild_official_over_gridclip_int8": _over_int8(vild),
        "vild_int8_over_gridclip_int8": _over_int8(find(record, "vild_matched", INT8, setup)),
        "gridclip_over_trunk": _ratio(gridclip, trunk),
        "scores_share_21k": stages and stages["classifier_share"],
    }


def best_form(record: dict, detector: str) -> dict | None:
    """The fastest of a detector on what all are compared on."""
    setup = record["setup"]
    entries = [
        entry
        for entry in record["latency"]
        if entry["detector"] == detector
        and entry["names"] == setup["names"]
        and entry["size"] == setup["size"]
    ]
    return min(entries, key=lambda entry: entry["p50"], default=None)


def _ratio(top: dict | None, bottom: dict | None) -> float | None:
    if top is None or bottom is None:
        return None
    return median_ratio(top["seconds"], bottom["seconds"])


def _over_int8(entry: dict | None) -> float | None:
    """Over GridCLIP's int8 form, which took turns with it."""
    if entry is None or INT8 not in entry["gridclip_beside"]:
        return None
    return median_ratio(entry["seconds"], entry["gridclip_beside"][INT8])
