"""Diagnoses, over made-up machines."""

from collections.abc import Callable, Mapping
from dataclasses import replace

import pytest

from export.devices import DEVICES
from export.doctor import DRIVERS, best_device, diagnose, works
from export.machine import Machine, Trial
from tests.export.machines import H100, LAPTOP, PROVIDERS, SERVER, V100, failing
from zoo.errors import UsageError


@pytest.mark.parametrize(
    ("machine", "device", "fine"),
    [
        (LAPTOP, None, True),
        (LAPTOP, "cpu", True),
        (SERVER, None, True),
        (SERVER, "cuda", True),
        (SERVER, "cpu", True),
    ],
)
def test_nothing_is_wrong(machine: Machine, device: str | None, fine: bool) -> None:
    assert diagnose(machine, device) == []
    assert works(machine, device or best_device(machine)) is fine


def test_the_best_device() -> None:
    assert (best_device(LAPTOP), best_device(SERVER)) == ("cpu", "cuda")


CASES: Mapping[str, tuple[Machine, str | None, str, str]] = {
    "not installed": (
        replace(LAPTOP, packages={}, providers=None, broken="No module named 'onnxruntime'", trials={}),
        None,
        "ONNX Runtime is not installed",
        "pip install onnxruntime",
    ),
    "not installed, with a GPU": (
        replace(SERVER, packages={"torch": "2.14"}, providers=None, trials={}),
        None,
        "ONNX Runtime is not installed",
        "pip install onnxruntime-gpu",
    ),
    "cannot be imported": (
        replace(LAPTOP, providers=None, broken="ImportError: libfoo.so.1", trials={}),
        None,
        "onnxruntime-gpu 1.31.1 cannot be imported: ImportError: libfoo.so.1",
        "pip install --force-reinstall onnxruntime-gpu",
    ),
    "two packages": (
        replace(SERVER, packages={"onnxruntime": "1.30.0", "onnxruntime-gpu": "1.31.1"}),
        None,
        "onnxruntime 1.30.0 and onnxruntime-gpu 1.31.1 are both installed, and overwrite each other's files",
        "pip uninstall -y onnxruntime onnxruntime-gpu && pip install onnxruntime-gpu",
    ),
    "two packages for others' devices": (
        replace(LAPTOP, packages={"onnxruntime": "1.30.0", "onnxruntime-openvino": "1.30.0"}),
        None,
        "onnxruntime 1.30.0 and onnxruntime-openvino 1.30.0 are both installed",
        "pip uninstall -y onnxruntime onnxruntime-openvino && pip install onnxruntime",
    ),
    "no GPU, but wanted": (
        LAPTOP,
        "cuda",
        "--device cuda: there is no NVIDIA GPU",
        "give --device cpu, or use a machine that has one",
    ),
    "no GPU, but wanted for TensorRT": (
        LAPTOP,
        "tensorrt",
        "--device tensorrt: there is no NVIDIA GPU",
        "give --device cpu",
    ),
    "a card without a driver": (
        replace(LAPTOP, cards=1),
        None,
        "there is an NVIDIA card, and no driver",
        "install NVIDIA's driver (https://www.nvidia.com/drivers); start a container with --gpus all",
    ),
    "cards without a driver": (replace(LAPTOP, cards=8), "cuda", "there are 8 NVIDIA cards, and no driver", "install"),
    "hidden": (
        replace(SERVER, gpus=(), visible=""),
        None,
        "CUDA_VISIBLE_DEVICES='' hides every GPU",
        "unset CUDA_VISIBLE_DEVICES",
    ),
    "hidden by -1": (replace(SERVER, gpus=(), visible="-1"), "cuda", "CUDA_VISIBLE_DEVICES='-1' hides", "unset"),
    "another GPU is chosen than there is": (
        replace(SERVER, gpus=(), visible="7"),
        None,
        "NVIDIA's driver 580.95.05 finds no GPU (CUDA_VISIBLE_DEVICES='7')",
        "look at what `nvidia-smi` and `dmesg` say",
    ),
    "a driver without a GPU": (
        replace(SERVER, gpus=(), cards=0),
        None,
        "NVIDIA's driver 580.95.05 finds no GPU",
        "start a container with --gpus all",
    ),
    "no CUDA in it": (
        failing(
            SERVER, packages={"onnxruntime": "1.31.1"}, providers=("CPUExecutionProvider",), links={}, runtime_cuda=None
        ),
        None,
        "there is a GPU (NVIDIA H100), and the installed ONNX Runtime has no CUDA",
        "pip uninstall -y onnxruntime && pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "an old driver": (
        failing(SERVER, driver="550.54.15", driver_cuda=(12, 4)),
        None,
        "ONNX Runtime needs CUDA 13.0, and the driver 550.54.15 runs CUDA up to 12.4",
        "update the driver to 580 or newer, or an ONNX Runtime for an older CUDA: https://onnxruntime.ai/docs",
    ),
    "an old driver of an unknown version": (
        failing(SERVER, driver=None, driver_cuda=(12, 4)),
        None,
        "ONNX Runtime needs CUDA 13.0, and the driver runs CUDA up to 12.4",
        "update the driver",
    ),
    "an old GPU": (
        failing(SERVER, gpus=(H100, V100)),
        None,
        "Tesla V100 has compute capability 7.0, and CUDA 13 begins at 7.5",
        "use a newer GPU, or an ONNX Runtime for an older CUDA",
    ),
    "CUDA's libraries are missing": (
        failing(SERVER, torch_cuda=None, links={"cuda": "libcublasLt.so.13: cannot open shared object file"}),
        None,
        "libcublasLt.so.13 is missing, for ONNX Runtime on CUDA 13",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "CUDA's libraries are of another version": (
        failing(
            SERVER,
            torch_cuda=None,
            packages={"onnxruntime-gpu": "1.31.1", "nvidia-cublas-cu12": "12.8", "nvidia-cudnn-cu12": "9.10"},
            links={"cuda": "libcublasLt.so.13: cannot open shared object file"},
        ),
        None,
        "libcublasLt.so.13 is missing, for ONNX Runtime on CUDA 13; the libraries here are of CUDA 12",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "cuDNN is missing": (
        failing(SERVER, libraries={"libcudart.so.13": "/a"}),
        None,
        "cuDNN is missing, for ONNX Runtime on CUDA 13",
        "pip install 'onnxruntime-gpu[cuda,cudnn]'",
    ),
    "PyTorch brings another CUDA": (
        failing(SERVER, torch_cuda=(12, 8), links={"cuda": "libcublasLt.so.13: cannot open shared object file"}),
        None,
        "ONNX Runtime is built for CUDA 13.0 and PyTorch for 12.8: libcublasLt.so.13 is missing",
        "install PyTorch for CUDA 13 (https://pytorch.org/get-started/locally), or pip install 'onnxruntime-gpu",
    ),
    "PyTorch has another CUDA": (
        replace(SERVER, torch_cuda=(12, 8)),
        None,
        "ONNX Runtime is built for CUDA 13.0 and PyTorch for 12.8: a process that has both loads one's cuDNN for the",
        "install PyTorch for CUDA 13 (https://pytorch.org/get-started/locally)",
    ),
    "TensorRT's libraries are missing": (
        SERVER,
        "tensorrt",
        "libnvinfer.so.10 of TensorRT is missing",
        "pip install 'tensorrt-cu13==10.*', and put its folder tensorrt_libs on LD_LIBRARY_PATH",
    ),
    "no TensorRT in it": (
        replace(SERVER, providers=PROVIDERS[1:]),
        "tensorrt",
        "the installed ONNX Runtime has no TensorRT",
        "use --device cuda, or pip install onnxruntime-gpu",
    ),
    "something else": (
        failing(SERVER, "CUDA error 999: unknown"),
        None,
        "cuda: CUDA error 999: unknown",
        "compare what is installed with https://onnxruntime.ai/docs",
    ),
    "something else, with TensorRT": (
        replace(
            SERVER, links={"cuda": None, "tensorrt": None}, trials={"tensorrt": Trial(works=False, reason="no engine")}
        ),
        "tensorrt",
        "tensorrt: no engine",
        "compare",
    ),
    "even the CPU": (
        replace(LAPTOP, trials={"cpu": Trial(works=False, reason="its process ended with -4")}),
        None,
        "cpu: its process ended with -4",
        "compare",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_what_is_wrong(name: str) -> None:
    machine, device, what, remedy = CASES[name]
    (found,) = diagnose(machine, device)
    assert found.what.startswith(what)
    assert remedy in found.remedy
    assert "\n" not in found.what + found.remedy


@pytest.mark.parametrize(
    ("machine", "device", "says"),
    [
        (
            failing(SERVER, gpus=(V100,), driver="535.1", driver_cuda=(12, 2), links={"cuda": "libcudart.so.13: gone"}),
            None,
            ["ONNX Runtime needs CUDA 13.0", "Tesla V100", "libcudart.so.13 is missing"],
        ),
        (
            failing(
                replace(SERVER, packages={"onnxruntime": "1", "onnxruntime-gpu": "1"}),
                providers=("CPUExecutionProvider",),
                runtime_cuda=None,
            ),
            None,
            ["onnxruntime 1 and onnxruntime-gpu 1 are both", "there is a GPU (NVIDIA H100), and the installed"],
        ),
        (
            replace(SERVER, torch_cuda=(12, 8)),
            "tensorrt",
            ["ONNX Runtime is built for CUDA 13.0 and PyTorch for 12.8", "libnvinfer.so.10"],
        ),
    ],
)
def test_several_things_in_the_order_of_mending(machine: Machine, device: str | None, says: list[str]) -> None:
    found = diagnose(machine, device)
    assert len(found) == len(says)
    assert all(one.what.startswith(start) for one, start in zip(found, says, strict=True))


def test_a_gpu_that_nobody_wants_is_looked_at_all_the_same() -> None:
    machine = failing(SERVER, driver_cuda=(12, 4))
    assert works(machine, "cpu")
    assert [one.what[:30] for one in diagnose(machine, "cpu")] == ["ONNX Runtime needs CUDA 13.0, "]


@pytest.mark.parametrize("major", DRIVERS)
def test_a_newer_minor_version_is_no_trouble(major: int) -> None:
    """CUDA 13.1 runs on a driver for 13.0: minor version compatibility."""
    machine = replace(SERVER, runtime_cuda=(major, 9), driver_cuda=(major, 0), torch_cuda=None)
    assert diagnose(machine) == []


def test_a_newer_driver_is_no_trouble() -> None:
    assert diagnose(replace(SERVER, runtime_cuda=(12, 8), torch_cuda=(12, 8), gpus=(V100,))) == []


def test_other_devices_are_refused() -> None:
    with pytest.raises(UsageError, match="--device 'gpu'; there are cpu, cuda, tensorrt"):
        diagnose(SERVER, "gpu")


DOUBTS: list[Callable[[Machine], Machine]] = [
    lambda m: m,
    lambda m: replace(m, trials={}),
    lambda m: replace(m, links={}, libraries={}),
    lambda m: replace(m, providers=()),
    lambda m: replace(m, providers=None),
    lambda m: replace(m, packages={}),
    lambda m: replace(m, runtime_cuda=None, torch_cuda=None),
    lambda m: replace(m, driver=None, driver_cuda=None),
    lambda m: replace(m, gpus=(), cards=2, visible="0"),
]


@pytest.mark.parametrize("device", [None, *DEVICES])
@pytest.mark.parametrize("first", DOUBTS)
def test_who_cannot_run_graphs_is_told_why(first: Callable[[Machine], Machine], device: str | None) -> None:
    """Whatever is not known."""
    for second in DOUBTS:
        for machine in (LAPTOP, SERVER):
            doubtful = first(second(machine))
            found = diagnose(doubtful, device)
            assert all(one.what and one.remedy for one in found)
            assert found or works(doubtful, device or best_device(doubtful))
