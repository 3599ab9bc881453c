"""Many processes pull one entry, and processes that are killed: the cache has it whole and verified, or not at all."""

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import save

from tests.zoo.conftest import file_entry, listing, sample_predictions
from tests.zoo.sources.servers import Behaviour, StaticServer, serve
from zoo.entry import Entry
from zoo.sources.folder import write_index

PROGRAM = "from zoo.cli import main; main()"


@pytest.fixture
def weights() -> bytes:
    return save({"head.weight": np.zeros(24_000_000, np.float16)}, metadata={"format": "pt"})


@pytest.fixture
def published(tmp_path: Path, weights: bytes) -> Path:
    folder = tmp_path / "published"
    file_entry(folder, "a-seed1", weights=weights, predictions=sample_predictions())
    write_index(folder)
    return folder


def start(server: StaticServer, home: Path, *words: str) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "pull", "a-seed1", "--from", server.url, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "ZOO_HOME": str(home)},
    )


def finish(pull: "subprocess.Popen[str]") -> None:
    out, err = pull.communicate(timeout=120)
    assert pull.returncode == 0, (out, err)


def cached(home: Path) -> Entry | None:
    """Return the entry if the cache has it; whatever it has must be sound."""
    folder = home / "entries" / "a-seed1"
    if not folder.exists():
        return None
    entry = Entry("a-seed1", folder, "cache")
    entry.verify()
    return entry


def test_eight_at_once(published: Path, tmp_path: Path, weights: bytes) -> None:
    with serve(Behaviour({f"/{path}": content for path, content in listing(published).items()})) as server:
        pulls = [start(server, tmp_path / "home", *(("--predictions-only",) if i % 3 == 2 else ())) for i in range(8)]
        for pull in pulls:
            finish(pull)
        entry = cached(tmp_path / "home")
        assert entry
        assert entry.missing == ()
        assert listing(entry.folder) == listing(published / "a-seed1")
        assert server.sent["/a-seed1/model.safetensors"] == len(weights), "one of them fetched it, once"
    assert listing(tmp_path / "home" / "incoming") == {}


DELAYS = (0.0, 0.01, 0.03, 0.06, 0.1, 0.15, 0.2, 0.3)
"""Seconds between the first sign of a transfer and the kill, which falls before, into or after its end."""


def kill_after(pull: "subprocess.Popen[str]", home: Path, delay: float) -> bool:
    """Kill a pull a moment after it began to bring something; say whether it was still at it."""
    while pull.poll() is None and not (home / "incoming" / "a-seed1").exists():
        time.sleep(0.002)
    time.sleep(delay)
    alive = pull.poll() is None
    pull.kill()
    pull.communicate()
    return alive


def test_killed_at_any_moment(published: Path, tmp_path: Path) -> None:
    home, kills = tmp_path / "home", 0
    with serve(Behaviour({f"/{path}": content for path, content in listing(published).items()})) as server:
        for delay in DELAYS:
            kills += kill_after(start(server, home), home, delay)
            entry = cached(home)
            if entry is not None:
                assert listing(entry.folder) == listing(published / "a-seed1")
                shutil.rmtree(entry.folder)
        finish(start(server, home))
    assert kills
    assert cached(home)
    assert listing(home / "incoming") == {}, "what was left behind is used, or gone"


def test_killed_while_it_replaces_an_entry(published: Path, tmp_path: Path) -> None:
    """What was there before is there, or the new one; nothing is lost at any moment."""
    home, kills = tmp_path / "home", 0
    mine = file_entry(home / "entries", "a-seed1", predictions=sample_predictions(), recipe="mine")
    before, after = listing(mine.folder), listing(published / "a-seed1")
    look = [sys.executable, "-c", PROGRAM, "list", "a-*", "--json"]
    with serve(Behaviour({f"/{path}": content for path, content in listing(published).items()})) as server:
        for delay in DELAYS:
            kills += kill_after(start(server, home, "--replace"), home, delay)
            environment = {**os.environ, "ZOO_HOME": str(home)}
            subprocess.run(look, check=True, env=environment, stdout=subprocess.DEVNULL)
            entry = cached(home)
            assert entry, "looking puts back what was moved away"
            assert listing(entry.folder) in (before, after)
        finish(start(server, home, "--replace"))
    assert kills
    assert listing(home / "entries" / "a-seed1") == after
