"""Trying ONNX Runtime in a process of its own: its libraries may print what nobody asked for, or end the process."""

import ctypes
import json
import os
import re
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

__all__ = ["apart", "run_trial", "runtime"]

_LIBRARIES = re.compile(
    r"(/\S*/lib(?:cudart|cublas|cublasLt|cudnn|cufft|curand|nvrtc|nvinfer|nvonnxparser|cuda)\.so\S*)$"
)
_PATIENCE = 300
"""Seconds; TensorRT builds an engine."""

_PROGRAM = """
import json
import pathlib
import sys
from export import trial

function, *arguments = sys.argv[2:]
pathlib.Path(sys.argv[1]).write_text(json.dumps(getattr(trial, function)(*arguments)))
"""


def apart(function: str, *arguments: str) -> dict[str, Any]:
    """Return what a function of this module returns in a process of its own, or `reason`: why it returned nothing."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "said.json"
        known = {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "ZOO_HOME": folder}
        try:
            done = subprocess.run(  # noqa: S603  # ourselves
                [sys.executable, "-c", _PROGRAM, str(path), function, *arguments],
                env={**os.environ, **known},
                capture_output=True,
                timeout=_PATIENCE,
                check=False,
            )
        except subprocess.TimeoutExpired:
            return {"reason": f"it did not end within {_PATIENCE} s"}
        if done.returncode == 0:
            return dict(json.loads(path.read_text(encoding="utf-8")))
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        crashed = done.returncode < 0 or not lines  # by a signal: what it printed before is about something else
        return {"reason": f"its process ended with {done.returncode}" if crashed else lines[-1].strip()}


def runtime() -> dict[str, Any]:
    """Return what ONNX Runtime says of itself, what its providers lack, and which libraries they find."""
    import onnxruntime  # noqa: PLC0415  # in this process alone

    onnxruntime.preload_dlls()
    folder = Path(onnxruntime.__file__).parent / "capi"
    links: dict[str, str | None] = {}
    for name in ("shared", "cuda", "tensorrt"):
        file = folder / f"libonnxruntime_providers_{name}.so"
        if file.exists():
            try:
                ctypes.CDLL(str(file), ctypes.RTLD_GLOBAL)
                links[name] = None
            except OSError as error:
                links[name] = str(error).removesuffix(": No such file or directory")
    links.pop("shared", None)
    maps = Path("/proc/self/maps")
    lines = maps.read_text(encoding="utf-8").splitlines() if maps.exists() else []  # of Linux
    found = (_LIBRARIES.search(line) for line in lines)
    return {
        "cuda": onnxruntime.cuda_version,
        "providers": onnxruntime.get_available_providers(),
        "links": links,
        "libraries": {Path(one[1]).name: one[1] for one in found if one},
    }


def run_trial(device: str) -> dict[str, Any]:
    """Run a tiny graph on a device, in a session as any graph's; return `works`, and `reason` if it does not."""
    import numpy as np  # noqa: PLC0415  # as above
    import onnx  # noqa: PLC0415
    from onnx import parser  # noqa: PLC0415

    from export.metadata import About, metadata_props  # noqa: PLC0415
    from export.runtime.providers import WHAT_TO_DO  # noqa: PLC0415
    from export.runtime.session import Session  # noqa: PLC0415
    from zoo.errors import MenagerieError  # noqa: PLC0415

    model = parser.parse_model(_TINY)
    lockfile = {"members": [{"name": "tiny"}], "classes": ["a", "b"], "views": "none", "merge": "probs"}
    for key, value in metadata_props(About(lockfile, "fp32", 18)).items():
        model.metadata_props.add(key=key, value=value)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "tiny.onnx"
        onnx.save_model(model, str(path))
        try:
            probs = Session(path, device=device).run(np.zeros((2, 8, 8, 3), np.uint8))
        except MenagerieError as error:
            return {"works": False, "reason": str(error).removeprefix(f"{path} ").removesuffix(f": {WHAT_TO_DO}")}
    right = np.allclose(probs, [[0.5, 0.5]] * 2)
    return {"works": bool(right), "reason": None if right else f"it answers {probs.tolist()}, not halves"}


_TINY = """
<ir_version: 9, opset_import: ["" : 18]>
tiny (uint8[batch, 8, 8, 3] images) => (float[batch, 2] probs)
<float[2, 3, 1, 1] weight = {1, 1, 1, 1, 1, 1}>
{
    pixels = Cast<to = 1>(images)
    planes = Transpose<perm = [0, 3, 1, 2]>(pixels)
    maps = Conv(planes, weight)
    means = GlobalAveragePool(maps)
    logits = Flatten(means)
    probs = Softmax<axis = 1>(logits)
}
"""
