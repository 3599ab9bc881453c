"""`ensemble doctor`, as a person or a program meets it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

import onnx
import onnxruntime
import pytest

from export import machine
from export.machine import Machine
from tests.export.machines import H100, LAPTOP, SERVER, failing

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome

Cli = Callable[..., "Outcome"]

NO_BF16 = "ONNX Runtime computes no bf16 on x86 CPUs: int8 is its fast precision here"


@pytest.fixture
def found(monkeypatch: pytest.MonkeyPatch) -> Callable[[Machine], None]:
    """A function that makes this machine another."""
    return lambda made: monkeypatch.setattr(machine, "look", lambda: made)


def test_a_laptop(cli: Cli, found: Callable[[Machine], None]) -> None:
    found(replace(LAPTOP, flags=frozenset({"avx512_vnni"})))
    done = cli("doctor")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == "python      3.13.1, Linux x86_64"
    assert "packages    onnxruntime-gpu 1.31.1, torch 2.14.1+cu130" in lines
    assert "processor   Some CPU, 4 cores (8 processors to use), Linux x86_64" in lines
    assert "            faster than in fp32: int8 (AVX-512 VNNI)" in lines
    assert "GPU         none" in lines
    assert "CUDA        ONNX Runtime is built for 13.0, PyTorch for 13.0" in lines
    assert "            nvidia-cudnn-cu13 9.24.0.43" in lines
    assert "            libcudnn.so.9  /a/libcudnn.so.9" in lines
    assert "cpu         runs graphs" in lines
    assert "cuda        runs no graphs: libcuda.so.1: cannot open shared object file" in lines
    assert lines[-2:] == ["", "graphs run on cpu"]


@pytest.mark.parametrize(
    ("flags", "line"),
    [
        (set(), "nothing that it tells of"),
        ({"avx_vnni"}, "int8 (AVX VNNI)"),
        (
            {"avx512_vnni", "avx512_bf16"},
            f"int8 (AVX-512 VNNI), bf16 (AVX-512); {NO_BF16}",
        ),
        (
            {"amx_int8", "amx_bf16"},
            f"int8 (AMX), bf16 (AMX); {NO_BF16}",
        ),
        (
            {"i8mm", "bf16"},
            "int8 (I8MM), bf16 (Arm); ONNX Runtime multiplies the matrices of fp32 graphs in bf16 here",
        ),
    ],
)
def test_what_is_fast_and_what_onnx_runtime_makes_of_it(
    cli: Cli, found: Callable[[Machine], None], flags: set[str], line: str
) -> None:
    found(replace(LAPTOP, flags=frozenset(flags)))
    assert f"            faster than in fp32: {line}" in cli("doctor").out.splitlines()


@pytest.mark.skipif(not sys.platform.startswith("linux") or os.uname().machine != "x86_64", reason="of x86")
def test_onnx_runtime_computes_no_bf16_on_x86() -> None:
    """If it does one day, `doctor` says something wrong."""
    matrix = [onnx.helper.make_tensor_value_info(name, onnx.TensorProto.BFLOAT16, [4, 4]) for name in "abc"]
    product = onnx.helper.make_node("MatMul", ["a", "b"], ["c"])
    made = onnx.helper.make_model(
        onnx.helper.make_graph([product], "g", matrix[:2], matrix[2:]),
        opset_imports=[onnx.helper.make_opsetid("", 18)],
        ir_version=9,
    )
    with pytest.raises(onnxruntime.capi.onnxruntime_pybind11_state.NotImplemented, match="MatMul"):
        onnxruntime.InferenceSession(made.SerializeToString(), providers=["CPUExecutionProvider"])


def test_a_server(cli: Cli, found: Callable[[Machine], None]) -> None:
    found(replace(SERVER, gpus=(H100, H100), providers=(*(SERVER.providers or ()), "DmlExecutionProvider")))
    lines = cli("doctor").out.splitlines()
    assert "GPU 1       NVIDIA H100, 79 GiB, compute capability 9.0" in lines
    assert "driver      580.95.05, for CUDA up to 13.0" in lines
    assert "cuda        runs graphs" in lines
    assert "providers   built in, and not used: DmlExecutionProvider" in lines
    assert lines[-1] == "graphs run on cuda"


@pytest.mark.parametrize(
    ("made", "words", "code", "end"),
    [
        (LAPTOP, ("--device", "cuda"), 1, "graphs do not run on cuda"),
        (failing(SERVER, "it crashed"), (), 1, "graphs do not run on cuda"),
        (failing(SERVER, "it crashed"), ("--device", "cpu"), 0, "graphs run on cpu"),
        (replace(SERVER, torch_cuda=(12, 8)), (), 0, "graphs run on cuda"),
        (SERVER, ("--device", "tensorrt"), 1, "graphs do not run on tensorrt"),
    ],
)
def test_the_exit_code_is_about_the_device(
    cli: Cli, found: Callable[[Machine], None], made: Machine, words: tuple[str, ...], code: int, end: str
) -> None:
    found(made)
    done = cli("doctor", *words)
    assert (done.code, done.out.splitlines()[-1], done.err) == (code, end, "")
    table = json.loads(cli("doctor", *words, "--json").out)
    assert table["works"] is (code == 0)
    assert f"on {table['device']}" in end


def test_what_is_wrong_and_what_to_do(cli: Cli, found: Callable[[Machine], None]) -> None:
    found(failing(SERVER, driver="550.54.15", driver_cuda=(12, 4), libraries={}))
    lines = cli("doctor").out.splitlines()
    start = lines.index("what is wrong:")
    assert [line[:30] for line in lines[start + 1 :]] == [
        "- ONNX Runtime needs CUDA 13.0",
        "  update the driver to 580 or ",
        "- cuDNN is missing, for ONNX R",
        "  pip install 'onnxruntime-gpu",
        "graphs do not run on cuda",
    ]
    table = json.loads(cli("doctor", "--json").out)
    assert [set(one) for one in table["wrong"]] == [{"what", "remedy"}] * 2
    assert table["driver_cuda"] == [12, 4]
    assert table["trials"]["cuda"] == {"works": False, "reason": "it does not"}
    assert table["gpus"] == [{"name": "NVIDIA H100", "memory": 79.1, "capability": [9, 0]}]
    assert {"python", "hardware", "packages", "providers", "fast", "links", "libraries"} <= set(table)


def test_nothing_installed(cli: Cli, found: Callable[[Machine], None]) -> None:
    nothing: dict[str, str] = {}
    trials = dict.fromkeys(("cpu", "cuda"), machine.Trial(works=False))
    gone = replace(LAPTOP, packages=nothing, libraries=nothing, trials=trials, runtime_cuda=None, torch_cuda=None)
    found(replace(gone, providers=None, broken="ModuleNotFoundError: x"))
    done = cli("doctor")
    assert done.code == 1
    assert "cpu         runs no graphs: ModuleNotFoundError: x" in done.out
    assert "ONNX Runtime is built for none, PyTorch for none" in done.out
    assert "- ONNX Runtime is not installed\n  pip install onnxruntime\n" in done.out


def test_what_others_wrote_is_printed_harmlessly(cli: Cli, found: Callable[[Machine], None]) -> None:
    found(failing(SERVER, "\x1b[31mred\nand more"))
    assert "\x1b" not in cli("doctor").out


def test_another_device(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "look", lambda: pytest.fail("looking takes seconds"))
    done = cli("doctor", "--device", "gpu")
    assert (done.code, done.error) == (2, "--device 'gpu'; there are cpu, cuda, tensorrt")


def test_this_machine_without_a_word_beside() -> None:
    """Not even of what C++ prints when a provider fails to load."""
    program = "import sys; from ensemble.cli import main; main()"
    words = [sys.executable, "-c", program, "doctor", "--device", "cpu", "--json"]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    table = json.loads(done.stdout)
    assert table["trials"]["cpu"] == {"works": True, "reason": None}
    assert table["hardware"]["cores"] >= 1


def test_looking_needs_neither_pytorch_nor_onnx_runtime_in_this_process() -> None:
    program = (
        "import sys; from export.machine import look; look(); "
        "sys.exit(' '.join({'torch', 'onnx', 'onnxruntime', 'ray'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
