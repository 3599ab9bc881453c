"""Seconds to pull 220 MB at 1 Gbit/s: `zoo pull`, every sha256 checked, beside `hf download`, which checks sizes.

    python -m benchmarks.pulling            # about two minutes

Both download one entry, wrn40-10 with random weights in fp32, from a Hub on the loopback interface that sends no more
than 125 MB/s, into an empty cache; Xet is off, for both. They take turns, as commands (start of Python included) and as
the functions behind them, and the median of the rounds counts.
"""

import argparse
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from multiprocessing import get_context
from multiprocessing.connection import Connection
from pathlib import Path

from huggingface_hub import snapshot_download
from huggingface_hub.utils.tqdm import disable_progress_bars

from benchmarks.loading import NAME, make_files
from tests.hub_server import HubServer
from zoo import store
from zoo.entry import Entry
from zoo.sources.folder import write_index

REPO = "bench/zoo"
PROGRAM = "from zoo.cli import main; main()"


def serve(folder: Path, rate: float, url: Connection) -> None:
    """Serve the entries of a folder as a Hub's repository, until killed; in a process of its own."""
    write_index(folder)
    files = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".pt"]
    with HubServer() as hub:
        hub.create_repo(REPO, {str(path.relative_to(folder)): path.read_bytes() for path in files})
        hub.rate = rate
        url.send(hub.url)
        time.sleep(24 * 3600)


def contenders(home: Path) -> dict[str, Callable[[], object]]:
    """Return what is compared: name -> a function that brings the entry below `home`."""

    def run(*words: str) -> None:
        subprocess.run(words, check=True, stdout=subprocess.DEVNULL)  # noqa: S603  # these two commands

    def download() -> None:
        snapshot_download(
            REPO, allow_patterns=f"{NAME}/*", cache_dir=home / "hf" / "hub", endpoint=os.environ["HF_ENDPOINT"]
        )

    def pull() -> None:
        store.pull(store.look(NAME, store.asked(f"hf://{REPO}")))

    hf = str(Path(sys.executable).with_name("hf"))
    return {
        "hf download": lambda: run(hf, "download", REPO, "--include", f"{NAME}/*", "--quiet"),
        "zoo pull": lambda: run(sys.executable, "-c", PROGRAM, "pull", NAME, "--from", f"hf://{REPO}", "-q"),
        "huggingface_hub.snapshot_download": download,
        "zoo.store.pull": pull,
    }


def measure(home: Path, rounds: int) -> dict[str, list[float]]:
    """Return the seconds of each contender's rounds; a first round does not count."""
    found: dict[str, list[float]] = {}
    for number in range(rounds + 1):
        for name, bring in contenders(home).items():
            shutil.rmtree(home, ignore_errors=True)
            os.sync()
            began = time.perf_counter()
            bring()
            if number:
                found.setdefault(name, []).append(time.perf_counter() - began)
    return found


def check(home: Path, wanted: str) -> None:
    """Raise unless both brought the same weights."""
    for name, bring in contenders(home).items():
        shutil.rmtree(home, ignore_errors=True)
        bring()
        weights = [p for p in home.rglob("model.safetensors") if NAME in p.parts]
        if not weights or any(hashlib.sha256(p.read_bytes()).hexdigest() != wanted for p in weights):
            raise SystemExit(f"{name} did not bring the weights")


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(description="Seconds to pull beside hf download.")
    parser.add_argument("--arch", default="wrn40-10")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rate", type=float, default=125e6, help="bytes a second")
    options = parser.parse_args(arguments)
    with tempfile.TemporaryDirectory() as folder:
        published, home = Path(folder, "published"), Path(folder, "home")
        published.mkdir()
        make_files(published, options.arch)
        entry = Entry(NAME, published / NAME, "published")
        context = get_context("spawn")
        near, far = context.Pipe()
        server = context.Process(target=serve, args=(published, options.rate, far), daemon=True)
        server.start()
        os.environ |= {
            "HF_ENDPOINT": near.recv(),
            "HF_HOME": str(home / "hf"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "ZOO_HOME": str(home / "zoo"),
        }
        disable_progress_bars()
        try:
            check(home, entry.weights_digest)
            times = measure(home, options.rounds)
        finally:
            server.kill()
    print(f"{entry.name}, {options.rate / 1e6:.0f} MB/s, {options.rounds} rounds")
    for theirs, ours in (("hf download", "zoo pull"), ("huggingface_hub.snapshot_download", "zoo.store.pull")):
        ratios = [b / a for a, b in zip(times[theirs], times[ours], strict=True)]
        for name in (theirs, ours):
            print(f"  {name:34} {statistics.median(times[name]):6.2f} s")
        print(f"  ratio {statistics.median(ratios):.3f} ({min(ratios):.3f} to {max(ratios):.3f})")


if __name__ == "__main__":
    main()
