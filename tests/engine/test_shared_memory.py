import shutil

import pytest
import torch
from detectron2.utils import comm
from torch.utils.data import DataLoader

from gridclip.engine import do_eval_only, do_train
from gridclip.engine.shared_memory import bytes_in_flight, check_shared_memory


@pytest.mark.parametrize("run", [do_train, do_eval_only])
def test_too_little_shared_memory_is_said_before_a_worker_dies(run, world_config, monkeypatch):
    cfg = world_config()
    cfg.dataloader.train.num_workers = cfg.dataloader.test.num_workers = 2
    usage = shutil.disk_usage("/")._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    with pytest.raises(ValueError, match="and /dev/shm has 0 MB: .*--shm-size=1g .*num_workers"):
        run(cfg)


def batches(num_workers, count=6):
    sizes = [10, 30, 20, 40, 40, 40][:count]
    dataset = [dict(image=torch.zeros(n, dtype=torch.float16), name="a" * 99) for n in sizes]
    return DataLoader(dataset, batch_size=3, num_workers=num_workers, collate_fn=list)


def test_bytes_in_flight_are_of_the_largest_picture_in_all_batches():
    assert bytes_in_flight(batches(0)) == 0
    # Two batches of three pictures a worker, and that in hand; 30 numbers of two bytes.
    assert bytes_in_flight(batches(4)) == (4 * 2 + 1) * 3 * 60
    assert bytes_in_flight(batches(1, count=0)) == 0


def test_what_fits_into_shared_memory_passes(monkeypatch):
    usage = shutil.disk_usage("/")._replace(free=1620)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    check_shared_memory(batches(4))
    with pytest.raises(ValueError, match="--ipc=host"):
        check_shared_memory(batches(4), batches(1))
    monkeypatch.setattr(comm, "get_local_size", lambda: 2)
    with pytest.raises(ValueError, match="--ipc=host"):
        check_shared_memory(batches(4))
