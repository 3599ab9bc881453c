"""The members of a pool alone, and how alike they answer."""

from collections.abc import Sequence

import numpy as np

from ensemble.comparison import Answers
from ensemble.diversity import disagreement, error_correlation
from ensemble.evaluate import SplitSource, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import merge
from ensemble.report.candidates import teacher_of
from ensemble.report.closeup import scores
from ensemble.report.record import Agreement, MemberRow
from zoo.data.split import Labels
from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError

__all__ = ["SHOWN", "look_at_members"]

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
        Rows, the most accurate first; the agreement of the first `SHOWN`, None of a single one; notes on members that
        have no predictions for these images.
    """
    rows: list[MemberRow] = []
    tops = {}
    notes: list[str] = []
    labels = None
    for member in members:
        one = Committee((Member(member.name, member.origin),), views)
        try:
            ballots = stored_ballots(one, source)
        except (NotFoundError, DataError) as error:
            notes.append(f"not among the members: {error}")
            continue
        labels = ballots.labels
        probs, top = merge(ballots.votes, "probs")
        tops[member.name] = top.astype(np.int32)
        rows.append(_row(member, Answers(probs, top), ballots.labels))
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
