"""The record as text tables, and in Markdown for docs/."""

from tabulate import tabulate

from .detect import BFLOAT16, INT8, OPENVINO, PYTORCH

_FORMS = {
    PYTORCH: "PyTorch fp32",
    BFLOAT16: "PyTorch bf16",
    OPENVINO: "OpenVINO fp32",
    INT8: "OpenVINO int8",
}
_RATIOS = {
    "gridclip_fp32_over_int8": "GridCLIP, PyTorch fp32, over OpenVINO int8",
    "yolo_world_l_best_over_gridclip_int8": "YOLO-World L in its fastest form over GridCLIP int8",
    "vild_official_over_gridclip_int8": "ViLD, official, PyTorch fp32, over GridCLIP int8",
    "vild_int8_over_gridclip_int8": "ViLD, matched, int8, over GridCLIP int8",
    "gridclip_over_trunk": "GridCLIP over its trunk alone, PyTorch fp32",
    "scores_share_21k": "share of scores and post-processing, many names, PyTorch fp32",
}


def peers_table(record: dict) -> str:
    """The record of ``scripts/compare_speed.py --peers`` for docs/."""
    setup = record["setup"]
    height, width = setup["size"]
    versions, commit = setup["versions"], setup["commit"]
    changed = " with changes" if commit.endswith("-dirty") else ""
    libraries = ("torch", "ultralytics", "transformers", "openvino", "nncf")
    listed = ", ".join(f"{name} {versions[name]}" for name in libraries)
    return "\n\n".join(
        [
            f"**Beside other open-vocabulary detectors**, {height} x {width} unless a side is "
            f"given, {setup['names']:,} names unless others are given, one random picture at a "
            f"time, random weights, {setup['processor']}, {setup['threads']} threads, load "
            f"{setup['load_average'][0]:.1f} at the start, medians of {setup['runs']} runs by "
            "turns, seconds from the picture in memory to detections:",
            latency_table(record, "github"),
            _auto(record),
            ratio_table(record, "github"),
            "![Seconds by names and by size](results/peers_cpu.png)",
            not_run_text(record),
            f"Commit {commit[:10]}{changed}, {listed}, Python {versions['python']}.",
        ]
    ).replace("\n\n\n\n", "\n\n")


def latency_table(record: dict, tablefmt: str = "simple") -> str:
    """A row for each detector on what all are compared on."""
    setup = record["setup"]
    rows: dict[str, dict] = {}
    for entry in record["latency"]:
        first = rows.setdefault(entry["detector"], {"entry": entry})
        same = all(entry[key] == first["entry"][key] for key in ("size", "names"))
        if same:
            first[entry["form"]] = entry["p50"]
    used = [form for form in _FORMS if any(form in row for row in rows.values())]
    table = [
        [_title(row["entry"], setup)]
        + [f"{row[form]:.3f}" if form in row else "–" for form in used]
        + [f"{row['entry']['gmac']:.0f}", f"{row['entry']['parameters'] / 1e6:.1f}M"]
        for row in rows.values()
    ]
    headers = ["", *(_FORMS[form] for form in used), "multiply-adds, 1e9", "parameters"]
    return tabulate(table, headers, tablefmt, disable_numparse=True)


def ratio_table(record: dict, tablefmt: str = "simple") -> str:
    rows = [
        [_RATIOS[name], "–" if value is None else f"{value:.2f}"]
        for name, value in record["ratios"].items()
    ]
    return tabulate(rows, ["ratio", ""], tablefmt, disable_numparse=True)


def not_run_text(record: dict) -> str:
    """One line for each form that failed; empty if none did."""
    return "\n".join(
        f"* Not run: {x['detector']}, {x['form']}, {' x '.join(map(str, x['size']))}, "
        f"{x['names']:,} names: {' '.join(x['reason'].split())[:160]}"
        for x in record["not_run"]
    )


def _auto(record: dict) -> str:
    for entry in record["latency"]:
        if entry["form"] == "auto":
            return f"`train.inference.dtype=auto` takes {_FORMS[entry['chosen']]} here."
    return ""


def _title(entry: dict, setup: dict) -> str:
    own = []
    if entry["size"] != setup["size"]:
        own.append(" x ".join(map(str, entry["size"])))
    if entry["names"] != setup["names"]:
        own.append(f"{entry['names']:,} names")
    return ", ".join([entry["title"], *own])
