import pytest

from laptop_world.experiment import VARIANTS
from laptop_world.tables import VARIANTS as TITLES
from laptop_world.tables import difference, laptop_differences_table


def test_every_variant_has_a_title_of_its_own_in_the_same_order():
    assert tuple(TITLES) == VARIANTS and len(set(TITLES.values())) == len(VARIANTS)


@pytest.mark.parametrize(
    ("cell", "text"),
    [
        ({"mean": 1.23, "interval": [0.26, 2.2], "excludes_zero": True}, "**+1.2 (+0.3 to +2.2)**"),
        ({"mean": -1.0, "interval": [-2.0, 0.5], "excludes_zero": False}, "-1.0 (-2.0 to +0.5)"),
        ({"mean": 4.0, "interval": None, "excludes_zero": None}, "+4.0"),
        (None, "–"),
    ],
)
def test_only_an_interval_without_zero_is_bold(cell, text):
    assert difference(cell) == text


def test_table_of_differences():
    cell = {"mean": 1.0, "interval": [0.5, 1.5], "excludes_zero": True, "n": 5}
    table = laptop_differences_table(
        {"gridclip - vild": {"AP": cell, "APr": cell}, "fvlm - vild": {"AP": cell}}
    ).splitlines()
    assert table[2:] == [
        "| | minus | n | AP | APr |",
        "|---|---|---|---|---|",
        "| GridCLIP | ViLD | 5 | **+1.0 (+0.5 to +1.5)** | **+1.0 (+0.5 to +1.5)** |",
        "| F-VLM | ViLD | 5 | **+1.0 (+0.5 to +1.5)** | – |",
    ]
