"""ONNX Runtime in a process of its own."""

import json
import os
import sys
from pathlib import Path

import numpy as np
import pytest

from export import trial as module
from export.runtime.session import Session
from export.trial import apart, run_trial, runtime


def test_a_graph_runs_on_the_cpu() -> None:
    assert run_trial("cpu") == {"works": True, "reason": None}


def test_wrong_answers_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Session, "run", lambda *_: np.array([[0, 1], [0.5, 0.5]]))
    assert run_trial("cpu") == {"works": False, "reason": "it answers [[0.0, 1.0], [0.5, 0.5]], not halves"}


def test_why_a_graph_does_not_run_is_the_reason_alone() -> None:
    """Without the file's name, and without the advice to call the doctor."""
    found = run_trial("tpu")
    assert found == {"works": False, "reason": "unknown device 'tpu'; there are cpu, cuda, tensorrt"}


def test_what_a_session_says_of_its_file_is_cut(monkeypatch: pytest.MonkeyPatch) -> None:
    from export.runtime.providers import WHAT_TO_DO
    from zoo.errors import UsageError

    def refuses(path: Path, *, device: str) -> None:
        raise UsageError(f"{path} cannot run on {device}: CUDA error 35: {WHAT_TO_DO}")

    monkeypatch.setattr("export.runtime.session.Session", refuses)
    assert run_trial("cuda")["reason"] == "cannot run on cuda: CUDA error 35"


def test_what_it_says_of_itself(capfd: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, where it may load what it likes."""
    import onnxruntime

    found = apart("runtime")
    assert found["providers"] == onnxruntime.get_available_providers()
    assert found["cuda"] == onnxruntime.cuda_version
    assert all(Path(path).is_file() and Path(path).name == name for name, path in found["libraries"].items())
    assert set(found["links"]) <= {"cuda", "tensorrt"}
    assert capfd.readouterr() == ("", "")


def run_in_it(monkeypatch: pytest.MonkeyPatch, *lines: str) -> None:
    """Let the process run these lines."""
    monkeypatch.setattr(module, "_PROGRAM", "import json, os, sys\n" + "\n".join(lines))


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("os.abort()", "its process ended with -6"),
        ("print('about something else', file=sys.stderr, flush=True); os.abort()", "its process ended with -6"),
        ("os._exit(3)", "its process ended with 3"),
        ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
        ("raise OSError('libfoo.so.1 is gone')", "OSError: libfoo.so.1 is gone"),
    ],
)
def test_a_process_that_dies(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], line: str, reason: str
) -> None:
    run_in_it(monkeypatch, line)
    assert apart("runtime") == {"reason": reason}
    assert capfd.readouterr() == ("", "")


def test_a_process_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    run_in_it(monkeypatch, "import time", "time.sleep(60)")
    monkeypatch.setattr(module, "_PATIENCE", 0.2)
    assert apart("runtime") == {"reason": "it did not end within 0.2 s"}


def test_a_process_that_prints(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    """As C++ does, past whatever Python has redirected."""
    run_in_it(
        monkeypatch,
        "os.write(1, b'loading'); os.write(2, b'[E:onnxruntime] failed')",
        "json.dump({'arguments': sys.argv[2:], 'home': os.environ['ZOO_HOME']}, open(sys.argv[1], 'w'))",
    )
    found = apart("run_trial", "cpu")
    assert found["arguments"] == ["run_trial", "cpu"]
    assert found["home"] != os.environ["ZOO_HOME"], "engines of a tiny graph are nothing to keep"
    assert capfd.readouterr() == ("", "")


def test_it_finds_this_package_wherever_one_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.syspath_prepend(str(Path(module.__file__).parent.parent))
    monkeypatch.chdir(tmp_path)
    run_in_it(monkeypatch, "import export", "json.dump({'at': export.__file__}, open(sys.argv[1], 'w'))")
    assert apart("runtime") == {"at": str(Path(module.__file__).with_name("__init__.py"))}
    assert sys.executable


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the linker's words are those of Linux")
def test_a_library_that_is_missing(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import onnxruntime

    (tmp_path / "capi").mkdir()
    (tmp_path / "capi" / "libonnxruntime_providers_cuda.so").write_bytes(b"no library")
    monkeypatch.setattr(onnxruntime, "preload_dlls", lambda: None)
    monkeypatch.setattr(onnxruntime, "__file__", str(tmp_path / "__init__.py"))
    found = runtime()
    assert set(found["links"]) == {"cuda"}
    assert "file too short" in found["links"]["cuda"] or "invalid ELF header" in found["links"]["cuda"]
    assert json.dumps(found)
