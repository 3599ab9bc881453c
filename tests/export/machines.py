"""Made-up machines."""

from dataclasses import replace
from typing import Any

from ensemble.latency.hardware import Hardware
from export.driver import Gpu
from export.machine import Machine, Trial

H100 = Gpu("NVIDIA H100", 79.1, (9, 0))
V100 = Gpu("Tesla V100", 15.8, (7, 0))
RUNS = Trial(works=True)
NO_DRIVER = "libcuda.so.1: cannot open shared object file"
NO_TENSORRT = "libnvinfer.so.10: cannot open shared object file"
PROVIDERS = ("TensorrtExecutionProvider", "CUDAExecutionProvider", "CPUExecutionProvider")

LAPTOP = Machine(
    python="3.13.1",
    hardware=Hardware("Some CPU", 4, 8.0, "Linux x86_64"),
    flags=frozenset(),
    packages={"onnxruntime-gpu": "1.31.1", "torch": "2.14.1+cu130", "nvidia-cudnn-cu13": "9.24.0.43"},
    gpus=(),
    cards=0,
    visible=None,
    driver=None,
    driver_cuda=None,
    runtime_cuda=(13, 0),
    torch_cuda=(13, 0),
    providers=PROVIDERS,
    broken=None,
    links={"cuda": NO_DRIVER, "tensorrt": NO_TENSORRT},
    libraries={"libcudart.so.13": "/a/libcudart.so.13", "libcudnn.so.9": "/a/libcudnn.so.9"},
    trials={
        "cpu": RUNS,
        "cuda": Trial(works=False, reason=NO_DRIVER),
        "tensorrt": Trial(works=False, reason=NO_TENSORRT),
    },
)
"""No GPU, and everything as it should be."""

SERVER = replace(
    LAPTOP,
    gpus=(H100,),
    cards=1,
    driver="580.95.05",
    driver_cuda=(13, 0),
    links={"cuda": None, "tensorrt": NO_TENSORRT},
    trials={"cpu": RUNS, "cuda": RUNS, "tensorrt": Trial(works=False, reason=NO_TENSORRT)},
)
"""A GPU, and everything as it should be; TensorRT is nobody's wish."""


def failing(machine: Machine, reason: str = "it does not", **changes: Any) -> Machine:  # noqa: ANN401  # fields
    """Return a machine on which CUDA does not run a graph."""
    return replace(machine, **{"trials": {"cpu": RUNS, "cuda": Trial(works=False, reason=reason)}, **changes})
