"""Opening what `ensemble export` wrote: a graph, or a folder of stage graphs."""

from pathlib import Path

from export.runtime.cascade import CascadeSession
from export.runtime.session import Session

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

    Arguments and errors are those of `Session`.
    """
    kind = CascadeSession if Path(path).is_dir() else Session
    return kind(path, device=device, allow_cpu=allow_cpu, threads=threads, spin=spin, index=index)
