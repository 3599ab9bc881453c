"""Fresh ballots: the members' networks run over the images."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch

from ensemble.cascade.stored import Exits
from ensemble.evaluate import Ballots, SplitSource, entry_vote, settled_vote
from ensemble.lockfile import Committee
from ensemble.merge import Vote
from ensemble.predict import classify
from ensemble.view_cache import keep_views
from tta.freeze import FrozenNet, Setting
from tta.predict import Precision, view_logits
from tta.views import view_set
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import DataError
from zoo.predictions import PUBLISHED_VIEWS

__all__ = ["fresh_ballots", "fresh_exits", "keep_ballots"]


def fresh_ballots(
    committee: Committee,
    source: SplitSource,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    limit: int | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Ballots:
    """Run every entry's network under every view; prediction files and external entries are taken as they are.

    Args:
        committee: who votes, under which views.
        source: the split.
        device: where to run.
        precision: of the networks.
        limit: run on this many images only, the first of the split's own order.
        progress: called after each batch with the number of images in it and the member's name.

    Returns:
        Ballots with rows in the order of `Split.order`.

    Raises:
        DataError: a member classifies other classes or sizes than the data has.
        CorruptError, NotFoundError: as in loading the members.
    """
    whole = source.split
    # Nothing slow before everything can be read.
    for entry in (m.origin for m in committee.members if isinstance(m.origin, Entry)):
        _check_fit(entry, whole)
    votes_now = {m.name: settled_vote(m, source, committee.views) for m in committee.members}
    settled = {name: vote for name, vote in votes_now.items() if vote is not None}
    nets = {m.name: m.origin.load() for m in committee.members if isinstance(m.origin, Entry) and m.name not in settled}
    split = whole if limit is None else whole.subset(slice(limit))
    kept = np.flatnonzero(whole.order < len(split))  # rows of sorted files that are within the limit
    images = split.images[split.order]
    votes: list[Vote] = []
    for member in committee.members:
        if not isinstance(member.origin, Entry) or member.name in settled:
            vote = settled[member.name]
            votes.append(Vote(vote.logits[:, kept], vote.view_weights, member.weight, member.temperature))
            continue
        card, net = member.origin.card, FrozenNet(nets.pop(member.name), Setting(device, precision))
        show = partial(_show, progress, member.name)
        logits = view_logits(
            net,
            images,
            view_set(committee.views),
            (card.mean, card.std),
            device=device,
            progress=show,
        )
        votes.append(entry_vote(member, dict(logits), committee.views))
    return Ballots(votes, split.labels[split.order])


def fresh_exits(
    committee: Committee,
    source: SplitSource,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    limit: int | None = None,
    progress: Callable[[int, str], None] | None = None,
) -> Exits:
    """Run a committee's cascade with its early exits, batch by batch: what no image needs is not computed.

    Args:
        committee: with a cascade.
        source: the split.
        device: where to run.
        precision: of the networks.
        limit: run on this many images only, the first of the split's own order.
        progress: called after each batch with the number of images in it and `cascade`.

    Returns:
        What it says, with rows in the order of `Split.order`.

    Raises:
        DataError, CorruptError, NotFoundError: as in `fresh_ballots`.
    """
    if not committee.cascade:
        raise ValueError("a committee without a cascade has no exits")
    for entry in (m.origin for m in committee.members if isinstance(m.origin, Entry)):
        _check_fit(entry, source.split)
    split = source.split if limit is None else source.split.subset(slice(limit))
    show = partial(_show, progress, "cascade")
    answer = classify(committee, split.images[split.order], device=device, precision=precision, progress=show)
    assert answer.stage is not None  # noqa: S101  # it has a cascade
    return Exits(answer.probs, answer.top, answer.stage)


def keep_ballots(committee: Committee, ballots: Ballots, source: SplitSource) -> None:
    """Cache the logits of views that entries do not ship, so that later runs need no network.

    Args:
        committee: whose ballots these are.
        ballots: from `fresh_ballots`, over the whole split in fp32, as stored predictions are.
        source: the split.

    Raises:
        StorageError: the disk refuses.
    """
    names = [view.name for view in view_set(committee.views)]
    for member, vote in zip(committee.members, ballots.votes, strict=True):
        extra = {n: values for n, values in zip(names, vote.logits, strict=False) if n not in PUBLISHED_VIEWS}
        if isinstance(member.origin, Entry) and not member.origin.external and extra:
            keep_views(member.origin, source.name, source.split, extra)


def _check_fit(entry: Entry, split: Split) -> None:
    """Raise `DataError` if a split's images are not what an entry classifies."""
    size = split.images.shape[1:3]
    if entry.card.classes != split.classes:
        raise DataError(
            f"{entry.name!r} has the classes {_few(entry.card.classes)}, the data has {_few(split.classes)}"
        )
    if entry.card.input_size != size:
        height, width = entry.card.input_size
        raise DataError(f"{entry.name!r} takes {height} x {width} pixels, the data has {size[0]} x {size[1]}")


def _few(classes: Sequence[str]) -> str:
    return f"{', '.join(classes[:3])}, ... ({len(classes)})"


def _show(progress: Callable[[int, str], None] | None, name: str, done: int) -> None:
    """Pass progress on with the member's name, if anybody wants it."""
    if progress is not None:
        progress(done, name)
