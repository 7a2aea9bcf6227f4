"""What fits a machine, with GPUs, drivers and shared memory that are not here."""

import subprocess
import sys
from collections import namedtuple
from types import SimpleNamespace

import pytest
import torch

from gridclip import machine

V100 = ("Tesla V100-SXM2-32GB", 7, 0)
A100 = ("NVIDIA A100-SXM4-80GB", 8, 0)
RTX_3090 = ("NVIDIA GeForce RTX 3090", 8, 6)
H100 = ("NVIDIA H100 80GB HBM3", 9, 0)
CUDA_13 = ["sm_75", "sm_80", "sm_86", "sm_90", "sm_100", "sm_120"]
CUDA_126 = ["sm_50", "sm_60", "sm_70", "sm_75", "sm_80", "sm_86", "sm_90"]


@pytest.fixture
def gpus(monkeypatch):
    """Has torch see these GPUs, (name, major, minor), and have code for these architectures."""

    def set_gpus(found, built=CUDA_13, cuda="13.0"):
        properties = [
            SimpleNamespace(name=name, major=major, minor=minor, total_memory=80 * 2**30)
            for name, major, minor in found
        ]
        monkeypatch.setattr(torch.cuda, "device_count", lambda: len(properties))
        monkeypatch.setattr(torch.cuda, "get_device_properties", properties.__getitem__)
        monkeypatch.setattr(torch.cuda, "get_arch_list", lambda: built)
        monkeypatch.setattr(torch.version, "cuda", cuda)

    return set_gpus


@pytest.mark.parametrize(
    ("found", "built", "fits"),
    [
        ([V100], CUDA_13, False),
        ([V100], CUDA_126, True),
        ([H100, V100], CUDA_13, False),
        ([RTX_3090], ["sm_80"], True),  # code of an earlier minor version
        ([A100], ["sm_86"], False),
        ([H100], ["sm_80", "compute_80"], True),  # from the intermediate form
        ([H100], ["sm_80"], False),
        ([V100], ["compute_75"], False),
        ([("NVIDIA B200", 10, 0)], CUDA_13, True),
        ([("NVIDIA RTX 5090", 12, 0)], CUDA_126, False),
        ([H100], ["sm_90a"], True),
    ],
)
def test_compute_capability(gpus, found, built, fits):
    gpus(found, built)
    detail, fix = machine.describe_gpus()
    assert all(name in detail for name, *_ in found) == (fits or len(found) == 1)
    assert bool(fix) != fits
    if not fits:
        assert "TORCH_INDEX=URL" in fix
        assert " ".join(built) in detail


def test_bfloat16_of_each_gpu(gpus):
    gpus([V100, H100], CUDA_126)
    assert machine.describe_gpus() == (
        "Tesla V100-SXM2-32GB, 80 GiB, sm_70, no bfloat16: mixed precision in float16; "
        "NVIDIA H100 80GB HBM3, 80 GiB, sm_90, bfloat16",
        "",
    )


def test_no_gpu(gpus):
    gpus([])
    assert machine.describe_gpus() == (
        f"none; torch takes {torch.get_num_threads()} CPU threads",
        "",
    )


BANNER = "| NVIDIA-SMI 535.104.05    Driver Version: 535.104.05    CUDA Version: {}     |"


@pytest.fixture
def nvidia_smi(monkeypatch, tmp_path):
    """Puts an nvidia-smi on PATH that prints a text and exits with a code."""
    monkeypatch.setenv("PATH", str(tmp_path))

    def install(text, code=0):
        (tmp_path / "printed").write_text(text)
        program = tmp_path / "nvidia-smi"
        program.write_text(
            f"#!{sys.executable} -S\nprint(open({str(tmp_path / 'printed')!r}).read())\n"
            f"raise SystemExit({code})\n"
        )
        program.chmod(0o755)

    return install


@pytest.mark.parametrize(
    ("driver", "built", "fits"),
    [
        ("13.0", "13.0", True),
        ("13.0", "12.6", True),
        ("12.2", "12.6", True),  # a later minor version of the same major one
        ("12.4", "13.0", False),
        ("11.4", "12.6", False),
        ("13.0", None, False),
    ],
)
def test_driver(gpus, nvidia_smi, driver, built, fits):
    gpus([A100], cuda=built)
    nvidia_smi(BANNER.format(driver))
    detail, fix = machine.describe_driver()
    assert detail.startswith(f"it runs CUDA {driver}, torch is built ")
    assert detail.endswith(f"for {built}" if built else "without CUDA")
    assert ("TORCH_INDEX=URL" in fix) != fits


def test_a_later_form_of_the_banner(gpus, nvidia_smi):
    gpus([A100])
    nvidia_smi(BANNER.replace("CUDA Version", "CUDA UMD Version").format("13.1"))
    assert machine.describe_driver()[1] == ""


def test_a_driver_that_does_not_answer(nvidia_smi, monkeypatch):
    said = "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver."
    nvidia_smi(f"{said}\nMake sure that it runs.", code=9)
    detail, fix = machine.describe_driver()
    assert detail == f"nvidia-smi says: {said}" and "--gpus all" in fix

    def hang(*_, timeout, **__):
        raise subprocess.TimeoutExpired("nvidia-smi", timeout)

    monkeypatch.setattr(machine.subprocess, "run", hang)
    assert machine.describe_driver()[1]


def test_no_driver(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    detail, fix = machine.describe_driver()
    assert "no nvidia-smi" in detail and fix == ""


@pytest.mark.parametrize("found", [[], [A100]])
@pytest.mark.parametrize("available", [True, False])
def test_nccl(gpus, monkeypatch, found, available):
    gpus(found)
    monkeypatch.setattr(machine.dist, "is_nccl_available", lambda: available)
    monkeypatch.setattr(torch.cuda, "nccl", SimpleNamespace(version=lambda: (2, 30, 7)))
    detail, fix = machine.describe_nccl()
    assert detail == "2.30.7" if available else detail.startswith("none")
    assert bool(fix) == (bool(found) and not available)


@pytest.mark.parametrize(("free", "fits"), [(64 * 2**20, False), (8 * 2**30, True)])
def test_shared_memory(monkeypatch, tmp_path, free, fits):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path)
    monkeypatch.setattr(machine.shutil, "disk_usage", lambda path: usage(free, 0, free))
    detail, fix = machine.describe_shared_memory()
    assert detail == ("8.6 GB free" if fits else "67 MB free")
    assert ("--shm-size" in fix) != fits


def test_a_system_without_shared_memory(monkeypatch, tmp_path):
    monkeypatch.setattr(machine, "SHARED_MEMORY", tmp_path / "none")
    assert machine.describe_shared_memory() == ("none", "")
