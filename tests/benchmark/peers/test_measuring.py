"""Turns, failures and what is written when, of detectors that do nothing."""

import json

import pytest
import torch

from benchmark.peers import ours, plan
from benchmark.peers.detect import INT8, OPENVINO, PYTORCH, Contestant, Found
from benchmark.peers.measuring import Comparison, compare
from benchmark.peers.plan import Plan, blocks


class Nothing:
    parameters, gmac = 7, 0.5

    def __init__(self, key, scene, calls):
        self.key, self.scene, self.calls = key, scene, calls

    def open(self, form):
        if (self.key, form) == ("lame", OPENVINO):
            raise RuntimeError("no such operation")

        def detect(picture):
            assert tuple(picture.shape[1:]) == self.scene.size and picture.dtype == torch.uint8
            self.calls.append((self.key, form))
            return Found(torch.zeros(3, 4), torch.zeros(3), torch.zeros(3))

        return detect


@pytest.fixture
def calls():
    return []


@pytest.fixture
def small(calls):
    def contestant(key, **kwargs):
        return Contestant(key, key, "none", lambda scene: Nothing(key, scene, calls), **kwargs)

    def broken(scene):
        raise ImportError("a package is missing")

    forms = (PYTORCH, INT8, ours.TRUNK)
    return Plan(
        side=8,
        names=4,
        runs=3,
        contestants=[
            contestant("gridclip", forms=forms),
            contestant("lame"),
            Contestant("broken", "broken", "none", broken),
            contestant("sized", side=16, names=2),
        ],
        by_names=("gridclip", "sized"),
        by_side=("gridclip",),
        name_counts=(5,),
        sides=(12,),
        wide=(4, 6),
    )


def test_all_but_what_failed_is_in_the_record(small, tmp_path):
    record = compare(small, tmp_path / "peers.json")
    assert json.loads((tmp_path / "peers.json").read_text()) == record
    assert (tmp_path / "peers.png").is_file()
    failed = {(x["detector"], x["form"]): x["reason"] for x in record["not_run"]}
    assert failed[("lame", OPENVINO)] == "RuntimeError: no such operation"
    assert failed[("broken", INT8)] == "ImportError: a package is missing"
    assert {form for key, form in failed if key == "broken"} == {PYTORCH, OPENVINO, INT8}
    measured = [(e["detector"], e["form"], *e["size"], e["names"]) for e in record["latency"]]
    assert len(set(measured)) == len(measured)
    assert ("lame", PYTORCH, 8, 8, 4) in measured and ("lame", OPENVINO, 8, 8, 4) not in measured
    assert ("sized", OPENVINO, 16, 16, 2) in measured and ("sized", INT8, 16, 16, 5) in measured
    assert ("gridclip", INT8, 8, 8, 5) in measured and ("gridclip", PYTORCH, 12, 12, 4) in measured
    assert ("gridclip", ours.TRUNK, 4, 6, 4) in measured
    for entry in record["latency"]:
        assert len(entry["seconds"]) == 3 and min(entry["seconds"]) <= entry["p50"]
        assert entry["detections"] == 3 and entry["parameters"] == 7 and entry["gmac"] == 0.5
        alone = entry["detector"] == "gridclip"
        assert set(entry["gridclip_beside"]) == (set() if alone else {PYTORCH, INT8})
        assert all(len(seconds) == 3 for seconds in entry["gridclip_beside"].values())
    setup = record["setup"]
    assert setup["processor"] and setup["threads"] and setup["versions"]["torch"]
    assert set(setup["post_processing"]) == {"gridclip", "lame", "broken", "sized"}


def test_detectors_take_turns(small, calls, tmp_path):
    comparison = Comparison(small, tmp_path / "peers.json")
    comparison.run(blocks(small)[1])
    warm_ups = 2 * ([("lame", PYTORCH)]) + 2 * [("lame", INT8)]
    warm_ups += 2 * [("gridclip", PYTORCH)] + 2 * [("gridclip", INT8)]
    turns = [("lame", PYTORCH), ("lame", INT8), ("gridclip", PYTORCH), ("gridclip", INT8)]
    counted = [*turns, *turns[1:], *turns[:1], *turns[2:], *turns[:2]]
    assert calls == warm_ups + counted


def test_what_was_measured_is_written_at_once(small, tmp_path):
    comparison = Comparison(small, tmp_path / "peers.json")
    for count, block in enumerate(blocks(small)[:2], start=1):
        comparison.run(block)
        written = json.loads((tmp_path / "peers.json").read_text())
        assert len({e["detector"] for e in written["latency"]}) == count


@pytest.mark.parametrize("make", [plan.whole_plan, plan.quick_plan])
def test_a_plan_measures_nothing_twice(make):
    found = blocks(make(runs=2))
    places = [(b.contestant.key, b.size, b.names) for b in found]
    assert len(set(places)) == len(places)
    for block in found:
        own = block.contestant
        assert own.side is None or block.size == (own.side, own.side)
        assert own.names is None or block.names == own.names
        assert block.forms and len(set(block.forms)) == len(block.forms)
    counts = {b.names for b in found if b.contestant.key == "gridclip"}
    assert len(counts) > 1 and found[0].contestant.key == "gridclip"


def test_the_whole_plan_is_what_was_asked_for():
    found = blocks(plan.whole_plan(runs=2))
    at = {(b.contestant.key, b.size[0], b.names) for b in found}
    for key in ("gridclip", "vild_matched", "yolo_world_l"):
        assert {(key, 640, n) for n in (80, 1203, 21_841)} <= at
        assert {(key, side, 1203) for side in (320, 640, 960)} <= at
    assert {("owlvit", 768, 1203), ("owlv2", 960, 1203), ("omdet_turbo", 640, 1203)} <= at
    assert {("grounding_dino", 640, 40), *((f"yolo_world_{s}", 640, 1203) for s in "smlx")} <= at
    assert found[-1].size == (800, 1333) and found[-1].forms == (PYTORCH, ours.TRUNK)


def test_what_a_record_lacks_is_added(small, calls, tmp_path):
    path = tmp_path / "peers.json"
    whole = compare(small, path)
    whole["latency"] = [e for e in whole["latency"] if (e["detector"], e["names"]) != ("sized", 2)]
    path.write_text(json.dumps(whole))
    calls.clear()
    again = compare(small, path)

    def measured(record):
        return sorted((e["detector"], e["form"], e["size"], e["names"]) for e in record["latency"])

    assert len(measured(again)) > len(measured(whole))
    assert len(set(map(str, measured(again)))) == len(measured(again))
    assert {key for key, _ in calls} >= {"sized", "gridclip"}  # beside it
    assert "commit" in again["latency"][-1]
    whole["setup"]["runs"] = 99
    path.write_text(json.dumps(whole))
    with pytest.raises(ValueError, match="comparison whose runs is 99, and now it is 3"):
        compare(small, path)
