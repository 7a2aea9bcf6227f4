"""A description of the machine and the software that a measurement was made with."""

import os
import platform

import torch

from gridclip.evaluation.results import git_commit, processor_name, versions


def environment(device: str) -> dict:
    """Processor, threads, load, versions and commit; of a GPU, whether convolutions take TF32."""
    on_cuda = torch.device(device).type == "cuda"
    return {
        "processor": processor_name(device),
        "device": str(device),
        "threads": torch.get_num_threads(),
        "cpu_count": os.cpu_count(),
        "load_average": list(os.getloadavg()),
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        "onednn": torch.backends.mkldnn.is_available(),
        "cuda": torch.version.cuda,
        "tf32_convolutions": torch.backends.cudnn.allow_tf32 if on_cuda else None,
        "platform": platform.platform(),
        "commit": git_commit(),
        "versions": versions(),
    }
