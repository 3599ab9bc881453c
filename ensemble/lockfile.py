"""`ensemble.json`: the lockfile that names members by the hash of their weights, with views, merge and temperatures."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

from ensemble.cascade.stages import Stage, check_stages
from ensemble.lockfile_fields import choice, digest, items, number, table_of, text, texts
from ensemble.members import Member
from ensemble.merge import MERGES, Merge
from tta import VIEW_SETS
from zoo import store
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, NotFoundError
from zoo.files import atomic_write
from zoo.names import is_name

__all__ = [
    "FORMAT",
    "Committee",
    "lockfile_table",
    "lockfile_text",
    "read_lockfile",
    "read_provenance",
    "write_lockfile",
]

FORMAT = "menagerie.ensemble/1"

_WEIGHTS, _TEMPERATURES = (1e-12, 1e12), (1e-6, 1e6)  # beyond them, sums and quotients in fp32 overflow to NaN
_MOST_IMAGES = 1 << 53
_OBJECTIVES = ("nll", "accuracy", "cascade")  # the last where nothing but a cascade's stages was fitted
_LONGEST = 1 << 26  # bytes of a file; a thousand members take a third of a million
_SHOWN = 40  # characters of what somebody wrote into a file


@dataclass(frozen=True)
class Committee:
    """Members, and how their votes are merged.

    Attributes:
        members: at least one.
        views: name of a view set.
        merge: `probs`, `logits` or `vote`.
        temperature: of the ensemble, above 0.
        cascade: stages, the last of which is the committee; none for a committee that is always asked as a whole.
    """

    members: tuple[Member, ...]
    views: str = "none"
    merge: Merge = "probs"
    temperature: float = 1.0
    cascade: tuple[Stage, ...] = ()


@dataclass(frozen=True)
class _Named:
    """A member as a lockfile has it."""

    name: str
    sha256: str
    weight: float
    temperature: float


@dataclass(frozen=True)
class _Locked:
    """What a lockfile says, before its members are looked for."""

    dataset: str
    classes: tuple[str, ...]
    members: tuple[_Named, ...]
    views: str
    merge: Merge
    temperature: float
    fitted_on: dict[str, Any] | None
    cascade: tuple[Stage, ...]


def read_lockfile(path: Path) -> Committee:
    """Read an `ensemble.json` and find its members.

    Raises:
        NotFoundError: no such file, or a member that no source has.
        CorruptError: not a lockfile of this format, or something in it cannot be; the line says what.
        DataError: a member whose weights or classes are not those the lockfile was made with.
    """
    locked = _read(path)
    members = tuple(_find(named, path) for named in locked.members)
    cards = [m.origin.card for m in members if isinstance(m.origin, Entry)]
    if any((card.dataset, card.classes) != (locked.dataset, locked.classes) for card in cards):
        raise DataError(f"{path} is for other classes than its members have")
    return Committee(members, locked.views, locked.merge, locked.temperature, locked.cascade)


def read_provenance(path: Path, committee: Committee | None = None) -> dict[str, Any] | None:
    """Return what a lockfile says it was fitted on: `split`, `fingerprint`, `images`, `objective`; None if nothing.

    Args:
        path: of the lockfile.
        committee: that it holds. If given, what the file says must be what the cards of all members say, too: that it
            was the validation split, which they held out when they trained. Whatever continues a fit should ask so.

    Raises:
        NotFoundError, CorruptError: as `read_lockfile`, about the file itself.
        DataError: it was fitted on other images than a member held out, or the member's card does not say what it did.
    """
    fitted = _read(path).fitted_on
    if fitted is None or committee is None:
        return fitted
    for member in committee.members:
        about = member.origin.card.trained_on if isinstance(member.origin, Entry) else None
        held_out = (about or {}).get("held_out")
        if (fitted["split"], fitted["fingerprint"]) != ("val", held_out):
            split, mark = fitted["split"][:_SHOWN], fitted["fingerprint"][:8]
            theirs = f"held out {str(held_out)[:8]}" if held_out else "does not say what it held out"
            raise DataError(
                f"{path} says that it was fitted on the split {split!r} {mark}, but its member {member.name!r} "
                f"{theirs}: `ensemble select` fits an ensemble to images that its members have not seen"
            )
    return fitted


def _read(path: Path) -> _Locked:
    """Return what a lockfile says, checked in itself; errors as in `read_lockfile`."""
    try:
        with path.open("rb") as file:
            content = file.read(_LONGEST + 1)
        if len(content) > _LONGEST:
            raise CorruptError(f"{path} has more than {_LONGEST:,} bytes, which no ensemble has")
        table = json.loads(content.decode("utf-8-sig"))
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise CorruptError(f"{path} is not an ensemble of format {FORMAT!r}")
    try:
        return _parse(table)
    except ValueError as error:
        raise CorruptError(f"{path} is malformed: {error}") from error


def _parse(table: dict[str, Any]) -> _Locked:
    """Return what is in a lockfile's table; `ValueError` says what cannot be, in a line."""
    of = "the ensemble"
    members = tuple(_named(one, n) for n, one in enumerate(items(table, "members", of), 1))
    names = [member.name for member in members]
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise ValueError(f"member {twice!r} is there twice")
    views, merge = choice(table, "views", of, VIEW_SETS), cast("Merge", choice(table, "merge", of, MERGES))
    temperature = number(table, "temperature", of, *_TEMPERATURES)
    stages: tuple[Stage, ...] = ()
    if table.get("cascade") is not None:
        found = items(table, "cascade", of)
        # The last stage is the ensemble, so that is what its temperature is where the file has none.
        usual = [1.0] * (len(found) - 1) + [temperature]
        stages = tuple(_stage(one, n, t) for n, (one, t) in enumerate(zip(found, usual, strict=True), 1))
        check_stages(stages, names, views, merge, temperature)
    dataset, classes = text(table, "dataset", of), texts(table, "classes", of)
    return _Locked(dataset, classes, members, views, merge, temperature, _fitted_on(table), stages)


def _named(value: object, position: int) -> _Named:
    """Return a member as its table has it."""
    table = table_of(value, f"member {position}")
    name = text(table, "name", f"member {position}")
    if not is_name(name):
        raise ValueError(f"name of member {position}: {name[:_SHOWN]!r} is not a valid entry name")
    of = f"member {name!r}"
    sha256 = digest(table, "sha256", of)
    weight, temperature = number(table, "weight", of, *_WEIGHTS), number(table, "temperature", of, *_TEMPERATURES)
    return _Named(name, sha256, weight, temperature)


def _stage(value: object, position: int, usual: float) -> Stage:
    """Return a stage of a cascade, whose temperature is `usual` if the file has none."""
    of = f"stage {position}"
    table = table_of(value, of)
    members, views = texts(table, "members", of), choice(table, "views", of, VIEW_SETS)
    temperature = number(table, "temperature", of, *_TEMPERATURES) if "temperature" in table else usual
    return Stage(members, views, temperature, number(table, "threshold", of, 0, 1))


def _fitted_on(table: dict[str, Any]) -> dict[str, Any] | None:
    """Return what an ensemble was fitted on, if that is said; whatever else is there is left out."""
    if table.get("fitted_on") is None:
        return None
    of = "'fitted_on'"
    said = table_of(table["fitted_on"], of)
    images = number(said, "images", of, 1, _MOST_IMAGES)
    if images != int(images):
        raise ValueError(f"images of {of}: {images:g} is not a whole number")
    return {
        "split": text(said, "split", of),
        "fingerprint": digest(said, "fingerprint", of),
        "images": int(images),
        "objective": choice(said, "objective", of, _OBJECTIVES),
    }


def _find(named: _Named, path: Path) -> Member:
    """Return the member that a lockfile names, with the weights it was made with."""
    try:
        entry = store.find(named.name)
    except NotFoundError as error:
        raise NotFoundError(f"{path}: {error}") from error
    if entry.weights_digest != named.sha256:
        raise DataError(f"{path} was made with other weights of {entry.name!r} than those in {entry.source}")
    return Member(entry.name, entry, named.weight, named.temperature)


def lockfile_table(
    committee: Committee, *, fitted_on: dict[str, Any] | None = None, metrics: dict[str, Any] | None = None
) -> dict[str, Any]:
    """Return a committee of zoo entries as an `ensemble.json` has it: as JSON, which knows lists and no tuples.

    Args:
        committee: its members must be zoo entries of one dataset; a cascade must be one of them.
        fitted_on: `split`, `fingerprint`, `images` and `objective` of what weights and temperatures were fitted on.
        metrics: of the committee.

    Raises:
        DataError: a member is a prediction file or an external entry, which cannot be run again.
        ValueError: what the committee has is no cascade of it.
    """
    if committee.cascade:
        names = [m.name for m in committee.members]
        check_stages(committee.cascade, names, committee.views, committee.merge, committee.temperature)
    entries = [m.origin for m in committee.members if isinstance(m.origin, Entry) and not m.origin.external]
    if len(entries) != len(committee.members):
        raise DataError("somebody's predictions cannot be a member of a lockfile: there are no weights to run")
    return {
        "format": FORMAT,
        "dataset": entries[0].card.dataset,
        "classes": list(entries[0].card.classes),
        "members": [
            {"name": m.name, "sha256": e.weights_digest, "weight": m.weight, "temperature": m.temperature}
            for m, e in zip(committee.members, entries, strict=True)
        ],
        "views": committee.views,
        "merge": committee.merge,
        "temperature": committee.temperature,
        "fitted_on": fitted_on,
        "cascade": [{**asdict(stage), "members": list(stage.members)} for stage in committee.cascade] or None,
        "metrics": metrics or {},
    }


def lockfile_text(committee: Committee, *, fitted_on: dict[str, Any] | None, metrics: dict[str, Any]) -> str:
    """Return a committee of zoo entries as the text of an `ensemble.json`; as `lockfile_table` otherwise."""
    return json.dumps(lockfile_table(committee, fitted_on=fitted_on, metrics=metrics), indent=1) + "\n"


def write_lockfile(
    path: Path, committee: Committee, *, fitted_on: dict[str, Any] | None, metrics: dict[str, Any]
) -> None:
    """Write a committee of zoo entries as `ensemble.json`, whole or not at all.

    Arguments and errors are those of `lockfile_table`, and `StorageError`: the disk refuses.
    """
    atomic_write(path, lockfile_text(committee, fitted_on=fitted_on, metrics=metrics).encode())
