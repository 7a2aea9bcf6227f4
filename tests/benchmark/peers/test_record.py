"""Ratios, tables and the picture, of made-up figures."""

import copy
import json

import pytest

from benchmark.peers import picture
from benchmark.peers.detect import BFLOAT16, INT8, OPENVINO, PYTORCH
from benchmark.peers.ours import TRUNK
from benchmark.peers.record import best_form, find, ratios
from benchmark.peers.tables import latency_table, peers_table

HERE = [64, 64]
KEYS = {
    "gridclip_fp32_over_int8",
    "yolo_world_l_best_over_gridclip_int8",
    "vild_official_over_gridclip_int8",
    "vild_int8_over_gridclip_int8",
    "gridclip_over_trunk",
    "scores_share_21k",
}


def entry(detector, form, seconds, size=HERE, names=9, beside=None):
    return {
        "detector": detector,
        "title": detector.upper(),
        "form": form,
        "size": size,
        "names": names,
        "p50": sorted(seconds)[len(seconds) // 2],
        "seconds": seconds,
        "detections": 3,
        "gmac": 12.3,
        "parameters": 4_500_000,
        "gridclip_beside": beside or {},
    }


@pytest.fixture
def record():
    beside = {INT8: [0.1, 0.2, 0.1], PYTORCH: [9.0, 9.0, 9.0]}
    versions = dict.fromkeys(
        ("torch", "ultralytics", "transformers", "openvino", "nncf", "python"), "1.2"
    )
    return {
        "setup": {
            "size": HERE,
            "names": 9,
            "wide": [8, 13],
            "runs": 3,
            "processor": "an abacus",
            "threads": 2,
            "load_average": [0.5, 0, 0],
            "commit": "0123456789abcdef",
            "versions": versions,
        },
        "latency": [
            entry("gridclip", PYTORCH, [0.4, 0.8, 0.4]),
            entry("gridclip", BFLOAT16, [0.3, 0.3, 0.3]),
            entry("gridclip", INT8, [0.1, 0.4, 0.1]),
            {**entry("gridclip", "auto", [0.3, 0.3, 0.3]), "chosen": BFLOAT16},
            entry("vild", PYTORCH, [1.0, 2.0, 1.0], beside=beside),
            entry("vild_matched", INT8, [0.5, 1.0, 0.6], beside=beside),
            entry("yolo_world_l", PYTORCH, [0.9, 0.9, 0.9], beside=beside),
            entry("yolo_world_l", OPENVINO, [0.3, 0.6, 0.5], beside=beside),
            entry("yolo_world_l", INT8, [0.7, 0.7, 0.7], beside=beside),
            entry("owlvit", PYTORCH, [0.2, 0.2, 0.2], size=[96, 96], beside=beside),
            entry("gridclip", PYTORCH, [0.5, 0.5, 0.5], names=20),
            entry("gridclip", PYTORCH, [0.2, 0.2, 0.2], size=[32, 32]),
            entry("owlvit", PYTORCH, [0.3, 0.3, 0.3], size=[96, 96], names=20),
            entry("gridclip", PYTORCH, [2.0, 3.0, 2.0], size=[8, 13]),
            entry("gridclip", TRUNK, [1.0, 1.0, 1.0], size=[8, 13]),
        ],
        "not_run": [
            {
                "detector": "owlvit",
                "form": INT8,
                "size": [96, 96],
                "names": 9,
                "reason": "RuntimeError: no\n  luck",
            }
        ],
        "stages": {"names": 20, "classifier_share": 0.25},
        "ratios": {},
    }


def test_ratios_are_medians_of_the_ratio_within_a_run(record):
    found = ratios(record)
    assert set(found) == KEYS
    assert found["gridclip_fp32_over_int8"] == pytest.approx(4)  # 4, 2, 4
    # The fastest form, over GridCLIP's times in the same turns: 3, 3, 5.
    assert found["yolo_world_l_best_over_gridclip_int8"] == pytest.approx(3)
    assert found["vild_official_over_gridclip_int8"] == pytest.approx(10)
    assert found["vild_int8_over_gridclip_int8"] == pytest.approx(5)
    assert found["gridclip_over_trunk"] == 2
    assert found["scores_share_21k"] == 0.25


def test_what_was_not_measured_has_no_ratio(record):
    nothing = {**record, "latency": [], "stages": None}
    assert ratios(nothing) == dict.fromkeys(KEYS)
    for measured in record["latency"]:
        measured["gridclip_beside"] = {}
    assert ratios(record)["yolo_world_l_best_over_gridclip_int8"] is None
    assert ratios(record)["gridclip_fp32_over_int8"] is not None


def test_figures_of_other_sizes_and_names_do_not_count(record):
    wrong = entry("yolo_world_l", INT8, [0.01, 0.01, 0.01], names=20)
    record["latency"].append(wrong)
    assert best_form(record, "yolo_world_l")["form"] == OPENVINO
    assert find(record, "yolo_world_l", INT8, wrong) is wrong
    assert find(record, "yolo_world_l", OPENVINO, wrong) is None


def test_table_for_the_docs(record):
    record["ratios"] = ratios(record)
    text = peers_table(record)
    assert "an abacus" in text and "load 0.5" in text and "ultralytics 1.2" in text
    assert "| GridCLIP, PyTorch fp32, over OpenVINO int8 " in text and "| 4.00" in text
    assert "takes PyTorch bf16 here" in text
    assert "Not run: owlvit, openvino_int8, 96 x 96, 9 names: RuntimeError: no luck" in text
    rows = [line.split("|")[1:-1] for line in latency_table(record, "github").splitlines()]
    cells = {row[0].strip(): [cell.strip() for cell in row[1:]] for row in rows}
    # PyTorch, bfloat16, OpenVINO, int8; nothing of other sizes or numbers of names.
    assert cells["GRIDCLIP"] == ["0.400", "0.300", "–", "0.100", "12", "4.5M"]
    assert cells["YOLO_WORLD_L"][:4] == ["0.900", "–", "0.500", "0.700"]
    assert cells["OWLVIT, 96 x 96"][0] == "0.200"


def test_table_without_failures_and_automatic_choice(record):
    record["not_run"], record["ratios"] = [], ratios(record)
    record["latency"] = [e for e in record["latency"] if e["form"] != "auto"]
    text = peers_table(record)
    assert "Not run" not in text and "\n\n\n" not in text


def test_curves(record):
    assert picture.curves(record, "names") == {
        ("gridclip", PYTORCH): [(9, 0.4), (20, 0.5)],
        ("owlvit", PYTORCH): [(9, 0.2), (20, 0.3)],  # at the size of its own
    }
    assert picture.curves(record, "size") == {("gridclip", PYTORCH): [(32, 0.2), (64, 0.4)]}


@pytest.mark.parametrize("measured", [True, False])
def test_picture(record, measured, tmp_path):
    if not measured:
        record["latency"] = []
    picture.draw(record, tmp_path / "peers.png")
    assert (tmp_path / "peers.png").read_bytes()[:4] == b"\x89PNG"


def test_a_record_is_json(record):
    again = json.loads(json.dumps(record))
    assert ratios(again) == ratios(copy.deepcopy(record))
