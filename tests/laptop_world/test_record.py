import json
import time

import pytest

from laptop_world import record as module
from laptop_world.record import ChangedError, TaskRecord, differing_keys


def test_seconds_add_up_over_starts_and_an_exception_leaves_it_incomplete(tmp_path):
    path = tmp_path / "new" / "record.json"
    record = TaskRecord(path, {"a": 1})
    with pytest.raises(KeyError), record.working():
        time.sleep(0.05)
        raise KeyError("x")
    again = TaskRecord(path, {"a": 1})
    assert not again.complete and again.seconds >= 0.05
    with again.working():
        time.sleep(0.05)
        again.parts["second half"] = 0.025
    last = TaskRecord(path, {"a": 1})
    assert last.complete and 0.1 <= last.seconds < 5
    by_name = last.seconds_by_name("all")
    assert by_name["second half"] == 0.025
    assert sum(by_name.values()) == pytest.approx(last.seconds)


def test_a_kill_loses_few_seconds(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "_HEARTBEAT_SECONDS", 0.02)
    record = TaskRecord(tmp_path / "record.json", {})
    with record.working():
        time.sleep(0.2)
        written = json.loads(record.path.read_text())  # what a kill would leave
    assert not written["complete"] and written["seconds"] > 0.05


def test_other_settings_are_named(tmp_path):
    path = tmp_path / "record.json"
    TaskRecord(path, {"config": {"lr": 1, "sizes": (1, 2)}, "sha": "a"}).write()
    TaskRecord(path, {"config": {"lr": 1, "sizes": [1, 2]}, "sha": "a"})  # as JSON the same
    with pytest.raises(
        ChangedError, match=r"record\.json was made with other settings \(config\.lr, new\)"
    ):
        TaskRecord(path, {"config": {"lr": 2, "sizes": (1, 2)}, "sha": "a", "new": None})


def test_differing_keys():
    assert differing_keys({"a": {"b": 1, "c": [1]}}, {"a": {"b": 1, "c": [2]}, "d": 0}) == [
        "a.c",
        "d",
    ]
    assert differing_keys({"a": {}}, {"a": {}}) == []
    assert differing_keys({"a": {"b": 1}}, {"a": 1}) == ["a"]
