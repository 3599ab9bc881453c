"""What NVIDIA's driver says, of made-up machines."""

import ctypes
from collections.abc import Callable
from typing import Any

import pytest

from export.driver import Gpu, cuda_and_gpus, driver_version, gpu_count


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
    assert cuda_and_gpus() == ((12, 4), tuple(GPUS))
    assert gpu_count() == 2
    assert driver_version() == "580.95.05"


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
    assert cuda_and_gpus() == gpus
    assert driver_version() == driver


def test_no_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise OSError(f"{name}: cannot open shared object file")

    monkeypatch.setattr(ctypes, "CDLL", missing)
    assert cuda_and_gpus() == (None, ())
    assert gpu_count() == 0
    assert driver_version() is None


@pytest.mark.parametrize(("fails", "gpus"), [(None, 2), ("cuInit", 0), ("cuDeviceGetCount", 0)])
def test_how_many_there_are(driven: Callable[[Driver], None], fails: str | None, gpus: int) -> None:
    driven(Driver(GPUS, fails=fails))
    assert gpu_count() == gpus
