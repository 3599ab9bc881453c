"""Fresh ballots: the members' networks run over the images."""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
import torch
from torch import nn

from ensemble.cascade.stored import Exits
from ensemble.evaluate import Ballots, SplitSource, entry_vote, settled_vote
from ensemble.frozen import freeze
from ensemble.lockfile import Committee
from ensemble.merge import Vote
from ensemble.module import Ensemble
from ensemble.predict import classify
from ensemble.view_cache import keep_views
from tta.freeze import FrozenNet, Setting
from tta.predict import Precision, view_logits
from tta.views import view_set
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import DataError
from zoo.predictions import PUBLISHED_VIEWS

__all__ = ["fresh_ballots", "fresh_exits", "keep_ballots", "load_whole"]


def load_whole(
    committee: Committee, source: SplitSource, *, device: torch.device, precision: Precision = "fp32"
) -> Ensemble:
    """Load all networks of a committee at once and freeze them, for both `fresh_ballots` and `fresh_exits`.

    Args:
        committee: of zoo entries.
        source: the split that they are to run over.
        device: where to run.
        precision: of the networks.

    Raises:
        UsageError: a member is a prediction file or an external entry.
        DataError, CorruptError, NotFoundError: as in `fresh_ballots`.
    """
    _check_all(committee, source.split)
    return freeze(Ensemble(committee), Setting(device, precision))


def fresh_ballots(
    committee: Committee,
    source: SplitSource,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    limit: int | None = None,
    progress: Callable[[int, str], None] | None = None,
    whole: Ensemble | None = None,
) -> Ballots:
    """Run every entry's network under every view; prediction files and external entries are taken as they are.

    Args:
        committee: who votes, under which views.
        source: the split.
        device: where to run.
        precision: of the networks.
        limit: run on this many images only, the first of the split's own order.
        progress: called after each batch with the number of images in it and the member's name.
        whole: from `load_whole`, if the networks are loaded already [default: each is loaded and run in its turn].

    Returns:
        Ballots with rows in the order of `Split.order`.

    Raises:
        DataError: a member classifies other classes or sizes than the data has.
        CorruptError, NotFoundError: as in loading the members.
    """
    # Nothing slow before everything can be read.
    _check_all(committee, source.split)
    votes_now = {m.name: settled_vote(m, source, committee.views) for m in committee.members}
    settled = {name: vote for name, vote in votes_now.items() if vote is not None}
    nets: dict[str, nn.Module]
    if whole is not None:
        nets = {m.name: net for m, net in zip(committee.members, whole.nets, strict=True)}
    else:
        running = [m for m in committee.members if m.name not in settled]
        nets = {m.name: m.origin.load() for m in running if isinstance(m.origin, Entry)}
    split = source.split if limit is None else source.split.subset(slice(limit))
    kept = np.flatnonzero(source.split.order < len(split))  # rows of sorted files that are within the limit
    images = split.images[split.order]
    votes: list[Vote] = []
    for member in committee.members:
        if not isinstance(member.origin, Entry) or member.name in settled:
            vote = settled[member.name]
            votes.append(Vote(vote.logits[:, kept], vote.view_weights, member.weight, member.temperature))
            continue
        card, net = member.origin.card, nets.pop(member.name)
        if whole is None:
            net = FrozenNet(net, Setting(device, precision))
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
    whole: Ensemble | None = None,
) -> Exits:
    """Run a committee's cascade with its early exits, batch by batch: what no image needs is not computed.

    Args:
        committee: with a cascade.
        source: the split.
        device: where to run.
        precision: of the networks.
        limit: run on this many images only, the first of the split's own order.
        progress: called after each batch with the number of images in it and `cascade`.
        whole: from `load_whole`, if the networks are loaded already.

    Returns:
        What it says, with rows in the order of `Split.order`.

    Raises:
        UsageError, CorruptError, NotFoundError: as in `load_whole`.
        DataError: likewise, or networks give what is not finite.
    """
    if not committee.cascade:
        raise ValueError("a committee without a cascade has no exits")
    if whole is None:
        whole = load_whole(committee, source, device=device, precision=precision)
    split = source.split if limit is None else source.split.subset(slice(limit))
    show = partial(_show, progress, "cascade")
    answer = classify(committee, split.images[split.order], device=device, progress=show, whole=whole)
    if not np.isfinite(answer.probs).all():
        raise DataError("the cascade gives probabilities that are not finite")
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


def _check_all(committee: Committee, split: Split) -> None:
    """Raise `DataError` if a split's images are not what all entries of a committee classify."""
    for member in committee.members:
        if isinstance(member.origin, Entry):
            _check_fit(member.origin, split)


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
