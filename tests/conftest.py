"""Fixtures: a home of one's own for every test, and a tiny zoo of untrained networks."""

import os
import resource
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
from hypothesis import settings

from zoo.card import Card
from zoo.data import Split
from zoo.entry import Entry, write_entry
from zoo.predictions import Predictions

CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")

settings.register_profile("any machine", deadline=None)  # how long a test takes says more of what else runs there
settings.load_profile("any machine")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip tests marked `gpu` where there is no CUDA device."""
    marked = [item for item in items if item.get_closest_marker("gpu")]
    if marked:
        import torch

        if not torch.cuda.is_available():
            for item in marked:
                item.add_marker(pytest.mark.skip(reason="needs a CUDA device"))


@pytest.fixture(autouse=True)
def zoo_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Give every test an empty cache and no sources or data but what the package ships."""
    home = tmp_path / "zoo-home"
    for variable in [v for v in os.environ if v.startswith("ZOO_")]:
        monkeypatch.delenv(variable)
    monkeypatch.setenv("ZOO_HOME", str(home))
    return home


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with nothing in it."""
    folder = tmp_path / "place"
    folder.mkdir()
    return folder


@contextmanager
def files_up_to(limit: int) -> Iterator[None]:
    """Let the kernel refuse to write files beyond `limit` bytes, as a full disk would.

    For a block, not for a whole test: what the test runner prints may go to a file that is longer already.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, handler)


def random_split(images: int, classes: int = 10, seed: int = 0, size: int = 32) -> Split:
    """Return a split of noise; every class occurs if there are enough images."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(0, 256, (images, size, size, 3), dtype=np.uint8)
    names = CLASSES if classes == len(CLASSES) else tuple(f"class{i}" for i in range(classes))
    return Split(pixels, np.arange(images, dtype=np.int64) % classes, names)


@pytest.fixture
def make_entry() -> Callable[..., Entry]:
    """Return a function that files a tiny untrained network: `make_entry(folder, name, splits={"test": split})`."""

    def make(
        folder: Path,
        name: str,
        *,
        classes: tuple[str, ...] = CLASSES,
        dataset: str = "cifar10",
        splits: dict[str, Split] | None = None,
        seed: int = 0,
        held_out: str | None = None,
    ) -> Entry:
        import torch

        from tta.stored import predict_split
        from zoo import checkpoint
        from zoo.archs import create

        torch.manual_seed(seed)
        arguments = {"widths": [8, 8, 8]}
        net = create("fastnet", len(classes), **arguments)
        card = Card(
            name=name,
            architecture="fastnet",
            architecture_args=arguments,
            dataset=dataset,
            classes=classes,
            mean=(0.5, 0.5, 0.5),
            std=(0.25, 0.25, 0.25),
            input_size=(32, 32),
            parameters=sum(p.numel() for p in net.parameters()),
            trained_on={"images": 1, "fingerprint": "0" * 64, "held_out": held_out} if held_out else None,
        )
        weights = checkpoint.encode(net)
        net = checkpoint.build(card, checkpoint.decode(weights, name), name)
        stored = {
            key: predict_split(net, split, (card.mean, card.std), torch.device("cpu"))
            for key, split in (splits or {}).items()
        }
        return write_entry(folder / name, card, weights, Predictions(stored) if stored else None)

    return make
