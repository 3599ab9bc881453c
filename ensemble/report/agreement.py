"""The members of a pool alone, and how alike they answer."""

from collections.abc import Sequence

import numpy as np

from ensemble.comparison import Answers
from ensemble.diversity import disagreement, diversity, error_correlation
from ensemble.evaluate import Ballots, SplitSource, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import Merge, merge
from ensemble.report.answers import unanswered
from ensemble.report.candidates import teacher_of
from ensemble.report.closeup import scores
from ensemble.report.record import Agreement, MemberDiversity, MemberRow
from zoo.data.split import Labels
from zoo.entry import Entry
from zoo.errors import DataError, MenagerieError, NotFoundError

__all__ = ["SHOWN", "how_diverse", "look_at_members"]

SHOWN = 40
"""Members in the map; of more, the most accurate ones."""


def look_at_members(
    members: Sequence[Member], views: str, source: SplitSource
) -> tuple[tuple[MemberRow, ...], Agreement | None, list[str]]:
    """Score each member alone from its stored predictions, and compare them in pairs.

    Args:
        members: the pool.
        views: name of the view set.
        source: the split.

    Returns:
        Rows, the most accurate first; the agreement of the first `SHOWN`, None of a single one; and notes on who
        has no predictions for these images.
    """
    rows: list[MemberRow] = []
    tops = {}
    failed: list[tuple[Committee, MenagerieError]] = []
    labels = None
    for member in members:
        one = Committee((Member(member.name, member.origin),), views)
        try:
            ballots = stored_ballots(one, source)
        except (NotFoundError, DataError) as error:
            failed.append((one, error))
            continue
        labels = ballots.labels
        probs, top = merge(ballots.votes, "probs")
        tops[member.name] = top.astype(np.int32)
        rows.append(_row(member, Answers(probs, top), ballots.labels))
    notes = [f"left out: {why}" for why in unanswered(failed, source)]
    rows.sort(key=lambda row: (-row.scores.accuracy, row.name))
    ranked = rows[:SHOWN]
    if labels is None or len(ranked) < 2:  # noqa: PLR2004  # nobody to agree with
        return tuple(rows), None, notes
    answers = np.stack([tops[row.name] for row in ranked])
    same, errors = 1 - disagreement(answers), error_correlation(answers == labels)
    found = Agreement(
        views,
        tuple(row.name for row in ranked),
        tuple(map(tuple, same.tolist())),
        tuple(map(tuple, errors.tolist())),
        len(rows) - len(ranked),
    )
    return tuple(rows), found, notes


def how_diverse(committee: Committee, ballots: Ballots) -> MemberDiversity | None:
    """Measure how differently the members of a committee answer, each alone as it is in it; None of a single one.

    Args:
        committee: of a cascade, all its members are meant.
        ballots: what they say.
    """
    if len(committee.members) < 2:  # noqa: PLR2004
        return None
    how: Merge = "probs" if committee.merge == "vote" else committee.merge  # a vote alone is no distribution
    probs = np.stack([merge([vote], how)[0] for vote in ballots.votes])
    names = tuple(member.name for member in committee.members)
    return MemberDiversity(committee.views, names, **diversity(probs, ballots.labels).means())


def _row(member: Member, answers: Answers, labels: Labels) -> MemberRow:
    found = scores(answers, labels)
    if not isinstance(member.origin, Entry):
        return MemberRow(member.name, "", found, None, None, note="prediction file")
    card = member.origin.card
    return MemberRow(
        name=member.name,
        architecture=card.architecture,
        scores=found,
        parameters=card.parameters or None,
        multiply_adds=card.multiply_adds / 1e9 or None,
        teacher=teacher_of(card),
        note="predictions only" if member.origin.external else "",
    )
