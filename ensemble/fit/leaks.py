"""Who may take part in a fit: members that say what they trained on, and that it was not the validation split."""

from collections.abc import Sequence

from ensemble.members import Member
from zoo.entry import Entry
from zoo.errors import DataError, UsageError

__all__ = ["check_unseen", "refuse_mixed", "refuse_unknown"]

_SHOWN = 3


def refuse_mixed(members: Sequence[Member]) -> None:
    """Raise `DataError` if members tell different classes apart: a pattern such as `*` matches all that there is."""
    found: dict[tuple[str, tuple[str, ...]], list[str]] = {}
    for member in members:
        if isinstance(member.origin, Entry):
            card = member.origin.card
            found.setdefault((card.dataset, tuple(card.classes)), []).append(member.name)
    if len(found) > 1:
        said = "; ".join(
            f"{len(classes)} classes of {data} ({', '.join(classes[:_SHOWN])}, ...): {_named(names)}"
            for (data, classes), names in found.items()
        )
        raise DataError(
            f"members must have the same classes in the same order: give names or patterns of one of these: {said}"
        )


def refuse_unknown(members: Sequence[Member]) -> list[Entry]:
    """Return the members' entries, if each can be fitted at all; nothing but cards is read.

    Raises:
        UsageError: a member is a prediction file.
        DataError: an external entry, or one whose card does not say what it trained on.
    """
    entries = [m.origin for m in members if isinstance(m.origin, Entry)]
    files = [m.name for m in members if not isinstance(m.origin, Entry)]
    if files:
        raise UsageError(
            f"{_named(files)} cannot take part in a fit: a prediction file does not say what its model trained on"
        )
    external = [e.name for e in entries if e.external]
    if external:
        raise DataError(f"{_named(external)} cannot take part in a fit: made of predictions alone, no weights to run")
    silent = [e.name for e in entries if e.card.trained_on is None]
    if silent:
        raise DataError(
            f"{_named(silent)} cannot take part in a fit: the card does not say what it trained on, "
            "so it may have seen the validation split"
        )
    return entries


def check_unseen(entry: Entry, fingerprint: str) -> None:
    """Raise `DataError` unless an entry's card says that the split with this fingerprint was held out of its training.

    Args:
        entry: one that `refuse_unknown` let pass.
        fingerprint: of the validation split that is fitted on.
    """
    about = entry.card.trained_on or {}
    if about.get("held_out") != fingerprint or about.get("fingerprint") == fingerprint:
        raise DataError(
            f"{entry.name!r} cannot take part in a fit on the validation split {fingerprint[:8]}: "
            f"it held out {str(about.get('held_out'))[:8]} when it trained, so it may have seen these images"
        )


def _named(names: Sequence[str]) -> str:
    """Return a few names for a message, and how many more there are."""
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(repr(name) for name in names[:_SHOWN]) + more
