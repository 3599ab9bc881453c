"""What committees answer, cascades included, and whether they were asked about the same images."""

from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.cascade.stored import stored_exits, usage
from ensemble.comparison import Answers
from ensemble.evaluate import SplitSource, stored_ballots, stored_split
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import Vote, merge
from ensemble.report.candidates import multiply_adds
from ensemble.report.record import UsedStage
from ensemble.view_cache import cached_views
from tta import view_set
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import DataError, MenagerieError, NotFoundError

__all__ = ["Said", "fingerprint_of", "images_of", "say", "unanswered"]


@dataclass(frozen=True, eq=False)
class Said:
    """What a committee says of N images, and at which expense.

    Attributes:
        answers: probabilities and classes.
        multiply_adds: for an image, in units of 10^9; of a cascade, the mean. None if a card does not say.
        stages: of a cascade, with the share of the images that each answers.
    """

    answers: Answers
    multiply_adds: float | None
    stages: tuple[UsedStage, ...] = ()


def say(committee: Committee, votes: Sequence[Vote]) -> Said:
    """Return what a committee says, by its cascade if it has one, given what its members say."""
    if not committee.cascade:
        probs, top = merge(votes, committee.merge, committee.temperature)
        return Said(Answers(probs, top, likelihood=committee.merge != "vote"), multiply_adds(committee))
    exits = stored_exits(committee, votes)
    shares, mean = usage(committee, exits)
    stages = tuple(
        UsedStage(**vars(stage), share=float(share)) for stage, share in zip(committee.cascade, shares, strict=True)
    )
    return Said(Answers(exits.probs, exits.top), None if mean is None else mean / 1e9, stages)


def fingerprint_of(members: Sequence[Member], source: SplitSource) -> str:
    """Return the fingerprint of the images that all members have predictions for.

    Raises:
        DataError: they are for different images.
        NotFoundError: nobody has any.
    """
    marks: dict[str, str] = {}
    silent: NotFoundError | None = None
    for member in members:
        try:
            origin = member.origin
            mark = (stored_split(origin, source) if isinstance(origin, Entry) else source.split).fingerprint
        except NotFoundError as error:  # said where its predictions are asked for
            silent = silent or error
            continue
        marks.setdefault(mark, member.name)
    if len(marks) > 1:
        said = ", ".join(f"{name} ({mark[:8]})" for mark, name in marks.items())
        raise DataError(f"these are predictions for different {source.name} images: {said}")
    if not marks:
        raise NotFoundError(f"no member of the pool has predictions for the {source.name} split: {silent}") from silent
    return next(iter(marks))


def unanswered(failed: Sequence[tuple[Committee, MenagerieError]], source: SplitSource) -> list[str]:
    """Return who has no predictions to show and why, each once: one line for all members that lack the same views.

    Args:
        failed: committees, and what `stored_ballots` raised for them.
        source: the split.
    """
    lacking: dict[str, dict[str, Member]] = {}
    notes: list[str] = []
    for committee, error in failed:
        some = [member for member in committee.members if _lacks(member, committee.views, source)]
        if not some:
            notes.append(str(error))
        for member in some:
            lacking.setdefault(committee.views, {}).setdefault(member.name, member)
    for views, members in lacking.items():
        try:  # which says what to run for all of them
            stored_ballots(Committee(tuple(members.values()), views), source)
        except (NotFoundError, DataError) as error:
            notes.append(str(error))
    return list(dict.fromkeys(notes))


def _lacks(member: Member, views: str, source: SplitSource) -> bool:
    """Say whether an entry has stored predictions, and its network could add those under the views that it lacks."""
    if not isinstance(member.origin, Entry) or member.origin.external:
        return False
    try:
        stored = stored_split(member.origin, source)
    except MenagerieError:  # which says so itself
        return False
    known = {*stored.views, *cached_views(member.origin, source.name, stored.fingerprint)}
    return not {view.name for view in view_set(views)} <= known


def images_of(source: SplitSource, fingerprint: str) -> tuple[Split | None, str | None]:
    """Return the images that predictions are for, or None and why there are none."""
    try:
        split = source.split
    except MenagerieError as error:
        return None, f"mistakes have no pictures: {error}"
    if split.fingerprint != fingerprint:
        return None, f"mistakes have no pictures: the {source.name} images at hand are not those of the predictions"
    return split, None
