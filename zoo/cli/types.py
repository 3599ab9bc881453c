"""Types of options and arguments that refuse what means nothing.

That is the empty text, as `"$DIR"` is where nobody has set it, and numbers that are none.
"""

import math
import os
from pathlib import Path
from typing import Any

import click
from click.types import StringParamType

__all__ = ["PATH", "TEXT", "FiniteRange"]

_EMPTY = "nothing is in it"


class FiniteRange(click.FloatRange):
    """A finite number of a range; click's own takes nan for one that is in every range."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:  # noqa: ANN401  # click's
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number", param, ctx)
        return number


class _Text(StringParamType):
    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> str:  # noqa: ANN401  # click's
        text = str(value)
        if not text.strip():
            self.fail(_EMPTY, param, ctx)
        return text


class _Path(click.Path):
    def convert(
        self, value: str | os.PathLike[str], param: click.Parameter | None, ctx: click.Context | None
    ) -> str | bytes | os.PathLike[str]:
        if not os.fspath(value).strip():  # Path("") is the current folder
            self.fail(_EMPTY, param, ctx)
        return super().convert(value, param, ctx)


TEXT = _Text()
"""Text with something in it."""

PATH = _Path(path_type=Path)
"""The path of a file or folder, which need not exist."""
