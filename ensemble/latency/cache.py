"""Latencies that were measured before, a file for each hardware, and the one way to look them up or measure them."""

import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from filelock import FileLock, Timeout

from ensemble.latency.hardware import hardware, versions
from ensemble.latency.times import Latency
from ensemble.latency.workload import Workload
from zoo.allocator import allocator_setting
from zoo.errors import CorruptError, UsageError
from zoo.files import atomic_write, storage_errors, warn_if_not_kept
from zoo.home import home
from zoo.regular import read_regular

if TYPE_CHECKING:
    import torch

__all__ = ["FORMAT", "Known", "LatencyCache", "cached"]

FORMAT = "menagerie.latency/1"

_LONGEST = 1 << 26
"""Bytes that a file may have; a latency has about two thousand."""

_SOON = 0.2  # s

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Known:
    """A latency, and when it was measured.

    Attributes:
        latency: of one workload, on the cache's hardware, with its setup.
        measured: date and time in UTC, ISO 8601.
        fresh: whether it was measured just now, by the call that returned it.
    """

    latency: Latency
    measured: str
    fresh: bool


class LatencyCache:
    """The latencies that one device of one machine showed, in `ZOO_HOME/latency/HARDWARE.json`.

    A file is read only where the hardware is what it was measured on, and a latency only with the versions, the number
    of threads and the memory allocator that it was measured with. What cannot be read is measured again; a damaged file
    is kept under the name `HARDWARE.json.damaged`.

    Args:
        device: where everything is measured.
        folder: of the files [default: `ZOO_HOME/latency`].

    Attributes:
        device: as given.
        hardware: what it is.
        setup: versions, and the CPU threads and the memory allocator that PyTorch has now.
        path: of the file.
    """

    def __init__(self, device: "torch.device", folder: Path | None = None) -> None:
        from torch import get_num_threads  # noqa: PLC0415  # reading a report's numbers needs none of it

        self.device = device
        self.hardware = hardware(device)
        self.setup: Mapping[str, Any] = {
            "threads": get_num_threads(),
            "allocator": allocator_setting(),
            "versions": versions(),
        }
        self.path = (home() / "latency" if folder is None else folder) / f"{self.hardware.key}.json"
        self._lock = FileLock(self.path.with_suffix(".lock"))

    def find(self, workload: Workload) -> Known | None:
        """Return what was measured of a workload before, None if there is nothing that can be read."""
        try:
            return self._known(self._read(), workload)
        except ValueError:
            return None

    def keep(self, workload: Workload, latency: Latency) -> Known:
        """Add a latency that was measured now, instead of an earlier one of the same workload.

        Raises:
            UsageError: it is of batches of another size.
            StorageError: the disk refuses.
        """
        if latency.batch != workload.batch:
            raise UsageError(f"batches of {latency.batch} were measured, and the workload has {workload.batch}")
        known = Known(latency, datetime.now(UTC).isoformat(timespec="seconds"), fresh=True)
        with storage_errors(self.path):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self._lock:
                table = self._mended(workload)
                row = {**self._label(workload), "measured": known.measured, "latency": latency.to_dict()}
                table[self._name(workload)] = row
                content = {"format": FORMAT, "hardware": self.hardware.to_dict(), "latencies": table}
                atomic_write(self.path, (json.dumps(content) + "\n").encode())
        return known

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Let nobody else with this cache measure meanwhile: two that do would slow each other down.

        Where the folder cannot be written to, nobody is kept out.
        """
        held = False
        with suppress(OSError):
            self.path.parent.mkdir(parents=True, exist_ok=True)
            try:
                self._lock.acquire(timeout=_SOON)
            except Timeout:
                _log.warning("waiting for another process that measures latencies here")
                self._lock.acquire()
            held = True
        try:
            yield
        finally:
            if held:
                self._lock.release()

    def _label(self, workload: Workload) -> dict[str, Any]:
        return {"workload": workload.to_dict(), **self.setup}

    def _name(self, workload: Workload) -> str:
        return sha256(json.dumps(self._label(workload), sort_keys=True).encode()).hexdigest()[:24]

    def _read(self) -> dict[str, Any]:
        """Return name -> row of the file; empty if there is none.

        Raises:
            ValueError: it is damaged, or of other hardware.
        """
        if not self.path.exists():
            return {}
        try:
            content = json.loads(read_regular(self.path, _LONGEST))
            about = {**content["hardware"], "memory": None}
            if content["format"] != FORMAT or about != {**self.hardware.to_dict(), "memory": None}:
                raise ValueError("another format, or other hardware")
            if type(content["latencies"]) is not dict:
                raise ValueError("no table of latencies")
        except (CorruptError, KeyError, TypeError, RecursionError) as error:
            raise ValueError(str(error)) from error
        table: dict[str, Any] = content["latencies"]
        return table

    def _known(self, table: Mapping[str, Any], workload: Workload) -> Known | None:
        """Return a workload's row; errors as in `_read`, if it is damaged."""
        row = table.get(self._name(workload))
        if row is None:
            return None
        try:
            label = self._label(workload)
            if {name: row[name] for name in label} != label:
                raise ValueError("a row of something else")
            latency, measured = Latency.from_dict(row["latency"]), datetime.fromisoformat(row["measured"])
        except (KeyError, TypeError) as error:
            raise ValueError(str(error)) from error
        if latency.batch != workload.batch:
            raise ValueError("a latency of another batch")
        return Known(latency, measured.isoformat(), fresh=False)

    def _mended(self, workload: Workload) -> dict[str, Any]:
        """Return name -> row, with the lock held, after saying what is damaged and putting a damaged file aside."""
        try:
            table = self._read()
        except ValueError as error:
            aside = self.path.with_name(f"{self.path.name}.damaged")
            with storage_errors(aside):
                self.path.replace(aside)
            _log.warning("%s is damaged (%s): kept as %s, measured again", self.path, error, aside.name)
            return {}
        try:
            self._known(table, workload)
        except ValueError as error:
            _log.warning("a latency in %s is damaged (%s): measured again", self.path, error)
        return table


def cached(
    cache: LatencyCache,
    workload: Workload,
    make: Callable[[], tuple[Callable[[Any], object], Any]],
    *,
    remeasure: bool = False,
    seconds: float | None = None,
) -> Known:
    """Return how long a workload takes on a cache's device: what it took before, else measured now and kept.

    A cache that cannot be written to costs a warning, and no result.

    Args:
        cache: of the device.
        workload: what runs. Whatever changes its time must be in it: it is the key.
        make: returns what runs and the images for it, as `measure` takes them; called only if there is measuring to do.
        remeasure: whether what is known counts for nothing.
        seconds: how long to measure [default: `measure.SECONDS`].

    Raises:
        UsageError: as in `measure` and `LatencyCache.keep`.
    """
    from ensemble.latency.measure import SECONDS, measure  # noqa: PLC0415  # it needs PyTorch, and looking up does not

    found = None if remeasure else cache.find(workload)
    if found is not None:
        return found
    with cache.alone():
        found = None if remeasure else cache.find(workload)  # by the process that we waited for
        if found is not None:
            return found
        run, images = make()
        latency = measure(run, images, device=cache.device, seconds=SECONDS if seconds is None else seconds)
        known = Known(latency, datetime.now(UTC).isoformat(timespec="seconds"), fresh=True)
        with warn_if_not_kept("what was measured"):
            known = cache.keep(workload, latency)
        return known  # noqa: RET504  # the first, if the disk refuses
