"""Opening what `ensemble export` wrote: a graph, or a folder of stage graphs."""

from pathlib import Path
from typing import Unpack

from export.runtime.base import Options
from export.runtime.cascade import CascadeSession
from export.runtime.session import Session

__all__ = ["open_session"]


def open_session(path: Path | str, **options: Unpack[Options]) -> Session | CascadeSession:
    """Return a session over what `ensemble export` wrote: of a graph, or of a folder with a cascade's stage graphs.

    Args:
        path: of the graph, or of the folder.
        options: how it is run.

    Raises:
        UsageError: the graph is one stage of a cascade.
        MenagerieError: others, as in `Session` and `CascadeSession`.
    """
    session = (CascadeSession if Path(path).is_dir() else Session)(path, **options)
    if isinstance(session, Session):
        session.check_whole()
    return session
