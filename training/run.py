"""The folder of one training run: its recipe, its last state and `metrics.csv`."""

import csv
import hashlib
import io
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from training.job import Job
from zoo.data import Split
from zoo.errors import CorruptError, UsageError
from zoo.files import atomic_write, storage_errors

__all__ = ["RunFolder"]


class RunFolder:
    """Where a run keeps what it needs to go on after a kill.

    Every file is written whole or not at all. `run.json` says what is being trained; `state.pt` is the loop's last
    state; `metrics.csv` has a row for each epoch.

    Args:
        path: made if it does not exist.
        job: what is being trained.

    Raises:
        UsageError: the folder holds the state of a run of another recipe, seed or data (or order of the data).
    """

    def __init__(self, path: Path, job: Job) -> None:
        self.path = path
        with storage_errors(path):
            path.mkdir(parents=True, exist_ok=True)
        about_job = {"seed": job.seed, "data": _in_order(job.part), "recipe": asdict(job.recipe)}
        described = (json.dumps(about_job, indent=1) + "\n").encode()
        about = path / "run.json"
        begun = about.exists() and (path / "state.pt").exists()
        if begun and about.read_bytes() != described:
            raise UsageError(
                f"{path} holds a run with another recipe, seed or data: delete it, or give another --run-dir"
            )
        for stray in path.glob(".state.pt.*"):  # a kill in the midst of writing left it
            stray.unlink()
        atomic_write(about, described)

    def save(self, state: dict[str, Any], rows: list[dict[str, float]]) -> None:
        """Write the loop's state and the metrics so far; a kill in between leaves the older of either."""
        buffer = io.BytesIO()
        torch.save({**state, "rows": rows}, buffer)
        atomic_write(self.path / "state.pt", buffer.getvalue())
        self._write_metrics(rows)

    def load(self) -> dict[str, Any] | None:
        """Return the last saved state (metrics under `rows`), or None if there is none.

        Raises:
            CorruptError: the file cannot be read as a state.
        """
        path = self.path / "state.pt"
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
            rows = state["rows"]
        except Exception as error:  # torch raises whatever the bytes provoke
            raise CorruptError(f"{path} is damaged: delete {self.path} to train from the start") from error
        self._write_metrics(rows)
        return state

    def step(self) -> int:
        """Return the number of steps done, as last saved; 0 for a new run."""
        state = self.load()
        return int(state["step"]) if state else 0

    def _write_metrics(self, rows: list[dict[str, float]]) -> None:
        if not rows:
            return
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=list(rows[0]), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        atomic_write(self.path / "metrics.csv", text.getvalue().encode())


def _in_order(split: Split) -> str:
    """Return a fingerprint of a split that changes with the order of its images, as batches do."""
    return hashlib.sha256(split.hashes.tobytes() + split.labels.tobytes()).hexdigest()
