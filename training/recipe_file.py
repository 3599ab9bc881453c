"""Recipes as TOML files: `base`, overrides from the command line, and the resolved text."""

import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import MISSING, asdict, fields, is_dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal, TypeVar, get_args, get_origin, get_type_hints

import tomli_w

from training.recipe import Optimizer, ParamGroup, Recipe, Schedule
from zoo.errors import NotFoundError, UsageError
from zoo.names import is_name, suggestion

__all__ = ["load_recipe", "parse_recipe", "recipe_names", "to_toml"]

_T = TypeVar("_T")
_ACCEPTED: dict[Any, tuple[type, ...]] = {int: (int,), float: (int, float), bool: (bool,), str: (str,)}
_SAID = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
_MOST_BASES = 8
"""That a recipe may have, one below the other."""
_KINDS: dict[str, str] = {"optimizer": Optimizer.kind, "schedule": Schedule.kind}
"""What a table that states no `kind` is of."""


def recipe_names() -> list[str]:
    """Return the names of the recipes in the package, sorted."""
    names = (path.name for path in files("training").joinpath("recipes").iterdir())
    return sorted(name.removesuffix(".toml") for name in names if name.endswith(".toml"))


def load_recipe(name: str, overrides: Sequence[str] = ()) -> Recipe:
    """Read a recipe.

    Args:
        name: of a recipe of the package, or the path of a TOML file (anything that ends in `.toml`).
        overrides: `key=value` with dots between tables and a TOML value (a bare word is a string), for example
            `optimizer.lr=0.05`, `augment.policy=randaugment`, `groups.0.lr=2`, or `sam=false` to go without a table.

    Raises:
        NotFoundError: no such file.
        UsageError: no such recipe; or it or an override has an unknown key, or a value of the wrong type or range.
    """
    table = _read(name, _MOST_BASES)
    for override in overrides:
        _override(table, override)
    return _resolve(_stem(name), table)


def parse_recipe(name: str, text: str) -> Recipe:
    """Turn a recipe's TOML text into a `Recipe`; errors as in `load_recipe`."""
    return _resolve(name, _with_base(name, text, _MOST_BASES))


def to_toml(recipe: Recipe) -> str:
    """Return the resolved recipe as TOML: every value that holds, whatever `base` and overrides it came from.

    `parse_recipe(recipe.name, to_toml(recipe))` is the same recipe.
    """
    table = asdict(recipe)
    del table["name"]
    for group in table["groups"]:
        group.update(group.pop("optimizer"))
    return tomli_w.dumps(_without_none(table))


def _stem(name: str) -> str:
    """Return what a recipe is called: its file's name without `.toml`."""
    stem = Path(name).stem if name.endswith(".toml") else name
    if not is_name(stem):
        raise UsageError(f"recipe {name!r}: its name becomes the entry's, and must match [a-z0-9][a-z0-9._-]*")
    return stem


def _read(name: str, deepest: int, via: str = "") -> dict[str, Any]:
    """Return a recipe's table with those of its bases under it; `via` says in errors whose base it is."""
    if name.endswith(".toml"):
        try:
            text = Path(name).read_text(encoding="utf-8")
        except FileNotFoundError as error:
            raise NotFoundError(f"{via}recipe {name!r}: no such file") from error
        except (OSError, ValueError) as error:  # a ValueError for what is no UTF-8, or a path with a NUL in it
            raise UsageError(f"{via}recipe {name!r} cannot be read: {error}") from error
    else:
        if name not in recipe_names():
            raise UsageError(
                f"{via}unknown recipe {name!r}{suggestion(name, recipe_names())}; there are {', '.join(recipe_names())}"
            )
        text = files("training").joinpath("recipes", f"{name}.toml").read_text(encoding="utf-8")
    return _with_base(name, text, deepest, via)


def _with_base(name: str, text: str, deepest: int, via: str = "") -> dict[str, Any]:
    """Return a text's table over its base's, key by key within tables; lists (groups too) are replaced whole."""
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise UsageError(f"{via}recipe {name!r} is not valid TOML: {error}") from error
    if "base" not in table:
        return table
    base = table.pop("base")
    if not isinstance(base, str):
        raise UsageError(f"recipe {name!r}: base is {base!r}, not the name of another recipe")
    if not deepest:
        raise UsageError(
            f"recipe {name!r}: base = {base!r} is one too many: bases go in a circle, or {_MOST_BASES} deep"
        )
    if name.endswith(".toml") and base.endswith(".toml"):
        base = str(Path(name).parent / base)
    merged: dict[str, Any] = _merged(_read(base, deepest - 1, f"recipe {name!r}, base: "), table)
    return merged


def _merged(under: Any, over: Any, kind: str | None = None) -> Any:  # noqa: ANN401  # whatever TOML has there
    """Lay one table over another, sub-tables likewise; what states another `kind` replaces what lies under it."""
    tables = isinstance(under, dict) and isinstance(over, dict)
    if not tables or ("kind" in over and over["kind"] != under.get("kind", kind)):
        return over
    return under | {key: _merged(under.get(key), value, _KINDS.get(key)) for key, value in over.items()}


def _override(table: dict[str, Any], text: str) -> None:
    """Set one dotted key."""
    key, equals, value = text.partition("=")
    if not equals or not all(word.strip() for word in key.split(".")):
        raise UsageError(f"--set {text!r}: KEY=VALUE is needed, such as optimizer.lr=0.05")
    try:
        parsed = tomllib.loads(f"value = {value}")
    except (ValueError, RecursionError):  # no TOML: a word without quotes, most likely
        parsed = {"value": value}
    if list(parsed) != ["value"]:
        raise UsageError(f"--set {text!r}: one value is needed")
    *path, last = (word.strip() for word in key.split("."))
    at: Any = table
    for word in path:
        at = _enter(at, word, text)
    if isinstance(at, list):
        _enter(at, last, text)
        at[int(last)] = parsed["value"]
    elif isinstance(at, dict):
        at[last] = parsed["value"]
    else:
        raise UsageError(f"--set {text!r}: {'.'.join(path)} is {at!r}, not a table")


def _enter(at: Any, word: str, text: str) -> Any:  # noqa: ANN401  # whatever TOML has there
    """Return a table's or a list's element; a table that is not there yet is made."""
    if isinstance(at, list):
        if not word.isdecimal() or int(word) >= len(at):
            there = f"one of 0..{len(at) - 1}" if at else "there: the list is empty"
            raise UsageError(f"--set {text!r}: {word!r} is not {there}")
        return at[int(word)]
    if not isinstance(at, dict):
        raise UsageError(f"--set {text!r}: there is no table at {word!r}")
    return at.setdefault(word, {})


def _resolve(name: str, table: dict[str, Any]) -> Recipe:
    """Build the dataclasses; each group takes what it does not say from `[optimizer]` and `[schedule]`."""
    where = f"recipe {name!r}"
    if "name" in table:
        raise UsageError(f"{where}: a recipe's name is its file's, not a key")
    groups = table.get("groups", [])
    if not isinstance(groups, list) or not all(isinstance(group, dict) for group in groups):
        raise UsageError(f"{where}: groups is a list of tables: [[groups]]")
    # First what all share, so that its mistakes are not put down to the first group.
    shared = {
        key: _convert(kind, table[key], where, key)
        for key, kind in (("optimizer", Optimizer), ("schedule", Schedule))
        if key in table
    }
    built = [_group(table, group, f"{where}, groups.{index}") for index, group in enumerate(groups)]
    return _build(Recipe, {"name": name, **table, **shared, "groups": built}, where)


def _group(table: dict[str, Any], group: dict[str, Any], where: str) -> ParamGroup:
    """Build a group over the recipe's `[optimizer]` and `[schedule]`."""
    own = {key: value for key, value in group.items() if key not in {"params", "schedule"}}
    known = ["params", "schedule", *(f.name for f in fields(Optimizer))]
    for key in own:
        if key not in known:
            raise UsageError(f"{where}: unknown key {key!r}{suggestion(key, known)}")
    optimizer = _merged(table.get("optimizer", {}), own, Optimizer.kind)
    schedule = _merged(table.get("schedule", {}), group.get("schedule", {}), Schedule.kind)
    about = {key: value for key, value in group.items() if key == "params"}
    about["optimizer"] = _build(Optimizer, optimizer, where)
    about["schedule"] = _build(Schedule, schedule, where, "schedule")
    return _build(ParamGroup, about, where)


def _build(kind: type[_T], table: Any, where: str, path: str = "") -> _T:  # noqa: ANN401  # whatever TOML has there
    """Make a dataclass of a TOML table; unknown keys, missing keys and wrong types are refused.

    Args:
        kind: the dataclass.
        table: whatever the recipe has there.
        where: which recipe it is, for error lines.
        path: the table's dotted key; empty for the outermost one.
    """
    if not isinstance(table, dict):
        hint = ""
        if isinstance(table, str) and any(f.name == "kind" for f in fields(kind)):  # type: ignore[arg-type]  # as below
            hint = f" (did you mean {path}.kind = {table!r}?)"
        raise UsageError(f"{where}: {path} is {table!r}, not a table{hint}")
    dotted = f"{path}." if path else ""
    known = {f.name: f for f in fields(kind)}  # type: ignore[arg-type]  # only called with dataclasses
    types = get_type_hints(kind)
    values = {}
    for key, value in table.items():
        if key not in known:
            raise UsageError(f"{where}: unknown key {dotted + key!r}{_meant(key, known, types)}")
        values[key] = _convert(types[key], value, where, dotted + key)
    missing = [n for n, f in known.items() if n not in values and f.default is MISSING and f.default_factory is MISSING]
    if missing:
        raise UsageError(f"{where}: {dotted}{missing[0]} is missing")
    try:
        return kind(**values)
    except UsageError as error:
        raise UsageError(f"{where}: {error}") from error


def _meant(key: str, known: Mapping[str, Any], types: Mapping[str, Any]) -> str:
    """Suggest a key of the same table, or one of this very name in a table below it."""
    tables = {name: t for name, wanted in types.items() for t in (wanted, *get_args(wanted)) if is_dataclass(t)}
    below = [f"{name}.{key}" for name, table in tables.items() if any(f.name == key for f in fields(table))]
    return suggestion(key, known) or (f" (did you mean {' or '.join(map(repr, below))}?)" if below else "")


def _convert(wanted: Any, value: Any, where: str, path: str) -> Any:  # noqa: ANN401  # whatever TOML has there
    """Check a value against a field's type, and build what is a dataclass."""
    inner = [t for t in get_args(wanted) if t is not type(None)]
    what = f"{where}: {path} is {value!r}, not"
    if get_origin(wanted) is Literal:
        if value not in inner:
            raise UsageError(f"{what} one of {', '.join(inner)}")
        return value
    if type(None) in get_args(wanted):  # `Table | None`
        return None if value is False else _convert(inner[0], value, where, path)
    if is_dataclass(wanted) and isinstance(wanted, type):
        return value if isinstance(value, wanted) else _build(wanted, value, where, path)
    if get_origin(wanted) is tuple:
        if not isinstance(value, list):
            raise UsageError(f"{what} a list")
        return tuple(_convert(inner[0], element, where, f"{path}.{index}") for index, element in enumerate(value))
    if get_origin(wanted) is Mapping:
        if not isinstance(value, dict):
            raise UsageError(f"{what} a table")
        return value
    if type(value) not in _ACCEPTED[wanted]:
        raise UsageError(f"{what} {_SAID[wanted]}")
    return _as_float(value, f"{where}: {path}") if wanted is float else value


def _as_float(value: float, what: str) -> float:
    """Return a number as a float, which TOML may have as an int."""
    try:
        return float(value)
    except OverflowError as error:
        raise UsageError(f"{what} is too large") from error


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    """Drop what TOML cannot say, in sub-tables too."""
    return {k: _without_none(v) if isinstance(v, dict) else v for k, v in table.items() if v is not None}
