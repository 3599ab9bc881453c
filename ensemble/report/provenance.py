"""What was fitted on which images: the validation split of a report, and whether all that was fitted was so on it."""

from collections.abc import Mapping, Sequence
from typing import Any

from ensemble.evaluate import SplitSource, stored_split
from ensemble.fit.leaks import check_unseen, refuse_unknown
from ensemble.fit.pool import SPLIT
from ensemble.members import Member
from zoo.errors import DataError, NotFoundError, UsageError

__all__ = ["Provenance", "held_out", "is_fitted_on", "said_of_fits", "unseen"]

Provenance = Mapping[str, Any] | None
"""A lockfile's `fitted_on`: `split`, `fingerprint`, `images`, `objective`; None if it has none."""

_SHOWN = 40  # characters of what somebody wrote into a file


def unseen(member: Member, validation: SplitSource) -> str | None:
    """Return the fingerprint of the validation split that a member held out, and has predictions for; None if none."""
    try:
        (entry,) = refuse_unknown([member])
        mark = stored_split(entry, validation).fingerprint
        check_unseen(entry, mark)
    except (NotFoundError, DataError, UsageError):
        return None
    return mark


def held_out(members: Sequence[Member], validation: SplitSource) -> str | None:
    """Return the fingerprint of a report's validation split: that of the first member which held one out."""
    return next((mark for member in members if (mark := unseen(member, validation)) is not None), None)


def is_fitted_on(fitted: Provenance, mark: str | None) -> bool:
    """Say whether a fit was on the validation split with this fingerprint, by what its lockfile states."""
    return fitted is not None and mark is not None and (fitted.get("split"), fitted.get("fingerprint")) == (SPLIT, mark)


def said_of_fits(fits: Mapping[str, Provenance], mark: str | None, split: str) -> str:
    """Return what a reader has to know of everything that was fitted or chosen.

    Args:
        fits: name of an ensemble file or graph -> what it says it was fitted on.
        mark: fingerprint of the validation split; None if no member is known to have held one out.
        split: that scores are of.
    """
    doubts = [f"{name} {_doubt(fitted, mark)}" for name, fitted in fits.items() if not is_fitted_on(fitted, mark)]
    if doubts:
        said = f"Whatever was fitted or chosen for this page was so on the validation split. But {'; '.join(doubts)}."
    else:
        said = "Whatever was fitted or chosen was so on the validation split."
    if split == SPLIT:
        said += " These are the same images: on others, what was fitted or chosen is not as good."
    return said


def _doubt(fitted: Provenance, mark: str | None) -> str:
    if fitted is None:
        return "does not say what it was fitted on"
    split = str(fitted.get("split"))[:_SHOWN]
    if split != SPLIT:
        return f"was fitted on the {split} split"
    whose = "that no member is known to have held out" if mark is None else "than those that the members held out"
    other = "" if mark is None else "other "
    return f"was fitted on {other}validation images ({str(fitted.get('fingerprint'))[:8]}) {whose}"
