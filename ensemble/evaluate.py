"""Evaluation of a committee on a split, from stored predictions or by running the networks."""

import shlex
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from ensemble.cascade.stored import Exits, describe, stored_exits
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import Merge, Vote, merge
from ensemble.metrics import ece, measures, nll
from ensemble.prediction_file import read_prediction_file
from ensemble.view_cache import cached_views
from tta import view_set
from zoo.data import Split, dataset_name, load_split
from zoo.data.split import Labels
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, NotFoundError, UsageError
from zoo.predictions import SplitPredictions

__all__ = [
    "Ballots",
    "Report",
    "SplitSource",
    "common_dataset",
    "score",
    "settled_vote",
    "split_source",
    "stored_ballots",
]


@dataclass(frozen=True, eq=False)
class Ballots:
    """What every member says on the same images.

    Attributes:
        votes: one a member.
        labels: `[N]`.
    """

    votes: Sequence[Vote]
    labels: Labels


@dataclass(frozen=True)
class Report:
    """The result of an evaluation; `to_dict` has the keys of `ensemble eval --json`, `cascade` only if there is one."""

    dataset: str
    split: str
    images: int
    views: tuple[str, ...]
    merge: Merge
    source: str
    device: str | None
    precision: str | None
    seconds: float
    members: list[dict[str, Any]]
    ensemble: dict[str, Any]
    cascade: dict[str, Any] | None = None

    def to_dict(self) -> dict[str, Any]:
        """Return the report as plain JSON types; accuracies are fractions, NLL in nats, null for votes."""
        table = {**asdict(self), "views": list(self.views)}
        if self.cascade is None:
            del table["cascade"]
        return table


class SplitSource:
    """A split that is read when somebody needs its images or its order, and only once.

    Args:
        dataset: name of the data.
        name: `test` or `val`.
        folder: where the data is; by default what the package ships, then `ZOO_DATA`.
        size: (height, width) of the images, see `zoo.data.load_split`.
        classes: what the labels count, likewise.
    """

    def __init__(
        self,
        dataset: str,
        name: str,
        folder: Path | None = None,
        *,
        size: tuple[int, int] | None = None,
        classes: tuple[str, ...] | None = None,
    ) -> None:
        self.dataset, self.name, self.folder = dataset, name, folder
        self.size, self.classes = size, classes

    @cached_property
    def split(self) -> Split:
        """The split; errors as in `zoo.data.load_split`."""
        return load_split(self.dataset, self.name, self.folder, size=self.size, classes=self.classes)


def split_source(
    members: Sequence[Member],
    name: str,
    folder: Path | None = None,
    *,
    dataset: str | None = None,
    size: tuple[int, int] | None = None,
) -> SplitSource:
    """Return the split that members are evaluated on, with the size and the classes that their cards state.

    Args:
        members: as in `common_dataset`.
        name: `test` or `val`.
        folder: where the data is, see `zoo.data.load_split`.
        dataset: if there are no entries among the members; by default what the data in `folder` is called.
        size: (height, width) of the images, if there are no entries.

    Raises:
        UsageError: `dataset` or `size` is not what the entries have.
        DataError: two entries classify different things.
    """
    found = common_dataset(members, dataset)
    cards = [m.origin.card for m in members if isinstance(m.origin, Entry)]
    if not cards:
        return SplitSource(dataset or dataset_name(folder), name, folder, size=size)
    if size not in (None, cards[0].input_size):
        height, width = cards[0].input_size
        raise UsageError(f"--size {size[0]}: {cards[0].name!r} takes {height} x {width} pixels; leave --size out")
    return SplitSource(found, name, folder, size=cards[0].input_size, classes=cards[0].classes)


def common_dataset(members: Sequence[Member], asked: str | None = None) -> str:
    """Return the dataset that all entries among the members share; without entries, `asked` or `cifar10`.

    Raises:
        DataError: two entries classify different things.
        UsageError: `asked` is not what the entries classify.
    """
    cards = [m.origin.card for m in members if isinstance(m.origin, Entry)]
    for card in cards[1:]:
        if (card.dataset, card.classes) != (cards[0].dataset, cards[0].classes):
            said = " and ".join(
                f"{c.name!r} has {len(c.classes)} of {c.dataset} ({', '.join(c.classes[:3])}, ...)"
                for c in (cards[0], card)
            )
            raise DataError(f"members must have the same classes in the same order: {said}")
    if cards and asked not in (None, cards[0].dataset):
        raise UsageError(f"--dataset {asked!r}: {cards[0].name!r} classifies {cards[0].dataset}")
    return cards[0].dataset if cards else asked or "cifar10"


def stored_ballots(committee: Committee, source: SplitSource) -> Ballots:
    """Collect the members' stored predictions, rows in the order of `Split.order`; no network runs.

    Raises:
        NotFoundError: an entry has no stored predictions for the split, or not under all views (external ones may).
        DataError: members' predictions are for other images, or a prediction file does not fit.
    """
    marks: dict[str, str] = {}
    votes: list[Vote] = []
    labels: Labels | None = None
    for member in committee.members:
        if isinstance(member.origin, Path):
            votes.append(file_vote(member, source.split))
            marks[member.name], labels = source.split.fingerprint, source.split.labels[source.split.order]
            continue
        stored = stored_split(member.origin, source)
        try:
            votes.append(stored_vote(member, member.origin, stored, source, committee.views))
        except NotFoundError as error:
            if member.origin.external:
                raise
            # One run for all members: another is sure to lack the view, too.
            raise NotFoundError(f"{error}: run `{_fresh_run(committee, source)}` once, which keeps them") from error
        marks[member.name], labels = stored.fingerprint, stored.labels
    if len(set(marks.values())) > 1 or labels is None:
        msg = f"these are predictions for different {source.name} images: " + ", ".join(
            f"{name} ({mark[:8]})" for name, mark in marks.items()
        )
        raise DataError(msg)
    return Ballots(votes, labels)


def stored_split(entry: Entry, source: SplitSource) -> SplitPredictions:
    """Return an entry's stored predictions for a split; errors as in `stored_ballots`."""
    # Said by every command that reads stored predictions, so it names the one that can run networks.
    advice = "it has no network to run" if entry.external else "only `ensemble eval --fresh` runs its network"
    stored = entry.predictions().splits.get(source.name)
    if stored is None:
        raise NotFoundError(f"{entry.name!r} has no stored predictions for the {source.name} split: {advice}")
    _check_classes(entry, stored)
    if source.folder is not None and stored.fingerprint != source.split.fingerprint:
        asked = f"--data {source.folder}"
        raise DataError(f"{entry.name!r} has stored predictions for other {source.name} images than {asked}: {advice}")
    return stored


def _fresh_run(committee: Committee, source: SplitSource) -> str:
    """Return the command that runs a committee's networks and keeps what they say, as a shell takes it."""
    names = [m.name for m in committee.members if isinstance(m.origin, Entry) and not m.origin.external]
    words = ["ensemble", "eval", "--members", ",".join(names), "--tta", committee.views, "--split", source.name]
    data = [] if source.folder is None else ["--data", str(source.folder)]
    if source.name == "val" and not data:  # no validation images ship
        data = ["--data", "DIR"]
    return shlex.join([*words, *data, "--fresh"])


def stored_vote(member: Member, entry: Entry, stored: SplitPredictions, source: SplitSource, views: str) -> Vote:
    """Return the vote of a member's stored predictions, and of those that an earlier fresh run kept.

    What an external entry says is final, as a prediction file: it votes with the views it has.
    """
    if entry.external:
        return entry_vote(member, dict(stored.views), "flip" if views != "none" and "flip" in stored.views else "none")
    kept = {**cached_views(entry, source.name, stored.fingerprint), **stored.views}
    return entry_vote(member, kept, views)


def settled_vote(member: Member, source: SplitSource, views: str) -> Vote | None:
    """Return the vote of a member that no network has to run for: a prediction file or an external entry.

    Raises:
        NotFoundError, DataError: it has nothing to say of these images.
    """
    if isinstance(member.origin, Path):
        return file_vote(member, source.split)
    if not member.origin.external:
        return None
    stored = stored_split(member.origin, source)
    if stored.fingerprint != source.split.fingerprint:
        raise DataError(f"{member.name!r} has predictions for other {source.name} images, and no network to run")
    return stored_vote(member, member.origin, stored, source, views)


def _check_classes(entry: Entry, stored: SplitPredictions) -> None:
    """Raise `CorruptError` unless stored predictions have a column for each class of the card, and at least a row.

    That the labels are columns is `Predictions.decode`'s to check.
    """
    classes = len(entry.card.classes)
    widths = {logits.shape[1] for logits in stored.views.values()}
    if widths != {classes} or not len(stored.labels):
        raise CorruptError(f"{entry.name!r} has stored predictions that do not fit its {classes} classes")


def entry_vote(member: Member, logits: dict[str, npt.NDArray[Any]], views: str) -> Vote:
    """Return a member's vote from its logits by view name; `NotFoundError` if a view of the set is missing."""
    chosen = view_set(views)
    missing = [view.name for view in chosen if view.name not in logits]
    if missing:
        raise NotFoundError(f"{member.name!r} has no stored predictions for view {missing[0]!r} of --tta {views}")
    stack = np.stack([logits[view.name] for view in chosen])
    if not np.isfinite(stack).all():
        raise DataError(f"{member.name!r} gives logits that are not finite")
    return Vote(stack, [view.weight for view in chosen], member.weight, member.temperature)


def file_vote(member: Member, split: Split) -> Vote:
    """Return the vote of a prediction file: what it says is final, so it has one view whatever the others have."""
    if not isinstance(member.origin, Path):
        raise TypeError(f"{member.name} is not a prediction file")
    return Vote(read_prediction_file(member.origin, split)[None], [1.0], member.weight, member.temperature)


def score(
    committee: Committee,
    ballots: Ballots,
    of: SplitSource,
    *,
    source: str,
    device: str | None = None,
    precision: str | None = None,
    seconds: float = 0.0,
    exits: Exits | None = None,
) -> Report:
    """Merge the ballots and measure each member and the ensemble; of a cascade, what it answers.

    Args:
        committee: whose votes these are.
        ballots: from `stored_ballots` or `ensemble.fresh.fresh_ballots`.
        of: the split they are for.
        source: `stored` or `fresh`.
        device: on which the networks ran.
        precision: in which they ran.
        seconds: that getting the ballots took.
        exits: of the cascade when it ran; by default what it answers on the ballots.
    """
    began = time.perf_counter()
    labels = ballots.labels
    members = []
    for member, vote in zip(committee.members, ballots.votes, strict=True):
        # A single vote is no distribution: for a vote, members are measured on their merged probabilities.
        probs, top = merge([vote], "probs" if committee.merge == "vote" else committee.merge)
        members.append(
            {
                "name": member.name,
                "weight": member.weight,
                "accuracy": float((top == labels).mean()),
                "nll": nll(probs, labels),
                "ece": ece(probs, labels, top),
            }
        )
    if committee.cascade:
        exits = exits or stored_exits(committee, ballots.votes)
        probs, top = exits.probs, exits.top
        cascade = describe(committee, ballots.votes, exits, labels)
    else:
        (probs, top), cascade = merge(ballots.votes, committee.merge, committee.temperature), None
    return Report(
        dataset=of.dataset,
        split=of.name,
        images=len(labels),
        views=tuple(view.name for view in view_set(committee.views)),
        merge=committee.merge,
        source=source,
        device=device,
        precision=precision,
        seconds=round(seconds + time.perf_counter() - began, 3),
        members=members,
        ensemble=measures(probs, top, labels, likelihood=committee.merge != "vote"),
        cascade=cascade,
    )
