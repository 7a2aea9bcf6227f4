import json

from benchmark import lab_teacher as script


def test_counts_what_workers_hold(tmp_path):
    script.main(["--json", str(tmp_path / "lab.json")])
    record = json.loads((tmp_path / "lab.json").read_text())["teacher_pass"]
    crops = 18 * 3 * 224 * 224  # nine tiles and their mirror images
    assert record["pictures_in_flight"] == 8 * (4 * 2 + 1)
    assert record["bytes_in_flight"]["before"] == record["pictures_in_flight"] * crops * 4
    pickled = record["bytes_a_picture"]["after"]
    assert crops < pickled < crops + 500
    assert record["bytes_in_shared_memory"]["after"] == 0
    assert script.measure(ranks=1)["pictures_in_flight"] == 9
