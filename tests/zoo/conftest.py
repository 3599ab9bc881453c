"""Fixtures of the zoo's tests: a package of one's own, entries that need no torch, mosaics, a disk that is full."""

import dataclasses
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import save

from tests.conftest import CLASSES, random_split
from tests.zoo.sources.buckets import Client, ask
from zoo import cli as zoo_cli
from zoo import places
from zoo.card import Card
from zoo.cli.group import run
from zoo.data import Split
from zoo.entry import Entry, write_entry
from zoo.origins import Origin, write_origin
from zoo.predictions import PUBLISHED_VIEWS, Predictions, SplitPredictions

if TYPE_CHECKING:
    import torch

COLUMNS = 100
WEIGHTS = save({"head.weight": np.arange(6, dtype=np.float16)}, metadata={"format": "pt"})
"""A well-formed safetensors file, enough for whatever does not build the network."""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the zoo's package be an empty folder, so that nothing is builtin and there is no checkout."""
    folder = tmp_path / "checkout" / "zoo"
    folder.mkdir(parents=True)
    monkeypatch.setattr(places, "_PACKAGE", folder)
    return folder


@dataclass(frozen=True)
class Outcome:
    """What a command did: its exit code, stdout and stderr."""

    code: int
    out: str
    err: str


@pytest.fixture
def command(capsys: pytest.CaptureFixture[str]) -> Callable[..., Outcome]:
    """Return a function that runs `zoo` with some arguments."""

    def call(*arguments: str | Path) -> Outcome:
        capsys.readouterr()
        code = run(zoo_cli.group, [str(a) for a in arguments])
        out, err = capsys.readouterr()
        return Outcome(code, out, err)

    return call


def sample_card(name: str = "sample", **changes: Any) -> Card:  # noqa: ANN401  # fields of the card
    fields: dict[str, Any] = {
        "name": name,
        "architecture": "fastnet",
        "dataset": "cifar10",
        "classes": CLASSES,
        "mean": (0.5, 0.4, 0.3),
        "std": (0.25, 0.2, 0.1),
        "input_size": (32, 32),
    }
    return Card(**(fields | changes))


def file_entry(
    folder: Path,
    name: str,
    *,
    weights: bytes = WEIGHTS,
    predictions: Predictions | None = None,
    **changes: Any,  # noqa: ANN401  # fields of the card
) -> Entry:
    """File an entry whose weights are no network's."""
    return write_entry(folder / name, sample_card(name, **changes), weights, predictions)


def sample_predictions(images: int = 4) -> Predictions:
    """Return predictions of noise on both splits, for `sample_card`."""
    rng = np.random.default_rng(0)

    def split(mark: str) -> SplitPredictions:
        views = {view: rng.normal(size=(images, len(CLASSES))).astype(np.float16) for view in PUBLISHED_VIEWS}
        return SplitPredictions(views, np.arange(images) % len(CLASSES), mark)

    return Predictions({"val": split("1"), "test": split("2")})


def in_part(entry: Entry, zoo_home: Path) -> Entry:
    """Return an entry as `zoo pull --predictions-only` files it in the cache; its weights are still to be deleted."""
    folder = shutil.copytree(entry.folder, zoo_home / "entries" / entry.name)
    write_origin(entry.name, Origin("far://away", entry.publication, "predictions"))
    return Entry(entry.name, folder, "cache")


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder that is a source of `a-seed1`, `a-seed2` and `b-seed1`."""
    folder = tmp_path / "shelf"
    for name in ("a-seed1", "a-seed2", "b-seed1"):
        file_entry(folder, name)
    monkeypatch.setenv("ZOO_SOURCE", str(folder))
    return folder


def refresh_sums(folder: Path) -> None:
    """Write `SHA256SUMS` anew, as one who tampers with an entry would."""
    files = sorted(p for p in folder.iterdir() if p.name != "SHA256SUMS")
    lines = [f"{hashlib.sha256(p.read_bytes()).hexdigest()}  {p.name}\n" for p in files]
    (folder / "SHA256SUMS").write_text("".join(lines))


def flip_bit(path: Path, position: int, bit: int = 0) -> None:
    content = bytearray(path.read_bytes())
    content[position] ^= 1 << bit
    path.write_bytes(content)


def listing(folder: Path) -> dict[str, bytes]:
    """Return the content of every file below a folder, hidden ones as well."""
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def sheet_of(split: Split) -> np.ndarray[tuple[int, ...], np.dtype[np.uint8]]:
    """Lay out images 100 a row, one after the other; what is left of the last row stays black."""
    count, height, width, _ = split.images.shape
    sheet = np.zeros((-(-count // COLUMNS) * height, COLUMNS * width, 3), np.uint8)
    for i, image in enumerate(split.images):
        top, left = i // COLUMNS * height, i % COLUMNS * width
        sheet[top : top + height, left : left + width] = image
    return sheet


def write_mosaic(folder: Path, splits: Mapping[str, Split]) -> Path:
    """Write splits as a mosaic folder, with Pillow."""
    folder.mkdir(parents=True, exist_ok=True)
    index: dict[str, Any] = {"classes": next(iter(splits.values())).classes, "splits": {}}
    for name, split in splits.items():
        Image.fromarray(sheet_of(split)).save(folder / f"{name}.webp", lossless=True, method=0)
        labels = split.labels.astype(np.uint8).tobytes()
        (folder / f"{name}.labels").write_bytes(labels)
        index["splits"][name] = {
            "images": len(split),
            "pixels_sha256": hashlib.sha256(split.images.tobytes()).hexdigest(),
            "labels_sha256": hashlib.sha256(labels).hexdigest(),
        }
    (folder / "index.json").write_text(json.dumps(index))
    return folder


@pytest.fixture(scope="module")
def moto() -> Iterator[str]:
    """Run moto's server, and return its endpoint."""
    from moto.server import ThreadedMotoServer

    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    yield f"http://127.0.0.1:{server.get_host_and_port()[1]}"
    server.stop()


@pytest.fixture(scope="module")
def client(moto: str) -> Iterator[Client]:
    """Return the independent client that holds ours to account."""
    import boto3

    keys = {"aws_access_key_id": "bob", "aws_secret_access_key": "bob"}
    found = boto3.client("s3", "us-east-1", endpoint_url=moto, **keys)
    yield found
    found.close()


@pytest.fixture
def bucket(moto: str, client: Client, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Set the usual environment for a fresh account with an empty bucket `zoo`."""
    for variable in [v for v in os.environ if v.startswith("AWS_") or v.lower().endswith("_proxy")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("AWS_ENDPOINT_URL", moto)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ann")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "no-config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "no-credentials"))
    ask(f"{moto}/moto-api/reset")
    client.create_bucket(Bucket="zoo")


LIMIT = 8000
"""Bytes of a shard of the network below."""


def again(entry: Entry) -> Entry:
    """Return the entry as a new process sees it."""
    return Entry(entry.name, entry.folder, entry.source)


@pytest.fixture
def net() -> "torch.nn.Module":
    import torch

    from zoo.archs import create

    torch.manual_seed(1)
    return create("fastnet", 10, widths=[8, 8, 8])


@pytest.fixture
def make(tmp_path: Path, make_entry: Callable[..., Entry], net: "torch.nn.Module") -> Callable[..., Entry]:
    """Return a function that files the network: `make("name", torch.float32, limit=8000)`."""
    from zoo.checkpoint import cast, encode
    from zoo.shards import cut_to_files

    card = make_entry(tmp_path, "base", splits={"test": random_split(5)}).card

    def file(name: str, dtype: "torch.dtype", *, limit: int | None = None) -> Entry:
        tensors = cast(net.state_dict(), dtype)
        weights = encode(net, dtype) if limit is None else cut_to_files(tensors, limit)
        predictions = Entry("base", tmp_path / "base", "").predictions()
        return write_entry(tmp_path / name, dataclasses.replace(card, name=name), weights, predictions)

    return file


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Return the sizes of the files that are hashed, and let all files be old."""
    sizes: list[int] = []
    digest, now = hashlib.file_digest, time.time_ns

    def spy(file: object, name: str) -> object:
        sizes.append(os.fstat(file.fileno()).st_size)  # type: ignore[attr-defined]
        return digest(file, name)  # type: ignore[arg-type]

    monkeypatch.setattr("zoo.weights.hashlib.file_digest", spy)
    monkeypatch.setattr("zoo.verified.time.time_ns", lambda: now() + 10**10)
    return sizes
