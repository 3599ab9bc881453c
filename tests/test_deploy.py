"""docs/deploy.md from top to bottom: its commands and programs run, in its order, on a tiny zoo."""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from ensemble.cascade.stages import Stage
from ensemble.lockfile import Committee, write_lockfile
from ensemble.members import parse_members
from zoo.entry import Entry

ROOT = Path(__file__).parent.parent
PAGE = (ROOT / "docs" / "deploy.md").read_text(encoding="utf-8")
PORT = "8000"
SERVE, RELOAD, STOP = "ensemble serve ", "kill -HUP ", "kill -TERM "
SHIM = "#!{python}\nimport sys\nsys.path.insert(0, {root!r})\nfrom {package}.cli import main\nmain()\n"


def steps() -> Iterator[tuple[str, str]]:
    """Yield what the page shows, in its order: ("shell", a command) or ("python", a program)."""
    for block, command in re.findall(r"^```python\n(.*?)^```|^ {4}(\S[^\n]*)$", PAGE, re.MULTILINE | re.DOTALL):
        yield ("python", block) if block else ("shell", command)


class Reader:
    """Somebody who does what the page says, in a folder with an ensemble.json, a cascade.json and a picture."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.server = folder, None
        programs = folder / "bin"
        programs.mkdir()
        for package in ("zoo", "ensemble"):
            shim = programs / package
            shim.write_text(SHIM.format(python=sys.executable, root=str(ROOT), package=package))
            shim.chmod(0o755)
        self.environment = {
            **os.environ,
            "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}",
            "PYTHONPATH": str(ROOT),
            "PYTHONUNBUFFERED": "1",
            "TORCHDYNAMO_DISABLE": "1",  # compiling takes half a minute, and has tests of its own
        }
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = str(free.getsockname()[1])

    server: subprocess.Popen[str] | None

    def follow(self, kind: str, text: str) -> str:
        """Do a step, and return what it prints; another port takes the page's place."""
        text = text.replace(f":{PORT}", f":{self.port}").replace(f"--port {PORT}", f"--port {self.port}")
        if kind == "python":
            return self.run([sys.executable, "-c", text])
        if text.startswith(SERVE):
            words = ["bash", "-c", f"exec {text}"]
            self.server = subprocess.Popen(
                words,
                cwd=self.folder,
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
            )
            assert self.server.stdout is not None
            said = self.server.stdout.readline()
            assert f"http://127.0.0.1:{self.port}" in said
            return said
        said = self.run(["bash", "-c", text])
        if text.startswith(RELOAD):
            assert self.server is not None
            assert self.server.stdout is not None
            return self.server.stdout.readline()
        if text.startswith(STOP):
            assert self.server is not None
            with self.server as server:  # closes its pipe
                assert server.wait(60) == 0
            assert not (self.folder / "server.pid").exists()
        return said

    def run(self, words: list[str]) -> str:
        done = subprocess.run(words, cwd=self.folder, env=self.environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, (words, done.stdout, done.stderr)
        return done.stdout


@pytest.fixture
def reader(tmp_path: Path, zoo_home: Path, make_entry: Callable[..., Entry]) -> Iterator[Reader]:
    from PIL import Image

    names = ("tiny-a", "tiny-b")
    for seed, name in enumerate(names):
        make_entry(zoo_home / "entries", name, seed=seed)
    committee = Committee(tuple(parse_members("tiny-a,tiny-b=2")), "flip")
    write_lockfile(tmp_path / "ensemble.json", committee, fitted_on=None, metrics={})
    stages = (Stage(names[:1], "none", 1.0, 0.105), Stage(names, "flip", 1.0, 0.0))
    cascade = Committee(committee.members, "flip", cascade=stages)
    write_lockfile(tmp_path / "cascade.json", cascade, fitted_on=None, metrics={})
    pixels = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    reader = Reader(tmp_path)
    yield reader
    if reader.server is not None:
        with reader.server as server:  # closes its pipe, and waits
            server.kill()


@pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")
def test_the_page_from_top_to_bottom(reader: Reader) -> None:
    printed: list[tuple[str, str]] = []
    for kind, text in steps():
        if text.startswith("docker "):
            break
        printed.append((text, reader.follow(kind, text)))
    said = "".join(output for _, output in printed)
    assert said.count("parity with PyTorch in fp32, 10,000 images of the test split") == 4
    assert "(2, 10)" in said, "what tritonclient got"
    assert [output for text, output in printed if text.startswith(RELOAD)] == ["model.onnx is rolled in\n"]
    pictures = [json.loads(output) for text, output in printed if text.endswith("/classify")]
    assert [len(answer["members"]) for answer in pictures] == [2, 1], "the cascade was sure at once"
    (described,) = [output for text, output in printed if text.endswith("/v2/models/model")]
    assert json.loads(described)["inputs"] == [{"name": "images", "datatype": "UINT8", "shape": [-1, 32, 32, 3]}]
    assert (reader.folder / "repository" / "committee" / "1" / "model.onnx").is_file()


def test_the_page_has_what_it_promises() -> None:
    found = [text for _, text in steps()]
    assert len(found) > 12
    (docker,) = [text for text in found if text.startswith("docker ")]
    assert '"$PWD/repository:/models"' in docker
    assert docker.endswith("tritonserver --model-repository /models")
    plain = [text for kind, text in steps() if kind == "python" and "menagerie.ensemble" in text]
    (program,) = plain
    assert len(program.strip().splitlines()) <= 16
    assert not re.search(r"import (zoo|ensemble|export)|from (zoo|ensemble|export)", program)
