"""The session behind a server: it can be replaced while requests come in, by one with the same interface."""

import threading
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from export.devices import CPU
from export.runtime import Answer, CascadeSession, Session, open_session
from export.runtime.bound import bucket
from export.serve.interface import Interface, interface_of
from zoo.errors import DataError

__all__ = ["How", "Loaded", "Served", "load"]


@dataclass(frozen=True)
class How:
    """How sessions are opened.

    Attributes:
        device: as `open_session` has it.
        allow_cpu: likewise.
        threads: likewise.
        spin: likewise.
        largest: batch; the sizes up to it that need it run once before anybody waits for them.
    """

    device: str | None = None
    allow_cpu: bool = False
    threads: int | None = None
    spin: bool = False
    largest: int = 64


@dataclass(frozen=True, eq=False)
class Loaded:
    """A session that is ready.

    Attributes:
        session: warmed up.
        interface: of the model.
    """

    session: Session | CascadeSession
    interface: Interface


def load(path: Path, how: How) -> Loaded:
    """Open a session and warm it up; errors are those of `open_session`."""
    session = open_session(path, device=how.device, allow_cpu=how.allow_cpu, threads=how.threads, spin=how.spin)
    one = np.zeros((1, *session.input_size, 3), np.uint8)
    interface = interface_of(session, session.answer(one))
    # A GPU prepares each size that batches are padded to at its first run; a CPU only has memory to find.
    sizes = {1, how.largest} if session.provider == CPU else {bucket(size) for size in range(1, how.largest + 1)}
    session.warm_up(sorted(sizes))
    return Loaded(session, interface)


class Served:
    """What answers, until another one takes its place.

    Args:
        loaded: the first.
    """

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self._next: Loaded | None = None
        self._lock = threading.Lock()

    @property
    def session(self) -> Session | CascadeSession:
        """The session that answers now."""
        return self._loaded.session

    @property
    def interface(self) -> Interface:
        """The interface of the session that answers now."""
        return self._loaded.interface

    def answer(self, images: npt.NDArray[np.uint8]) -> tuple[Answer, Interface]:
        """Return what the session of now says, and its interface, by which that is to be read.

        A batch that runs while the session is replaced ends where it began.
        """
        loaded = self._loaded
        return loaded.session.answer(images), loaded.interface

    def prepare(self, path: Path, how: How) -> None:
        """Load a session beside the one that answers.

        Raises:
            DataError: clients would notice that it is another model.
            MenagerieError: as in `open_session`.
        """
        found = load(path, how)
        other = self.interface.difference(found.interface)
        if other:
            raise DataError(f"{path.name} has {other}: a reload keeps what clients rely on, a restart does not")
        with self._lock:
            self._next = found

    def swap(self) -> bool:
        """Let the prepared session answer from the next batch on; say whether there was one."""
        with self._lock:
            if self._next is None:
                return False
            self._loaded, self._next = self._next, None
        return True

    def drop(self) -> None:
        """Forget the prepared session."""
        with self._lock:
            self._next = None
