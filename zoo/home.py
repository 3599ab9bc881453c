"""Where the cache is."""

import os
from pathlib import Path

__all__ = ["cache_folder", "home"]


def home() -> Path:
    """Return the cache's root: `ZOO_HOME`, else `~/.cache/menagerie`."""
    chosen = os.environ.get("ZOO_HOME")
    return Path(chosen or "~/.cache/menagerie").expanduser()


def cache_folder() -> Path:
    """Return the folder that pulled and self-trained entries lie in."""
    return home() / "entries"
