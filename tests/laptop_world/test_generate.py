import pytest
from PIL import Image

from laptop_world import generate as script


def test_writes_a_world_prints_its_table_and_keeps_what_is_there(tmp_path, capsys):
    arguments = ["--world", "test", "--output", str(tmp_path / "new" / "shapes")]
    arguments += ["--train", "30", "--val", "25", "--size", "48"]
    script.main(arguments)
    first = capsys.readouterr().out
    assert "novel combination" in first and "55 of 55 pictures drawn" in first
    script.main(arguments)
    second = capsys.readouterr().out
    assert "0 of 55 pictures drawn" in second
    assert first.splitlines()[-2:] == second.splitlines()[-2:]  # digests

    folder = tmp_path / "new" / "shapes"
    assert {p.name for p in folder.iterdir()} == {
        f"shapes_test_{part}"
        for part in ("train", "val", "train.json", "val.json", "contact_sheet.png")
    }
    with Image.open(folder / "shapes_test_contact_sheet.png") as sheet:
        assert sheet.size == (1920, 1280)


def test_table_counts_groups_and_axes():
    categories = [
        {"frequency": "r", "novel_axis": "shape", "image_count": 3},
        {"frequency": "r", "novel_axis": "texture", "image_count": 1},
        {"frequency": "f", "novel_axis": None, "image_count": 200},
    ]
    rows = [line.split() for line in script.table(categories).splitlines()[2:]]
    assert rows == [
        ["r", "0", "0", "1", "1", "2", "1", "to", "3"],
        ["c", "0", "0", "0", "0", "0", "-"],
        ["f", "1", "0", "0", "0", "1", "200", "to", "200"],
    ]


def test_refuses_a_split_without_pictures(tmp_path):
    with pytest.raises(SystemExit, match="train=0"):
        script.main(["--world", "dev", "--output", str(tmp_path), "--train", "0"])
