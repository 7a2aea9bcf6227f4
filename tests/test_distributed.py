"""Tests of the end of a process group."""

import weakref

import pytest
import torch.distributed as dist
from detectron2.utils import comm

from gridclip.distributed import leave_process_group


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
