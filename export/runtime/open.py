"""Opening what `ensemble export` wrote: a graph, or a folder of stage graphs."""

from pathlib import Path

from export.runtime.cascade import CascadeSession
from export.runtime.session import Session
from zoo.errors import UsageError

__all__ = ["open_session"]


def open_session(
    path: Path | str,
    *,
    device: str | None = None,
    allow_cpu: bool = False,
    threads: int | None = None,
    spin: bool = True,
    index: int = 0,
) -> Session | CascadeSession:
    """Return a session over what `ensemble export` wrote: of a graph, or of a folder with a cascade's stage graphs.

    Arguments and errors are those of `Session`; and `UsageError` for a graph that is one stage of a cascade.
    """
    kind = CascadeSession if Path(path).is_dir() else Session
    session = kind(path, device=device, allow_cpu=allow_cpu, threads=threads, spin=spin, index=index)
    if isinstance(session, Session) and session.about.stage is not None:
        raise UsageError(f"{path} is stage {session.about.stage} of a cascade: give its folder")
    return session
