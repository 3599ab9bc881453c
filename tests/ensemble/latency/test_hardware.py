"""Hardware: read without PyTorch, and the same key exactly where times may be compared."""

import importlib.metadata
import os
import re
import shutil
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch

from ensemble.latency import hardware as module
from ensemble.latency.hardware import Hardware, hardware, parse_cpuinfo, rounding, versions

HERE = Hardware("Some CPU (6/85/7; avx2)", 8, 16.0, "Linux x86_64", memory=31.2)
GPU = replace(HERE, accelerator="Some GPU, 80 GiB", driver="550.54.15")

INTEL = "\n\n".join(
    f"processor\t: {n}\ncpu family\t: 6\nmodel\t\t: 85\nmodel name\t: Intel(R) Xeon(R) Gold 6230\nstepping\t: 7\n"
    f"physical id\t: {n % 2}\ncore id\t\t: {n // 4}\nflags\t\t: fpu sse2 avx512f avx2"
    for n in range(8)
)
"""Two sockets with two cores each, and two threads a core."""

ARM = "\n\n".join(
    f"processor\t: {n}\nBogoMIPS\t: 50.00\nFeatures\t: fp asimd asimddp bf16\nCPU implementer\t: 0x41\n"
    f"CPU part\t: {part}"
    for n, part in enumerate(("0xd0c", "0xd0c", "0xd40", "0xd40"))
)


@pytest.mark.parametrize(
    ("text", "model", "cores"),
    [
        (INTEL, "Intel(R) Xeon(R) Gold 6230 (6/85/7; avx2, avx512f)", 4),
        (ARM, "Arm 0x41-0xd0c 0x41-0xd40 (asimddp, bf16)", 0),
        ("processor\t: 0\nmodel name\t: Plain", "Plain", 0),
        ("Hardware\t: a board\nSerial\t: 0", "", 0),
        ("", "", 0),
    ],
)
def test_cpuinfo_is_read(text: str, model: str, cores: int) -> None:
    assert parse_cpuinfo(text) == (model, cores)


@pytest.mark.skipif(not sys.platform.startswith("linux") or shutil.which("lscpu") is None, reason="needs lscpu")
def test_cores_and_model_are_those_of_lscpu() -> None:
    words = ["lscpu", "--parse=CORE,SOCKET"]
    rows = subprocess.run(words, check=True, capture_output=True, text=True).stdout.splitlines()
    found = hardware()
    assert found.cores == len({row for row in rows if not row.startswith("#")})
    about = subprocess.run(["lscpu"], check=True, capture_output=True, text=True, env={"LC_ALL": "C"}).stdout
    model = re.search(r"^Model name:\s*(.+)$", about, re.MULTILINE)
    assert model is not None
    assert found.cpu.startswith(model[1]) or found.cpu.startswith("Arm ")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs affinities")
def test_fewer_processors_are_other_hardware() -> None:
    allowed = os.sched_getaffinity(0)
    before = hardware()
    assert 0 < before.processors <= len(allowed)
    os.sched_setaffinity(0, {min(allowed)})
    try:
        alone = hardware()
    finally:
        os.sched_setaffinity(0, allowed)
    assert alone.processors <= 1
    assert (alone.key == before.key) == (before.processors <= 1)
    assert hardware() == before


@pytest.mark.parametrize(
    ("files", "processors"),
    [
        ({"cpu.max": "150000 100000\n"}, 1.5),
        ({"cpu.max": "max 100000\n"}, 64.0),
        ({"cpu/cpu.cfs_quota_us": "400000\n", "cpu/cpu.cfs_period_us": "100000\n"}, 4.0),
        ({"cpu/cpu.cfs_quota_us": "-1\n", "cpu/cpu.cfs_period_us": "100000\n"}, 64.0),
        ({"cpu.max": "9900000 100000\n"}, 64.0),
        ({}, 64.0),
    ],
)
def test_a_containers_quota_counts(monkeypatch: pytest.MonkeyPatch, files: dict[str, str], processors: float) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(64)), raising=False)
    monkeypatch.setattr(module, "read_text", lambda path: files.get(path.removeprefix("/sys/fs/cgroup/"), ""))
    assert hardware().processors == processors


def test_the_key_tells_apart_what_changes_times_and_nothing_else() -> None:
    assert re.fullmatch("[0-9a-f]{12}", HERE.key)
    assert HERE.key == replace(HERE, memory=None).key
    assert replace(HERE, memory=7.0) == HERE
    others = {
        "cpu": "Other CPU",
        "cores": 9,
        "processors": 2.0,
        "system": "Linux aarch64",
        "accelerator": "Other GPU",
        "driver": "1.0",
    }
    assert {*others, "memory"} == {part.name for part in fields(Hardware)}
    keys = {replace(GPU, **{name: value}).key for name, value in others.items()}  # type: ignore[arg-type]
    assert len(keys | {GPU.key, HERE.key}) == len(others) + 2


def test_the_key_is_the_same_in_every_process_and_release() -> None:
    """As worked out with `printf ... | sha256sum`: a change of it throws away what everybody has measured."""
    assert HERE.key == "77668088306b"


def test_people_read_one_line() -> None:
    assert str(HERE) == "Some CPU (6/85/7; avx2), 8 cores (16 processors to use), 31 GiB, Linux x86_64"
    assert str(replace(GPU, processors=8.0, memory=None)) == (
        "Some GPU, 80 GiB, driver 550.54.15, Some CPU (6/85/7; avx2), 8 cores, Linux x86_64"
    )


def test_the_cpu_has_no_accelerator() -> None:
    found = hardware(torch.device("cpu"))
    assert (found.accelerator, found.driver) == (None, None)
    assert found == hardware()
    assert found.cpu
    assert found.memory is None or found.memory > 0


@pytest.mark.parametrize(
    "said",
    [
        "NVRM version: NVIDIA UNIX x86_64 Kernel Module  550.54.15  Tue Mar  5 22:23:56 UTC 2024\nGCC version: 12.2.0",
        "NVRM version: NVIDIA UNIX Open Kernel Module for x86_64  550.54.15  Release Build  (root@x)\nGCC version: 12",
        "NVRM version: NVIDIA UNIX Open Kernel Module for aarch64  550.54.15  Release Build",
    ],
)
def test_the_driver_is_read(monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    monkeypatch.setattr(module, "read_text", lambda path: said if path == "/proc/driver/nvidia/version" else "")
    monkeypatch.setattr(module, "_output", lambda _words: pytest.fail("no need to ask a program"))
    assert module._nvidia_driver() == "550.54.15"


def test_without_a_kernel_module_in_sight_a_program_tells(monkeypatch: pytest.MonkeyPatch) -> None:
    """As under the Windows Subsystem for Linux."""
    monkeypatch.setattr(module, "read_text", lambda _path: "")
    monkeypatch.setattr(module, "_output", lambda words: "551.2\n551.2\n" if words[0] == "nvidia-smi" else "")
    assert module._nvidia_driver() == "551.2"
    monkeypatch.setattr(module, "_output", lambda _words: "")
    assert module._nvidia_driver() is None


def test_a_program_that_is_missing_or_fails_says_nothing() -> None:
    assert module._output(["no-such-program-anywhere"]) == ""
    assert module._output([sys.executable, "-c", "import sys; print('x'); sys.exit(1)"]) == ""
    assert module._output([sys.executable, "-c", "print('x')"]) == "x\n"


@pytest.mark.gpu
def test_a_gpu_is_named_with_its_driver() -> None:
    found = hardware(torch.device("cuda"))
    assert found.accelerator is not None
    assert found.accelerator.startswith(torch.cuda.get_device_name())
    assert found.driver
    assert found.key != hardware().key


def test_versions_are_those_that_run() -> None:
    found = versions()
    assert list(found) == ["menagerie", "python", "torch", "onnxruntime"]
    assert found["torch"] == torch.__version__, "with the build, +cpu or +cu128"
    assert found["python"] == sys.version.split(maxsplit=1)[0]


def test_what_is_not_installed_has_no_version(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", missing)
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    found = versions()
    assert (found["torch"], found["onnxruntime"], found["menagerie"]) == (None, None, None)


def test_pytorch_is_not_imported() -> None:
    """In a process of its own."""
    program = (
        "import sys; from ensemble.latency.hardware import hardware, versions; import ensemble.latency.times; "
        "import ensemble.latency.cache, ensemble.latency.workload; "
        "hardware().key; versions(); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


def test_other_hardware_or_versions_may_round_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    here = rounding(HERE)
    assert rounding(replace(HERE, memory=1.0)) == here
    assert re.fullmatch("[0-9a-f]{12}", here)
    others = {rounding(GPU), rounding(replace(HERE, cpu="Some CPU (6/85/7; avx2, avx512f)"))}
    for name in versions():
        with monkeypatch.context() as changed:
            changed.setattr(module, "versions", lambda name=name: {**versions(), name: "99.9"})
            others.add(rounding(HERE))
    assert len(others - {here}) == 2 + len(versions())
