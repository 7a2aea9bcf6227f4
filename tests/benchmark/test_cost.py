import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmark.cost import TrainingCost, decompose, training_costs

costs = st.builds(
    TrainingCost,
    teacher_seconds=st.floats(0, 1e9),
    images_seen=st.integers(1, 10**8),
    seconds_per_image=st.floats(1e-6, 1e3),
)


@given(costs, costs)
def test_the_factors_make_the_ratio(slow, fast):
    factors = decompose(slow, fast)
    product = factors["cheaper_step"] * factors["shorter_schedule"] * factors["cheaper_teacher"]
    assert product == pytest.approx(factors["total"]) == slow.total / fast.total


def test_factors_of_a_known_case():
    slow, fast = TrainingCost(100, 50, 4.0), TrainingCost(0, 10, 2.0)
    assert slow.total == 300 and fast.total == 20
    assert decompose(slow, fast) == {
        "total": 15,
        "cheaper_step": 300 / 200,
        "shorter_schedule": 200 / 120,
        "cheaper_teacher": 120 / 20,
    }
    same = TrainingCost(0, 10, 1.0), TrainingCost(0, 10, 0.5)
    assert decompose(*same) == {
        "total": 2,
        "cheaper_step": 2,
        "shorter_schedule": 1,
        "cheaper_teacher": 1,
    }


def test_costs_of_the_configs(configs):
    schedules = {
        "short": ("gridclip", configs / "gridclip_r50_ov_1x.py"),
        "text": ("vild", configs / "vild_text_r50_ov.py"),
        "long": ("vild", configs / "vild_r50_ov.py"),
        "unmeasured": ("other", configs / "vild_r50_ov.py"),
    }
    passes = {"tiles9": {"seconds": 0.5}, "regions": {"seconds": 100.0}}
    found = training_costs(schedules, {"gridclip": {"step": 2.0}, "vild": {"step": 3.0}}, passes)
    assert list(found) == ["short", "text", "long"]
    assert found["short"]["images_seen"] == 1_440_000 and "over_first" not in found["short"]
    assert found["short"]["seconds"] == 1_440_000 * 2 + 100_170 / 2
    assert found["text"]["teacher_seconds"] == 0  # learns from no regions
    assert found["long"]["images_seen"] == 46_080_000
    assert found["long"]["teacher_seconds"] == 100_170 * 100
    assert found["long"]["over_first"]["cheaper_step"] == pytest.approx(
        (46_080_000 * 3 + 10_017_000) / (46_080_000 * 2 + 10_017_000)
    )
