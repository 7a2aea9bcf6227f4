"""What fits this machine: the installed torch its GPUs and their driver; shared memory.

Each function returns what is there, and how to mend what does not fit; "": it fits.
"""

import re
import shutil
import subprocess
from pathlib import Path

import torch
import torch.distributed as dist

SHARED_MEMORY = Path("/dev/shm")
OTHER_TORCH = "make env TORCH_INDEX=URL, the index that pytorch.org names for your CUDA"
ENOUGH_SHARED = 10**9  # bytes


def describe_gpus() -> tuple[str, str]:
    """Each GPU with its compute capability, and the type that mixed precision takes. One that torch
    has no code for does not fit."""
    gpus = [torch.cuda.get_device_properties(i) for i in range(torch.cuda.device_count())]
    built = torch.cuda.get_arch_list()
    for gpu in gpus:
        if not _has_code(built, gpu.major, gpu.minor):
            arch = f"sm_{gpu.major}{gpu.minor}"
            return f"{gpu.name} is {arch}, torch has code for {' '.join(built)}", OTHER_TORCH
    described = (
        f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, sm_{gpu.major}{gpu.minor}, "
        + ("bfloat16" if gpu.major >= 8 else "no bfloat16: mixed precision in float16")
        for gpu in gpus
    )
    return "; ".join(described) or f"none; torch takes {torch.get_num_threads()} CPU threads", ""


def _has_code(built: list[str], major: int, minor: int) -> bool:
    """Compiled code (sm_XY) runs on later minor versions of its major one; the intermediate form
    (compute_XY) on all that are later."""
    for kind, x, y in re.findall(r"(sm|compute)_(\d+)(\d)", " ".join(built)):
        version = (int(x), int(y))
        if version <= (major, minor) and (kind == "compute" or version[0] == major):
            return True
    return False


def describe_driver() -> tuple[str, str]:
    """The newest CUDA that NVIDIA's driver runs, as nvidia-smi prints it. It does not fit if the
    driver does not answer, or torch was built for a later CUDA, or for none."""
    try:
        done = subprocess.run(["nvidia-smi"], capture_output=True, text=True, timeout=60)
    except OSError:
        return f"none, no nvidia-smi is there; torch is built for CUDA {torch.version.cuda}", ""
    except subprocess.TimeoutExpired:
        return "nvidia-smi does not answer", "start the machine anew"
    found = re.search(r"CUDA[ \w]* Version: *(\d+)\.(\d+)", done.stdout)
    if done.returncode or found is None:
        said = (done.stdout + done.stderr).strip().partition("\n")[0] or "nothing"
        return f"nvidia-smi says: {said}", "mend the driver; in a container: docker run --gpus all"
    runs, built = f"it runs CUDA {found[1]}.{found[2]}", torch.version.cuda
    if built is None:
        return f"{runs}, torch is built without CUDA", OTHER_TORCH
    # A driver runs all minor versions of its major one.
    if int(built.partition(".")[0]) > int(found[1]):
        return f"{runs}, torch is built for {built}", f"a newer driver, or {OTHER_TORCH}"
    return f"{runs}, torch is built for {built}", ""


def describe_nccl() -> tuple[str, str]:
    """NCCL's version. Without it GPUs can't train together."""
    if torch.version.cuda and dist.is_available() and dist.is_nccl_available():
        return ".".join(map(str, torch.cuda.nccl.version())), ""
    if torch.cuda.device_count():
        return "none: torch is built without it, so each GPU is alone", OTHER_TORCH
    return "none, for GPUs alone", ""


def describe_shared_memory() -> tuple[str, str]:
    """The free space through which worker processes hand on pictures; a container has little."""
    if (free := free_shared_memory()) is None:
        return "none", ""
    if free < ENOUGH_SHARED:
        return f"{free / 1e6:.0f} MB free", "docker run --shm-size=8g, or --ipc=host"
    return f"{free / 1e9:.1f} GB free", ""


def free_shared_memory() -> int | None:
    """In bytes; None where there is no /dev/shm."""
    return shutil.disk_usage(SHARED_MEMORY).free if SHARED_MEMORY.is_dir() else None
