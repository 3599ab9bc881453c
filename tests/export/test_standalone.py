"""An exported graph needs ONNX Runtime, and nothing of this project: the example of docs/deploy.md, on pictures."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from ensemble.lockfile import Committee
from ensemble.members import parse_members
from export.pipeline import export
from export.runtime import Session
from tests.export.conftest import order_of
from zoo.data import load_split

ROOT = Path(__file__).parents[2]
PICTURES = 30

AGAIN = """
import shutil, sys
sys.path[:] = [path for path in sys.path if path not in {{"", {root!r}}}]
for number in range({pictures}):
    shutil.copy(f"{{number}}.png", "cat.png")
    exec({example!r}, {{}})
assert not {{"zoo", "tta", "ensemble", "export", "torch", "onnx"}} & set(sys.modules), "nothing but ONNX Runtime"
"""
"""Runs the example on one picture after the other, in one process."""


@pytest.fixture(scope="module")
def example() -> str:
    """The program in the docs that needs none of our packages."""
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8"), re.DOTALL)
    (found,) = (block for block in blocks if "import onnxruntime" in block)
    return str(found)


def test_it_is_short(example: str) -> None:
    assert len([line for line in example.splitlines() if line]) <= 15
    assert set(re.findall(r"^(?:import|from) (\w+)", example, re.MULTILINE)) == {"json", "numpy", "onnxruntime", "PIL"}


@pytest.mark.usefixtures("traced_once")
def test_onnx_runtime_alone(example: str, place: Path) -> None:
    split = load_split("cifar10", "test").subset(slice(PICTURES))
    members = parse_members("fastnet-seed1")
    export(order_of(Committee(tuple(members)), member_probs=True), place / "model.onnx")
    for number, image in enumerate(split.images):
        Image.fromarray(image).save(place / f"{number}.png")
    code = AGAIN.format(root=str(ROOT), pictures=PICTURES, example=example)
    outside = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    words = [sys.executable, "-W", "error", "-c", code]
    done = subprocess.run(words, cwd=place, env=outside, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    said = Session(place / "model.onnx", device="cpu").answer(split.images)
    assert said.member_probs is not None
    wanted = []
    for probs, own in zip(said.probs, said.member_probs, strict=True):
        wanted.append(f"{split.classes[probs.argmax()]} {probs.max():.3f}")
        wanted += [f"{m.name} {split.classes[row.argmax()]}" for m, row in zip(members, own, strict=True)]
    assert done.stdout.splitlines() == wanted
    assert (said.probs.argmax(1) == split.labels).mean() > 0.8, "and it classifies"
