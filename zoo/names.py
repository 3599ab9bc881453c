"""Entry names: what they may look like, patterns over them, and suggestions for misspelled ones."""

import difflib
import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

from zoo.errors import NotFoundError, UsageError

__all__ = ["check_name", "is_name", "is_pattern", "match", "suggestion"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_LONGEST = 128


def is_name(text: str) -> bool:
    """Say whether `text` is a well-formed entry name."""
    return len(text) <= _LONGEST and _NAME.fullmatch(text) is not None


def check_name(name: str) -> str:
    """Return `name` if it is a well-formed entry name, else raise `UsageError`.

    Names become folder names, so this is also what keeps `..` and `/` out of every path.
    """
    if not is_name(name):
        shown = name if len(name) <= _LONGEST else name[:40] + "…"
        raise UsageError(
            f"not a valid entry name: {shown!r} (names match [a-z0-9][a-z0-9._-]*, at most {_LONGEST} characters)"
        )
    return name


def is_pattern(text: str) -> bool:
    """Say whether `text` is a shell pattern (`*`, `?`, `[`) rather than a name."""
    return any(c in text for c in "*?[")


def suggestion(word: str, known: Iterable[str]) -> str:
    """Return `" (did you mean 'x'?)"` for the closest of `known`, or an empty string."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.6)
    return f" (did you mean {close[0]!r}?)" if close else ""


def match(pattern: str, known: Sequence[str]) -> list[str]:
    """Return the names of `known` that `pattern` matches, in their order; raise `NotFoundError` if none does."""
    found = [name for name in known if fnmatchcase(name, pattern)]
    if not found:
        raise NotFoundError(
            f"no entry matches {pattern!r}{suggestion(pattern, known)} (`zoo list` shows what there is)"
        )
    return found
