"""One training as a process of its own: what it is called, how it is started, and what it reached."""

import ctypes
import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from zoo import store
from zoo.entry import Entry
from zoo.errors import MenagerieError
from zoo.files import storage_errors
from zoo.sources.remote import RemoteEntry

__all__ = ["Outcome", "Running", "Trial", "finished", "last_line", "prepare_process", "stop"]

_PARENT = "MENAGERIE_PARENT"
_DEATH_SIGNAL = 1  # PR_SET_PDEATHSIG of linux/prctl.h
_LONGEST = 300
_TAIL = 16_384


@dataclass(frozen=True)
class Trial:
    """A training that a sweep wants, and how to know its result.

    Attributes:
        name: of its entry.
        seed: of the training.
        settings: dotted key -> value as TOML, for the settings that vary.
        arguments: of `zoo train`, in full.
        entries: the source folder that its entry gets filed in.
        log: what it prints goes to the end of this file; a lock of its own lies beside it.
        same: fields that the card of its entry has. A name alone says too little: people name entries as they like.
        anywhere: whether an entry of this name and card in another source, for example a builtin one, will do.
    """

    name: str
    seed: int
    settings: Mapping[str, str]
    arguments: tuple[str, ...]
    entries: Path
    log: Path
    same: Mapping[str, object] = field(default_factory=dict)
    anywhere: bool = False


@dataclass(frozen=True)
class Outcome:
    """How a trial ended.

    Attributes:
        trial: which one.
        accuracy: view set -> top-1 accuracy (fraction) on the validation split; empty if the trial failed.
        seconds: that the training took, as its card says.
        error: why it failed, in one line.
        killed: whether a signal ended it, rather than an error of its own.
        skipped: whether it was finished before.
    """

    trial: Trial
    accuracy: Mapping[str, float] = field(default_factory=dict)
    seconds: float | None = None
    error: str | None = None
    killed: bool = False
    skipped: bool = False


def finished(trial: Trial, *, skipped: bool = True) -> Outcome | None:
    """Return a trial's result if its entry is there; None if it is not, is damaged, or is of another training.

    Only what the card says of the validation split is read: choices are never made on the test split.
    """
    own = store.FolderSource(trial.entries)
    for source in [own, *store.sources()] if trial.anywhere else [own]:
        entry = source.get(trial.name)
        if entry is not None and (found := _result(trial, entry, skipped=skipped)) is not None:
            return found
    return None


def _result(trial: Trial, entry: Entry | RemoteEntry, *, skipped: bool) -> Outcome | None:
    try:
        card = entry.card
    except MenagerieError:
        return None
    says = {**vars(card), "epochs": card.training.get("epochs"), "overrides": card.training.get("overrides")}
    accuracy = dict(card.metrics.get("val", {}))
    if not accuracy or any(says.get(key) != value for key, value in trial.same.items()):
        return None
    return Outcome(trial, accuracy, card.training.get("seconds"), skipped=skipped)


class Running:
    """A trial that is being trained, in a process group of its own, so that Ctrl-C reaches it only through `stop`.

    The process holds a lock on the trial for as long as it lives, so that two sweeps in one folder, on two machines
    too, leave each other's trials alone. (POSIX only.)

    Args:
        trial: to be trained.
        program: Python source that runs the `zoo` command on `sys.argv`; it should call `prepare_process` first.
        environment: variables to set.
        patience: seconds to wait for the lock, which a process that was just killed may still hold.

    Raises:
        StorageError: the log cannot be written.
    """

    def __init__(
        self, trial: Trial, program: str, environment: Mapping[str, str] | None = None, *, patience: float = 10.0
    ) -> None:
        self.trial = trial
        self._process: subprocess.Popen[bytes] | None = None
        with storage_errors(trial.log):
            trial.log.parent.mkdir(parents=True, exist_ok=True)
            lock = os.open(trial.log.with_suffix(".lock"), os.O_RDWR | os.O_CREAT, 0o644)
        try:
            if not _locked(lock, patience):
                return
            variables = {**os.environ, **(environment or {}), _PARENT: str(os.getpid())}
            with storage_errors(trial.log), trial.log.open("ab") as log:
                self._process = subprocess.Popen(  # noqa: S603  # this program, with arguments that it checks itself
                    [sys.executable, "-c", program, *trial.arguments],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=subprocess.STDOUT,
                    env=variables,
                    process_group=0,
                    pass_fds=(lock,),
                )
        finally:
            os.close(lock)

    def poll(self) -> Outcome | None:
        """Return how the trial ended, or None while it is running."""
        trial = self.trial
        if self._process is None:
            return Outcome(trial, error="another process is training it at this moment")
        code = self._process.poll()
        if code is None:
            return None
        if code < 0:
            return Outcome(trial, error=f"killed by {signal.Signals(-code).name}", killed=True)
        if code > 0:
            return Outcome(trial, error=last_line(trial.log).removeprefix("error: ") or f"exit code {code}")
        return finished(trial, skipped=False) or Outcome(trial, error=f"it filed no entry in {trial.entries}")

    def wait(self) -> Outcome:
        """Return how the trial ended, once it has; whatever interrupts the waiting stops the trial."""
        try:
            while (outcome := self.poll()) is None:
                time.sleep(0.1)
        except BaseException:
            stop([self])
            raise
        return outcome

    def signal(self, number: int) -> None:
        """Send a signal to the trial's processes."""
        if self._process is not None and self._process.poll() is None:
            os.killpg(self._process.pid, number)


def stop(running: Sequence[Running], grace: float = 120.0) -> None:
    """Ask trials to save and end, as Ctrl-C does; kill those that have not ended after `grace` seconds."""
    try:
        for one in running:
            one.signal(signal.SIGINT)
        until = time.monotonic() + grace
        while time.monotonic() < until and any(one.poll() is None for one in running):
            time.sleep(0.05)
    finally:
        for one in running:
            one.signal(signal.SIGKILL)


def _locked(handle: int, patience: float) -> bool:
    """Try to lock an open file for so many seconds; say whether it worked."""
    until = time.monotonic() + patience
    while True:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if time.monotonic() > until:
                return False
            time.sleep(0.1)
        else:
            return True


def prepare_process() -> None:
    """Do what a trial's process does first: end with its parent, and hear signals.

    The kernel kills it when the process that started it is gone, however that ended (Linux only): a training that
    outlived a killed sweep would go on beside the one that the next sweep starts. A parent may have blocked signals for
    itself, as Ray's workers do, and its children inherit that.
    """
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT, signal.SIGTERM})
    signal.signal(signal.SIGINT, signal.default_int_handler)
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_DEATH_SIGNAL, signal.SIGKILL)
    parent = os.environ.get(_PARENT)
    if parent and os.getppid() != int(parent):  # it went before the kernel knew
        sys.exit(1)


def last_line(log: Path) -> str:
    """Return the last line of a log that is not empty, shortened; an empty string if there is none."""
    try:
        with log.open("rb") as file:
            file.seek(max(file.seek(0, os.SEEK_END) - _TAIL, 0))
            text = file.read().decode("utf-8", errors="replace")
    except OSError:
        return ""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:_LONGEST] if lines else ""
