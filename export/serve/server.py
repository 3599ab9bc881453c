"""A server as the command sees it: started, watched, reloaded, ended."""

import shutil
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from export.serve.cluster import Replicas, deploy, link_to, start_board
from export.serve.models import copy_model
from export.serve.replica import Link, Lost, Plan
from zoo.errors import DataError, MenagerieError

__all__ = ["Server", "serving"]

_LOAD = 900.0
"""Seconds that a model may take to load: TensorRT builds its engines meanwhile."""

_ASKED = 0.5  # seconds between two looks at whether somebody wants to stop


class Server:
    """Replicas, and the board that they look at.

    Args:
        link: to the board.
        path: of the first model, as somebody called it.
        copy: of that, which the board names, in a folder of its own; others get theirs beside it.
        least: replicas that there should be.
    """

    def __init__(self, link: Link, path: Path, copy: Path, least: int) -> None:
        self._link, self._path, self._copy, self._least = link, path, copy, least
        self._folder, self._version = copy.parent.parent, 1

    def wait(self) -> None:
        """Return once all replicas serve; `DataError` says why one of them does not."""
        errors = self._verdicts(1, self._path, self._copy)
        if errors:
            raise DataError(errors[0])

    def reload(self, path: Path, stopped: Callable[[], bool] = lambda: False) -> bool:
        """Let all replicas serve another model, or none: each loads it beside its own before any serves it.

        Args:
            path: of the model.
            stopped: whether somebody wants an end: then the model is dropped, however far it was.

        Returns:
            Whether it is served now.

        Raises:
            DataError: it cannot be served, or clients would notice; the old one is still there.
            CorruptError, NotFoundError, StorageError, UsageError: as in `copy_model`.
        """
        self._version += 1
        copy = copy_model(path, self._folder / f"model-{self._version}")
        version = self._call("propose", str(copy))
        errors = self._verdicts(version, path, copy, stopped)
        good = errors == []
        self._call("settle", version, good)
        # What a replica has open stays readable, and one that starts now loads what the board names.
        unused, self._copy = (self._copy, copy) if good else (copy, self._copy)
        shutil.rmtree(unused.parent, ignore_errors=True)
        if errors:
            raise DataError(errors[0])
        return good

    def lines(self, patience: float) -> list[str]:
        """Wait for lines of the log, at most so many seconds; see `Board.lines`."""
        found: list[str] = self._call("lines", patience)
        return found

    def serving(self) -> int:
        """Return how many replicas serve; `MenagerieError` if Ray is gone."""
        found: int = self._call("serving")
        return found

    def _verdicts(
        self, version: int, path: Path, copy: Path, stopped: Callable[[], bool] = lambda: False
    ) -> list[str] | None:
        """Return what replicas say is wrong with a version, once all have loaded it: of its files, not of the copy.

        None if somebody wanted an end before that.
        """
        waited = 0.0
        while waited < _LOAD:
            if stopped():
                return None
            found: list[str] | None = self._call("verdicts", version, self._least, _ASKED)
            if found is not None:
                named = (error.replace(str(copy), str(path)) for error in found if error)
                return sorted({error.replace(str(copy.parent), str(path.parent)) for error in named})
            waited += _ASKED
        return [f"the model was not loaded within {_LOAD:g} seconds"]

    def _call(self, method: str, *arguments: object) -> Any:  # noqa: ANN401  # any method's
        try:
            return self._link(method, *arguments)
        except Lost as error:
            raise MenagerieError("Ray has ended: what it says of it is below /tmp/ray/session_latest/logs") from error


@contextmanager
def serving(
    ray: Any,  # noqa: ANN401  # the module
    path: Path,
    plan: Plan,
    replicas: Replicas,
    folder: Path,
) -> Iterator[Server]:
    """Start a server, and end it when the block does: requests under way are answered first.

    Args:
        ray: connected.
        path: of the model.
        plan: of its replicas.
        replicas: how many.
        folder: for copies of models.

    Raises:
        CorruptError, NotFoundError, StorageError, UsageError: as in `copy_model`.
        MenagerieError: Ray Serve does not start replicas.
    """
    mark = folder / uuid.uuid4().hex
    mark.touch()
    copy = copy_model(path, folder / "model-1")
    board = start_board(ray, str(copy), str(mark))
    end = deploy(board, plan, replicas)
    try:
        yield Server(link_to(board), path, copy, replicas.least)
    finally:
        end()
