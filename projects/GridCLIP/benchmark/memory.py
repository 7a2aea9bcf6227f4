"""Peak memory of a training step, above that of the model and the optimizer's state.

Each detector is measured in a process of its own. The memory of tensors is what torch.profiler
counts on a CPU, and what the allocator counts on CUDA. The resident set also holds the allocator's
reserve and oneDNN's scratch memory.
"""

import ctypes
import json
import multiprocessing
import os
import resource
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from unittest.mock import patch

import torch
from torch import Tensor
from tqdm import tqdm

from .contestants import Contestant
from .stages import StageClock
from .training import TrainingStep, autocast


def measure_memory(
    contestants: list[Contestant], pictures: list[Tensor], device: str, dtype: str
) -> dict[str, dict[str, float]]:
    """The peaks in MiB, "tensors" and "resident_set", by detector.

    Args:
        pictures: (3, H, W) uint8, the batch of the step.

    Raises:
        RuntimeError: the process of a detector failed; it has printed why.
    """
    context = multiprocessing.get_context("spawn")
    peaks = {}
    for contestant in tqdm(contestants, desc="memory", unit="detector"):
        queue = context.SimpleQueue()
        arguments = (contestant, [p.numpy() for p in pictures], device, dtype, queue)
        process = context.Process(target=_measure_one, args=arguments)
        # Without this the profiler logs an error where there is no GPU.
        with patch.dict(os.environ, KINETO_LOG_LEVEL="5"):
            process.start()
        process.join()
        if process.exitcode:
            raise RuntimeError(f"The memory measurement of {contestant.key} failed: see above.")
        peaks[contestant.key] = queue.get()
    return peaks


def _measure_one(contestant: Contestant, pictures: list, device: str, dtype: str, queue) -> None:
    pictures = [torch.from_numpy(picture) for picture in pictures]
    model = contestant.build([{"image": picture} for picture in pictures], device)
    step = TrainingStep(model, contestant.config, pictures, autocast(device, dtype))

    def run() -> None:
        step(StageClock(device))

    run()  # the first step makes the optimizer's state
    resident = peak_resident(run)
    on_cuda = torch.device(device).type == "cuda"
    tensors = peak_cuda(run) if on_cuda else peak_tensors(run)
    queue.put({"tensors": tensors / 2**20, "resident_set": resident / 2**20})


def _trim() -> None:
    """Return freed memory to the system, if the C library has a function for that."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def peak_cuda(run: Callable[[], None]) -> int:
    """Most bytes that CUDA tensors made during ``run`` hold at once."""
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    run()
    return torch.cuda.max_memory_allocated() - before


def peak_tensors(run: Callable[[], None]) -> int:
    """Most bytes that CPU tensors made during ``run`` hold at once."""
    cpu = [torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=cpu, profile_memory=True) as profile:
        run()
    with tempfile.TemporaryDirectory() as folder:
        trace = Path(folder) / "trace.json"
        profile.export_chrome_trace(str(trace))
        events = json.loads(trace.read_text())["traceEvents"]
    return max(e["args"]["Total Allocated"] for e in events if e.get("name") == "[memory]")


def peak_resident(run: Callable[[], None]) -> int:
    """Most bytes by which the resident set exceeds its size before ``run``."""
    _trim()  # memory that was freed before would be taken again, and its use not seen
    before, peak, done = resident_bytes(), 0, threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(0.005):
            peak = max(peak, resident_bytes())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        run()
    finally:
        done.set()
        watcher.join()
    return max(0, peak - before)


def resident_bytes() -> int:
    """Of this process, now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()
