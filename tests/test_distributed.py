"""Tests of work in a process group, and of its end."""

import weakref

import pytest
import torch.distributed as dist
from detectron2.utils import comm

from gridclip.distributed import leave_process_group, on_main_process
from ranks import run_ranks


def test_nothing_of_the_group_remains(tmp_path):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/init", rank=0, world_size=1)
    try:
        comm._get_global_gloo_group()  # what comm.gather and comm.all_gather do first
        group = weakref.ref(dist.group.WORLD)
    finally:
        leave_process_group()
    assert group() is None, "something still holds the group: its threads go on"
    assert not dist.is_initialized()


def test_a_second_group_is_another(tmp_path):
    for name in ("first", "second"):
        init = f"file://{tmp_path}/{name}"
        dist.init_process_group("gloo", init_method=init, rank=0, world_size=1)
        assert comm._get_global_gloo_group() is dist.group.WORLD
        leave_process_group()


def test_a_process_on_its_own_has_none_to_leave():
    with pytest.raises(ValueError, match="process group"):
        dist.get_rank()
    leave_process_group()


def work(path, error):
    def on_main():
        with open(path, "x") as file:  # a second time is an error
            file.write(str(comm.get_rank()))
        if error is not None:
            raise error

    on_main_process(on_main)
    return path.read_text()  # it is there when the others go on


def test_the_main_process_works_alone_and_all_wait(tmp_path):
    assert run_ranks(3, tmp_path, work, tmp_path / "written", None) == ["0", "0", "0"]


@pytest.mark.parametrize("error", [ValueError("no such store"), OSError(28, "no space left")])
def test_what_the_main_process_raises_all_raise(tmp_path, error):
    found = run_ranks(2, tmp_path, work, tmp_path / "written", error)
    assert [(type(e), str(e)) for e in found] == [(type(error), str(error))] * 2


def test_a_process_on_its_own_is_the_main_one(tmp_path):
    with pytest.raises(ValueError, match="bad"):
        work(tmp_path / "written", ValueError("bad"))
