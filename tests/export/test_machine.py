"""What is found of a machine, and of made-up ones."""

import ctypes
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from export import machine as module
from export.machine import FAST, Gpu, fast, look, parse_flags

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


class Driver:
    """As much of `libcuda` and `libnvidia-ml` as is called."""

    def __init__(self, gpus: list[Gpu], cuda: int = 13000, fails: str | None = None) -> None:
        self.gpus, self.cuda, self.fails = gpus, cuda, fails

    def __getattribute__(self, name: str) -> Any:  # noqa: ANN401
        if name == object.__getattribute__(self, "fails"):
            return lambda *_: 100
        return object.__getattribute__(self, name)

    def cuDriverGetVersion(self, number: Any) -> int:  # noqa: N802, ANN401  # CUDA's names, and ctypes' references
        number._obj.value = self.cuda
        return 0

    def cuInit(self, flags: int) -> int:  # noqa: N802
        return flags

    def cuDeviceGetCount(self, count: Any) -> int:  # noqa: N802, ANN401
        count._obj.value = len(self.gpus)
        return 0

    def cuDeviceGet(self, device: Any, index: int) -> int:  # noqa: N802, ANN401
        device._obj.value = index
        return 0

    def cuDeviceGetName(self, name: Any, size: int, device: Any) -> int:  # noqa: N802, ANN401
        assert size == len(name)
        name.value = self.gpus[device.value].name.encode()
        return 0

    def cuDeviceTotalMem_v2(self, size: Any, device: Any) -> int:  # noqa: N802, ANN401
        size._obj.value = int(self.gpus[device.value].memory * 2**30)
        return 0

    def cuDeviceGetAttribute(self, value: Any, attribute: int, device: Any) -> int:  # noqa: N802, ANN401
        value._obj.value = self.gpus[device.value].capability[{75: 0, 76: 1}[attribute]]
        return 0

    def nvmlInit_v2(self) -> int:  # noqa: N802
        return 0

    def nvmlShutdown(self) -> int:  # noqa: N802
        return 0

    def nvmlSystemGetDriverVersion(self, text: Any, size: int) -> int:  # noqa: N802, ANN401
        assert size == len(text)
        text.value = b"580.95.05"
        return 0


@pytest.fixture
def driven(monkeypatch: pytest.MonkeyPatch) -> Callable[[Driver], None]:
    """A function that puts a driver in."""

    def put(driver: Driver) -> None:
        loaded = {"libcuda.so.1": driver, "libnvidia-ml.so.1": driver}
        monkeypatch.setattr(ctypes, "CDLL", loaded.__getitem__)

    return put


GPUS = [Gpu("NVIDIA H100 80GB HBM3", 79.25, (9, 0)), Gpu("Tesla T4", 15.0, (7, 5))]


def test_gpus_as_the_driver_describes_them(driven: Callable[[Driver], None]) -> None:
    driven(Driver(GPUS, cuda=12040))
    assert module._gpus() == ((12, 4), tuple(GPUS))
    assert module._driver() == "580.95.05"


@pytest.mark.parametrize(
    ("fails", "gpus", "driver"),
    [
        ("cuDriverGetVersion", (None, ()), "580.95.05"),
        ("cuInit", ((13, 0), ()), "580.95.05"),
        ("cuDeviceGetCount", ((13, 0), ()), "580.95.05"),
        ("nvmlInit_v2", ((13, 0), tuple(GPUS)), None),
        ("nvmlSystemGetDriverVersion", ((13, 0), tuple(GPUS)), None),
    ],
)
def test_drivers_that_fail(driven: Callable[[Driver], None], fails: str, gpus: object, driver: str | None) -> None:
    driven(Driver(GPUS, fails=fails))
    assert module._gpus() == gpus
    assert module._driver() == driver


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert module._gpus() == (None, ())
    assert module._driver() is None


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
        monkeypatch.setattr(module, "_gpus", lambda: ((13, 0) if gpus else None, gpus))
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
    tried = told(RUNTIME, (GPUS[0],))
    found = look()
    assert tried == ["cpu", "cuda"]
    assert (found.trials["cuda"].works, found.trials["cuda"].reason) == (False, "it crashed")
    assert (found.gpus, found.driver_cuda, found.runtime_cuda) == ((GPUS[0],), (13, 0), (13, 0))


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
