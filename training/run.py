"""The folder of one training run: its recipe, its last state, its metrics and what was kept on the way."""

import csv
import hashlib
import io
import json
from collections.abc import Collection
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from torch import nn

from training.job import Job
from training.recipe_file import to_toml
from zoo.data import Split
from zoo.errors import CorruptError, UsageError
from zoo.files import atomic_write, storage_errors

__all__ = ["RunFolder", "in_order"]

_ABOUT, _STATE = "run.json", "state.pt"


class RunFolder:
    """Where a run keeps what it needs to go on after a kill.

    Every file is written whole or not at all. `recipe.toml` is the resolved recipe and `run.json` says what is being
    trained on; `state.pt` is the loop's last state; `metrics.csv` has a row for each epoch.

    Args:
        path: made if it does not exist.
        job: what is being trained.

    Raises:
        UsageError: the folder holds the state of a run of another recipe, seed, data (or order of it) or teacher.
    """

    def __init__(self, path: Path, job: Job) -> None:
        self.check(path, job)
        self.path = path
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        for stray in path.glob(".*.pt.*"):  # a kill in the midst of writing left it
            stray.unlink()
        atomic_write(path / _ABOUT, _json(_described(job)))
        atomic_write(path / "recipe.toml", to_toml(job.recipe).encode())

    @staticmethod
    def check(path: Path, job: Job, *, but: Collection[str] = ()) -> None:
        """Raise `UsageError` if a folder holds the state of another run; nothing is written.

        Args:
            path: need not exist.
            job: what is to be trained.
            but: keys of `run.json` that may differ, since they are not known yet.
        """
        if not ((path / _ABOUT).exists() and (path / _STATE).exists()):
            return
        try:
            found = json.loads((path / _ABOUT).read_bytes())
            same = _json({**found, **dict.fromkeys(but)}) == _json({**_described(job), **dict.fromkeys(but)})
        except (ValueError, TypeError):
            same = False
        if not same:
            raise UsageError(
                f"{path} holds a run with another recipe, seed, data or teacher: delete it, or give another --run-dir"
            )

    def save(self, state: dict[str, Any], rows: list[dict[str, float]]) -> None:
        """Write the loop's state and the metrics so far; a kill in between leaves the older of either."""
        _write(self.path / _STATE, {**state, "rows": rows})
        self._write_metrics(rows)

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state (metrics under `rows`), or None if there is none.

        Raises:
            CorruptError: the file cannot be read as a state.
        """
        if not (self.path / _STATE).exists():
            return None
        state = self._read(_STATE, "rows")
        self._write_metrics(state["rows"])
        return state

    def save_network(self, name: str, net: nn.Module) -> None:
        """Keep a network as it is now, under a name of its own."""
        _write(self.path / f"{name}.pt", {"net": net.state_dict()})

    def load_network(self, name: str, net: nn.Module) -> nn.Module:
        """Fill a network of the same architecture with what was kept under `name`, and return it.

        Raises:
            CorruptError: the file is missing or cannot be read.
        """
        try:
            net.load_state_dict(self._read(f"{name}.pt", "net")["net"])
        except (RuntimeError, TypeError) as error:  # other names or shapes, or no table at all
            raise self._damaged(f"{name}.pt") from error
        return net

    def _read(self, file: str, key: str) -> dict[str, Any]:
        """Read a file that `_write` wrote; `key` must be in it."""
        try:
            table: dict[str, Any] = torch.load(self.path / file, map_location="cpu", weights_only=True)
            table[key]
        except Exception as error:  # torch raises whatever the bytes provoke
            raise self._damaged(file) from error
        return table

    def _damaged(self, file: str) -> CorruptError:
        return CorruptError(f"{self.path / file} is damaged: delete {self.path} to train from the start")

    def step(self) -> int:
        """Return the number of steps done, as last saved; 0 for a new run."""
        state = self.load()
        return int(state["step"]) if state else 0

    def rows(self) -> list[dict[str, float]]:
        """Return the metrics of the epochs so far, as last saved."""
        path = self.path / "metrics.csv"
        if not path.exists():
            return []
        with path.open(encoding="utf-8", newline="") as file:
            return [{key: float(value) for key, value in row.items()} for row in csv.DictReader(file)]

    def _write_metrics(self, rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.path / "metrics.csv", text.getvalue().encode())


def _write(path: Path, table: dict[str, Any]) -> None:
    buffer = io.BytesIO()
    torch.save(table, buffer)
    atomic_write(path, buffer.getvalue())


def in_order(split: Split) -> str:
    """Return a fingerprint of a split that changes with the order of its images, as batches do."""
    return hashlib.sha256(split.hashes.tobytes() + split.labels.tobytes()).hexdigest()


def _described(job: Job) -> dict[str, Any]:
    """Return what `run.json` says of a job."""
    return {
        "seed": job.seed,
        "data": in_order(job.part),
        "held_out": job.val.fingerprint,
        "stats": job.stats,
        "teacher": job.teacher,
        "recipe": asdict(job.recipe),
    }


def _json(value: Any) -> bytes:  # noqa: ANN401  # whatever JSON can say
    return (json.dumps(value, indent=1) + "\n").encode()
