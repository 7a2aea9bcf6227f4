"""A command that fills a store, killed on the way, and stores compared file by file."""

import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

STORE_FILES = ("manifest.json", "embeddings.npy", "boxes.npy", "counts.npy", "done.npy")


def environment(datasets: Path) -> dict[str, str]:
    """Of a process that finds its data sets there and takes one thread."""
    return os.environ | dict(DETECTRON2_DATASETS=str(datasets), OMP_NUM_THREADS="1")


def kill_once_begun(command: Sequence, env: dict[str, str], store: Path) -> int:
    """Start a command and kill it as soon as a row is done; returns how many are."""
    process = subprocess.Popen(command, env=env, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if (store / "done.npy").exists() and np.load(store / "done.npy").any():
            break
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    return int(np.load(store / "done.npy").sum())


def assert_same_stores(one: Path, other: Path) -> None:
    for file in STORE_FILES:
        assert (one / file).read_bytes() == (other / file).read_bytes(), file
