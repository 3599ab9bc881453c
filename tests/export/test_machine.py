"""What is found of a machine, and of made-up ones."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import machine as module
from export.driver import Gpu
from export.machine import FAST, dotted, fast, look, parse_flags

X86 = """processor\t: 0
model name\t: Some CPU
flags\t\t: fpu avx2 avx512f avx512_vnni avx512_bf16
bogomips\t: 1

processor\t: 1
flags\t\t: fpu
"""
ARM = "processor\t: 0\nFeatures\t: fp asimd asimdhp asimddp i8mm bf16\nCPU part\t: 0xd40\n"


def test_flags() -> None:
    assert parse_flags(X86) == {"fpu", "avx2", "avx512f", "avx512_vnni", "avx512_bf16"}
    assert parse_flags(ARM) == {"fp", "asimd", "asimdhp", "asimddp", "i8mm", "bf16"}
    assert parse_flags("") == frozenset()


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ({"avx2"}, {}),
        ({"avx512_vnni", "avx512_bf16"}, {"int8": "AVX-512 VNNI", "bf16": "AVX-512"}),
        ({"avx_vnni", "avx2"}, {"int8": "AVX VNNI"}),
        ({"amx_int8", "amx_bf16", "avx512_vnni", "avx512_fp16"}, {"int8": "AMX", "bf16": "AMX", "fp16": "AVX-512"}),
        (parse_flags(ARM), {"int8": "I8MM", "bf16": "Arm", "fp16": "Arm"}),
    ],
)
def test_what_is_fast(flags: set[str], expected: dict[str, str]) -> None:
    assert fast(frozenset(flags)) == expected
    assert set(expected) <= set(FAST)


def test_versions_for_people() -> None:
    assert [dotted((12, 4)), dotted(None)] == ["12.4", "none"]


def test_cards_on_the_bus(tmp_path: Path) -> None:
    """As Linux lists them: two GPUs, the sound of one, another maker's GPU, and a device that cannot be read."""
    devices = [("0x10de", "0x030000"), ("0x10de", "0x030200"), ("0x10de", "0x040300"), ("0x1002", "0x030000")]
    for number, (vendor, kind) in enumerate(devices):
        folder = tmp_path / f"0000:0{number}:00.0"
        folder.mkdir()
        (folder / "vendor").write_text(f"{vendor}\n")
        (folder / "class").write_text(f"{kind}\n")
    (tmp_path / "0000:09:00.0").mkdir()
    (tmp_path / "0000:09:00.0" / "vendor").write_text("0x10de\n")
    assert module._cards(tmp_path) == 2
    assert module._cards(tmp_path / "no bus") == 0


GPU = Gpu("NVIDIA H100 80GB HBM3", 79.25, (9, 0))


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[str]]:
    """A function that says what ONNX Runtime is, and returns the devices that graphs are tried on."""

    def tell(runtime: dict[str, Any], gpus: tuple[Gpu, ...] = ()) -> list[str]:
        tried: list[str] = []

        def apart(function: str, *arguments: str) -> dict[str, Any]:
            if function == "runtime":
                return runtime
            tried.extend(arguments)
            return {"works": arguments == ("cpu",), "reason": None if arguments == ("cpu",) else "it crashed"}

        monkeypatch.setattr(module, "apart", apart)
        monkeypatch.setattr(module, "cuda_and_gpus", lambda: ((13, 0) if gpus else None, gpus))
        return tried

    return tell


RUNTIME = {
    "cuda": "13.0",
    "providers": ["CUDAExecutionProvider", "CPUExecutionProvider"],
    "links": {"cuda": "libcuda.so.1: gone"},
    "libraries": {},
}


def test_graphs_are_tried_where_they_could_run(told: Callable[..., list[str]]) -> None:
    tried = told(RUNTIME)
    trials = look().trials
    assert tried == ["cpu"]
    assert trials["cpu"].works
    assert [trials[device].reason for device in ("cuda", "tensorrt")] == [
        "libcuda.so.1: gone",
        "ONNX Runtime was built without it",
    ]
    tried = told(RUNTIME, (GPU,))
    found = look()
    assert tried == ["cpu", "cuda"]
    assert (found.trials["cuda"].works, found.trials["cuda"].reason) == (False, "it crashed")
    assert (found.gpus, found.driver_cuda, found.runtime_cuda) == ((GPU,), (13, 0), (13, 0))


def test_no_onnx_runtime(told: Callable[..., list[str]]) -> None:
    tried = told({"reason": "ModuleNotFoundError: No module named 'onnxruntime'"})
    found = look()
    assert (tried, found.providers, found.runtime_cuda) == ([], None, None)
    assert found.broken == "ModuleNotFoundError: No module named 'onnxruntime'"
    assert not any(trial.works for trial in found.trials.values())


@pytest.mark.parametrize(
    ("version", "cuda"),
    [("2.14.1+cu130", (13, 0)), ("2.9.0+cu128", (12, 8)), ("2.9.0+cpu", None), ("2.9.0", None), (None, None)],
)
def test_pytorchs_cuda(
    told: Callable[..., list[str]],
    monkeypatch: pytest.MonkeyPatch,
    version: str | None,
    cuda: tuple[int, int] | None,
) -> None:
    told(RUNTIME)
    monkeypatch.setattr(module, "versions", lambda: {"python": "3.11.7", "torch": version})
    assert look().torch_cuda == cuda


def test_this_machine() -> None:
    """Whatever it is, graphs run on its CPU; see that nothing is made up."""
    import onnxruntime
    import torch

    found = look()
    assert found.trials["cpu"].works
    assert tuple(onnxruntime.get_available_providers()) == found.providers
    assert found.packages["torch"] == torch.__version__
    assert bool(found.gpus) == torch.cuda.is_available()
    assert found.to_dict()["hardware"]["cpu"] == found.hardware.cpu
