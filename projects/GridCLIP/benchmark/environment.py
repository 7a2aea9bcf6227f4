"""A description of the machine and the software that a measurement was made with."""

import os
import platform
from pathlib import Path

import torch

from gridclip.evaluation.results import git_commit, versions


def environment(device: str) -> dict:
    """Processor, threads, load, versions and commit."""
    return {
        "processor": processor_name(device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "platform": platform.platform(),
        "commit": git_commit(),
        "versions": versions(),
    }


def processor_name(device: str) -> str:
    """The model of the GPU or CPU, as its driver or the system calls it."""
    if torch.device(device).type == "cuda":
        return torch.cuda.get_device_name(device)
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or "unknown CPU"
