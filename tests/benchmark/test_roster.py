from benchmark.roster import ONE_X, VILD, default_roster, roster_of


def keys(contestants):
    return [c.key for c in contestants]


def test_everyone_takes_part_by_default():
    roster = default_roster("float32", quick=False)
    trained = ["gridclip", "gridclip_light", "vild", "vild_ensemble", "fcos"]
    assert keys(roster.contestants) == [*trained, "faster_rcnn", "torchvision_fcos"]
    assert keys(roster.to_train) == keys(roster.in_memory) == trained
    assert {key for key, _ in roster.schedules.values()} <= set(trained)
    assert all(config.is_file() for _, config in roster.schedules.values())
    assert all(c.config is None or c.config.is_file() for c in roster.contestants)


def test_fewer_take_part_in_a_quick_comparison():
    roster = default_roster("float32", quick=True)
    assert keys(roster.contestants) == ["gridclip", "vild", "vild_ensemble", "fcos", "faster_rcnn"]
    assert keys(roster.to_train) == ["gridclip", "vild", "fcos"]
    assert keys(roster.in_memory) == ["gridclip", "fcos"]


def test_fcos_is_not_trained_in_half_precision():
    roster = default_roster("bfloat16", quick=True)
    assert "fcos" in keys(roster.contestants)
    assert keys(roster.to_train) == ["gridclip", "vild"]
    assert keys(roster.in_memory) == ["gridclip"]


def test_configs_are_named_after_their_files():
    roster = roster_of([ONE_X, VILD], ["a.pth", "b.pth"], "float32")
    one, two = roster.contestants
    assert (one.key, one.config, one.weights) == ("gridclip_r50_ov_1x", ONE_X, "a.pth")
    assert (two.key, two.config, two.weights) == ("vild_r50_ov", VILD, "b.pth")
    assert roster.to_train == roster.in_memory == roster.contestants
    assert roster.schedules["vild_r50_ov"] == ("vild_r50_ov", VILD)
    random = roster_of([ONE_X, VILD], None, "float32")
    assert [c.weights for c in random.contestants] == [None, None]
