"""What is compared in a report: members alone, the best committees of the pool, and ensemble files."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from ensemble.cascade.stored import member_costs
from ensemble.fit.limits import Limits
from ensemble.fit.pool import MissingViewsError, read_pool
from ensemble.fit.select import fit_views
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.report.record import Kind
from tta import view_set
from zoo.card import Card
from zoo.entry import Entry
from zoo.errors import MenagerieError

__all__ = ["Candidate", "alone", "best_of_pool", "from_files", "multiply_adds", "runnable", "teacher_of"]

_NAMED = 2


@dataclass(frozen=True, eq=False)
class Candidate:
    """A committee with what a report calls it.

    Attributes:
        name: for people.
        kind: what it is.
        committee: who answers, and how.
        teacher: of a student.
    """

    name: str
    kind: Kind
    committee: Committee
    teacher: str | None = None


def teacher_of(card: Card) -> str | None:
    """Return who taught a network in a few words, as its card says (`training.teacher`); None if nobody did.

    It is a name, or a table with the `members` of a committee, each a table with a `name`, and its `views`.
    """
    said = card.training.get("teacher")
    if not isinstance(said, Mapping):
        return str(said) if said else None
    members = said.get("members")
    names = [str(m.get("name")) for m in members if isinstance(m, Mapping)] if isinstance(members, list | tuple) else []
    if not names:
        return "an ensemble"
    who = ", ".join(names) if len(names) <= _NAMED else f"{names[0]} and {len(names) - 1} others"
    views = said.get("views", "none")
    return who if views == "none" else f"{who} + {views}"


def runnable(committee: Committee) -> bool:
    """Say whether all members have networks, so that the committee can be timed."""
    return all(isinstance(m.origin, Entry) and not m.origin.external for m in committee.members)


def multiply_adds(committee: Committee) -> float | None:
    """Return the multiply-adds for an image under all views, in units of 10^9; None if a card does not say."""
    costs = member_costs(committee)
    return None if costs is None else sum(costs) * len(view_set(committee.views)) / 1e9


def alone(members: Sequence[Member], sets: Sequence[str]) -> list[Candidate]:
    """Return each member alone under each view set; what has predictions only is as it is, under one set."""
    found: list[Candidate] = []
    for member in members:
        card = member.origin.card if isinstance(member.origin, Entry) else None
        teacher = teacher_of(card) if card is not None else None
        kind: Kind = "member" if teacher is None else "student"
        one = Committee((Member(member.name, member.origin),))
        shown = sets if runnable(one) else sets[:1]
        found += [Candidate(member.name, kind, Committee(one.members, views), teacher) for views in shown]
    return found


def best_of_pool(members: Sequence[Member], sets: Sequence[str], most: int) -> tuple[list[Candidate], list[str]]:
    """Select the best committee of 2, 3, ... `most` members under each view set, on the validation split.

    Args:
        members: the pool; who cannot take part in a fit is left out.
        sets: names of view sets.
        most: members of the largest committee.

    Returns:
        The committees, each once, and notes on who was left out and why.
    """
    notes: list[str] = []
    fit = list(members)
    try:
        read = read_pool(fit, sets)
    except MenagerieError:
        fit, notes = _fittable(members, sets)
        if len(fit) < 2:  # noqa: PLR2004  # there is no committee
            return [], notes
        read = read_pool(fit, sets)
    pool, entries, _ = read
    found: dict[tuple[str, tuple[int, ...]], Candidate] = {}
    for views in sets:
        for size in range(2, min(most, len(fit)) + 1):
            chosen = fit_views(pool, views, Limits(np.zeros(len(fit)), None, size))
            if len(chosen.members) < 2:  # noqa: PLR2004  # a member alone is there already
                continue
            who = tuple(
                Member(pool.names[m], entries[pool.names[m]], weight, temperature)
                for m, weight, temperature in zip(chosen.members, chosen.weights, chosen.temperatures, strict=True)
            )
            committee = Committee(who, views, "probs", chosen.temperature)
            name = f"best {len(who)} of {len(fit)}"
            found.setdefault((views, tuple(sorted(chosen.members))), Candidate(name, "committee", committee))
    return list(found.values()), notes


def _fittable(members: Sequence[Member], sets: Sequence[str]) -> tuple[list[Member], list[str]]:
    """Return who can take part in a fit, and why the others cannot."""
    fit: list[Member] = []
    notes: list[str] = []
    missing: dict[str, list[str]] = {}
    first = ""
    for member in members:
        try:
            _, _, mark = read_pool([member], sets)
        except MissingViewsError as error:
            for views in error.missing:
                missing.setdefault(views, []).append(member.name)
            continue
        except MenagerieError as error:
            notes.append(f"in no committee of the pool: {error}")
            continue
        first = first or mark
        if mark == first:
            fit.append(member)
        else:
            notes.append(f"in no committee of the pool: {member.name!r} held out other images than {fit[0].name!r}")
    if missing:
        notes.append(f"in no committee of the pool: {MissingViewsError(missing)}")
    return fit, notes


def from_files(files: Mapping[str, Committee]) -> list[Candidate]:
    """Return ensemble files as candidates, by the names they were given with; a cascade also as a whole."""
    found = [Candidate(name, "cascade" if c.cascade else "ensemble", c) for name, c in files.items()]
    for name, committee in files.items():
        whole = replace(committee, cascade=())
        if committee.cascade and whole not in files.values():
            found.append(Candidate(f"{name}, whole", "ensemble", whole))
    return found
