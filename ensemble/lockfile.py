"""`ensemble.json`: the lockfile that names members by the hash of their weights, with views, merge and temperatures."""

import json
import math
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ensemble.cascade.stages import Stage, check_stages
from ensemble.members import Member, check_members, check_weight
from ensemble.merge import MERGES, Merge
from tta import VIEW_SETS
from zoo import store
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError
from zoo.files import atomic_write

__all__ = ["FORMAT", "Committee", "read_lockfile", "read_provenance", "write_lockfile"]

FORMAT = "menagerie.ensemble/1"


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


def read_lockfile(path: Path) -> Committee:
    """Read an `ensemble.json` and find its members.

    Raises:
        NotFoundError: no such file, or a member that no source has.
        CorruptError: not a lockfile of this format, or its cascade is none of its ensemble.
        DataError: a member whose weights or classes are not those the lockfile was made with.
    """
    table = _read_table(path)
    try:
        members = tuple(_read_member(m, path) for m in table["members"])
        check_members(members)
        views, merge, temperature = table["views"], table["merge"], float(table["temperature"])
        if not members or views not in VIEW_SETS or merge not in MERGES or not 0 < temperature < math.inf:
            raise ValueError(f"views {views!r}, merge {merge!r}, temperature {temperature}, {len(members)} members")
        stages = tuple(_read_stage(s) for s in table.get("cascade") or ())
        if table.get("cascade") is not None:
            check_stages(stages, [m.name for m in members], views, merge, temperature)
    except (KeyError, TypeError, ValueError, OverflowError, UsageError) as error:
        raise CorruptError(f"{path} is malformed: {error}") from error
    cards = [m.origin.card for m in members if isinstance(m.origin, Entry)]
    if any((card.dataset, list(card.classes)) != (table.get("dataset"), table.get("classes")) for card in cards):
        raise DataError(f"{path} is for other classes than its members have")
    return Committee(members, views, merge, temperature, stages)


def read_provenance(path: Path) -> dict[str, Any] | None:
    """Return what a lockfile says it was fitted on, if it does; errors as `read_lockfile` about the file itself."""
    found = _read_table(path).get("fitted_on")
    return found if isinstance(found, dict) else None


def _read_table(path: Path) -> dict[str, Any]:
    """Return the table of a lockfile, whatever is in it."""
    try:
        table = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise NotFoundError(f"cannot read {path}: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CorruptError(f"{path} is not JSON: {error}") from error
    if not isinstance(table, dict) or table.get("format") != FORMAT:
        raise CorruptError(f"{path} is not an ensemble of format {FORMAT!r}")
    return table


def _read_stage(table: dict[str, Any]) -> Stage:
    """Return a stage of a cascade; `check_stages` says whether it is one of its ensemble."""
    members = table["members"]
    if not isinstance(members, list) or not all(isinstance(name, str) for name in members):
        raise TypeError("the members of a stage are no list of names")
    return Stage(tuple(members), table["views"], float(table["temperature"]), float(table["threshold"]))


def _read_member(table: dict[str, Any], path: Path) -> Member:
    entry = store.find(str(table["name"]))
    if entry.weights_digest != table["sha256"]:
        raise DataError(f"{path} was made with other weights of {entry.name!r} than those in {entry.source}")
    temperature = check_weight(float(table["temperature"]), entry.name, "temperature")
    return Member(entry.name, entry, check_weight(float(table["weight"]), entry.name), temperature)


def write_lockfile(
    path: Path, committee: Committee, *, fitted_on: dict[str, Any] | None, metrics: dict[str, Any]
) -> None:
    """Write a committee of zoo entries as `ensemble.json`, whole or not at all.

    Args:
        path: of the file.
        committee: its members must be zoo entries of one dataset; a cascade must be one of them.
        fitted_on: `split`, `fingerprint`, `images` and `objective` of what weights and temperatures were fitted on.
        metrics: of the committee.

    Raises:
        DataError: a member is a prediction file or an external entry, which cannot be run again.
        ValueError: what the committee has is no cascade of it.
        StorageError: the disk refuses.
    """
    if committee.cascade:
        names = [m.name for m in committee.members]
        check_stages(committee.cascade, names, committee.views, committee.merge, committee.temperature)
    entries = [m.origin for m in committee.members if isinstance(m.origin, Entry) and not m.origin.external]
    if len(entries) != len(committee.members):
        raise DataError("somebody's predictions cannot be a member of a lockfile: there are no weights to run")
    table = {
        "format": FORMAT,
        "dataset": entries[0].card.dataset,
        "classes": entries[0].card.classes,
        "members": [
            {"name": m.name, "sha256": e.weights_digest, "weight": m.weight, "temperature": m.temperature}
            for m, e in zip(committee.members, entries, strict=True)
        ],
        "views": committee.views,
        "merge": committee.merge,
        "temperature": committee.temperature,
        "fitted_on": fitted_on,
        "cascade": [asdict(stage) for stage in committee.cascade] or None,
        "metrics": metrics,
    }
    atomic_write(path, (json.dumps(table, indent=1) + "\n").encode())
