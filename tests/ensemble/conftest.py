"""A tiny zoo beside its data, and the `ensemble` command in this process."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from ensemble.evaluate import SplitSource
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from ensemble.merge import Merge
from tests.conftest import CLASSES
from zoo.data import Split, load_training
from zoo.entry import Entry
from zoo.files import write_sums

REPORT_KEYS = [
    "dataset",
    "split",
    "images",
    "views",
    "merge",
    "source",
    "device",
    "precision",
    "seconds",
    "members",
    "ensemble",
]
"""Keys of `ensemble eval --json`, in their order."""


@dataclass(frozen=True)
class Zoo:
    """Entries `tiny-a`, `tiny-b` and `tiny-c` in a source folder, and the data their predictions are for."""

    source: Path
    data: Path
    split: Split

    def entry(self, name: str) -> Entry:
        return Entry(name, self.source / name, str(self.source))

    def split_source(self, name: str = "test") -> SplitSource:
        return SplitSource("cifar10", name, self.data)

    def committee(
        self, members: str = "tiny-a,tiny-b", views: str = "flip", merge: Merge = "probs", temperature: float = 1.0
    ) -> Committee:
        return Committee(tuple(parse_members(members)), views, merge, temperature)

    def logits(self, name: str, view: str = "none") -> npt.NDArray[np.float64]:
        """Stored logits in the split's own order."""
        rows = np.empty((len(self.split), 10))
        rows[self.split.order] = self.entry(name).predictions().splits["test"].views[view]
        return rows


@dataclass(frozen=True)
class Outcome:
    """What a command did."""

    code: int
    out: str
    err: str

    @property
    def error(self) -> str:
        """The one line on stderr, after checking that it is one."""
        assert self.err.startswith("error: ")
        assert self.err.count("\n") == 1
        assert self.err.endswith("\n")
        assert "Traceback" not in self.err
        return self.err.removeprefix("error: ").rstrip("\n")


def pictures(images: int, seed: int) -> Split:
    """Noise over a colour of its own for each image, so that untrained networks tell images apart."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 256, (images, 1, 1, 3))
    noise = rng.integers(-60, 61, (images, 32, 32, 3))
    ramp = np.linspace(-60, 60, 32)[:, None] * rng.choice([-1, 1], (images, 1, 1, 1))  # tells left from right
    pixels = np.clip(colour + noise + ramp, 0, 255).astype(np.uint8)
    return Split(pixels, rng.permutation(np.arange(images) % 10).astype(np.int64), CLASSES)


def write_mosaics(folder: Path, splits: dict[str, Split], classes: tuple[str, ...] = CLASSES) -> None:
    """Write splits as a mosaic folder, as README and DESIGN describe it: 100 images a row, lossless webp."""
    folder.mkdir(parents=True)
    table = {}
    for name, split in splits.items():
        size = split.images.shape[1]
        sheet = np.zeros((-(-len(split) // 100) * size, 100 * size, 3), np.uint8)
        for i, image in enumerate(split.images):
            y, x = i // 100 * size, i % 100 * size
            sheet[y : y + size, x : x + size] = image
        Image.fromarray(sheet).save(folder / f"{name}.webp", lossless=True, quality=0, method=0)
        labels = split.labels.astype(np.uint8).tobytes()
        (folder / f"{name}.labels").write_bytes(labels)
        table[name] = {
            "images": len(split),
            "pixels_sha256": hashlib.sha256(split.images.tobytes()).hexdigest(),
            "labels_sha256": hashlib.sha256(labels).hexdigest(),
        }
    (folder / "index.json").write_text(json.dumps({"classes": classes, "splits": table}), encoding="utf-8")


@pytest.fixture(scope="session")
def _master(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("master")


@pytest.fixture(scope="session")
def test_split() -> Split:
    return pictures(60, seed=1)


@pytest.fixture
def zoo(
    _master: Path, tmp_path: Path, test_split: Split, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> Zoo:
    """A tiny zoo of one's own to break, set as `ZOO_SOURCE`; made once, then copied."""
    if not (_master / "data").exists():
        write_mosaics(_master / "data", {"test": test_split, "train-1": pictures(100, seed=2)})
        splits = {"test": test_split, "val": load_training("cifar10", _master / "data")[1]}
        for seed, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
            make_entry(_master / "source", name, splits=splits, seed=seed)
    shutil.copytree(_master / "source", tmp_path / "source")
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "source"))
    return Zoo(tmp_path / "source", _master / "data", test_split)


@pytest.fixture
def reseal() -> Callable[[Path], None]:
    """A function that gives an entry's folder the sums of the files that lie in it now."""

    def seal(folder: Path) -> None:
        (folder / "SHA256SUMS").unlink()
        write_sums(folder)

    return seal


@pytest.fixture
def cli(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """A function that runs `ensemble` with these words."""

    def call(*words: object) -> Outcome:
        from ensemble.cli import group
        from zoo.cli.group import run

        capsys.readouterr()
        code = run(group, [str(word) for word in words])
        captured = capsys.readouterr()
        return Outcome(code, captured.out, captured.err)

    return call


@pytest.fixture
def loads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of the deserialisers that ran: safetensors', torch's (which maps weights) and pickle's."""
    import pickle

    import safetensors.numpy
    import safetensors.torch
    import torch

    ran: list[str] = []

    def spy(module: object, attribute: str) -> None:
        original = getattr(module, attribute)

        def wrapped(*args: object, **kwargs: object) -> object:
            ran.append(f"{module.__name__}.{attribute}")  # type: ignore[attr-defined]
            return original(*args, **kwargs)

        monkeypatch.setattr(module, attribute, wrapped)

    for module in (safetensors.numpy, safetensors.torch):
        spy(module, "load")
        spy(module, "load_file")
    for attribute in ("load", "frombuffer"):
        spy(torch, attribute)
    spy(pickle, "load")
    spy(pickle, "loads")
    return ran


def _flip(path: Path, where: float) -> None:
    content = bytearray(path.read_bytes())
    content[int(where * len(content))] ^= 1
    path.write_bytes(content)


def _cut(path: Path, keep: float) -> None:
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])


DAMAGES: dict[str, Callable[[Path], object]] = {
    "bit flipped in the header": lambda path: _flip(path, 0.001),
    "bit flipped in the middle": lambda path: _flip(path, 0.5),
    "bit flipped at the end": lambda path: _flip(path, 0.9999),
    "cut in half": lambda path: _cut(path, 0.5),
    "one byte short": lambda path: _cut(path, 0.99999),
    "empty": lambda path: _cut(path, 0),
    "a byte longer": lambda path: path.write_bytes(path.read_bytes() + b"\0"),
    "missing": lambda path: path.unlink(),
}
"""Ways to damage a file: `DAMAGES["empty"](path)`."""


@pytest.fixture
def tear() -> dict[str, Callable[[Path], object]]:
    """Return `DAMAGES`, for tests that need some of them."""
    return DAMAGES
