import time

import pytest
from torch import nn

from benchmark import stages
from benchmark.stages import StageClock, stage_functions


@pytest.fixture
def clock(monkeypatch):
    """A clock whose time only ``clock.sleep`` moves on."""
    now = [0.0]
    monkeypatch.setattr(stages.time, "perf_counter", lambda: now[0])
    clock = StageClock("cpu")
    clock.sleep = lambda seconds: now.__setitem__(0, now[0] + seconds)
    return clock


def test_a_stage_is_without_those_within_it(clock):
    with clock.stage("other"):
        clock.sleep(1)
        with clock.stage("neck"):
            clock.sleep(2)
            with clock.stage("backbone"):
                clock.sleep(4)
                assert clock.current == "backbone"
            clock.sleep(8)
        clock.sleep(16)
    clock.sleep(32)  # in no stage
    assert clock.seconds == {"other": 17, "neck": 10, "backbone": 4}
    assert clock.current is None


def test_a_timed_function_is_booked_even_if_it_fails(clock):
    def fail():
        clock.sleep(3)
        raise KeyError

    with clock.stage("other"):
        with pytest.raises(KeyError):
            clock.timed("head", fail)()
        clock.sleep(1)
    assert clock.seconds == {"head": 3, "other": 1}


def test_real_time_passes():
    clock = StageClock("cpu")
    with clock.stage("other"):
        time.sleep(0.01)
    assert clock.seconds.total() >= 0.01


def test_an_unknown_architecture_is_refused():
    with pytest.raises(ValueError, match="Linear are not known"):
        stage_functions(nn.Linear(1, 1))
