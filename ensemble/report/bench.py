"""Running candidates for a report: how long they take, and what they answer in another precision than fp32."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn

from ensemble.cascade.run import Cascade
from ensemble.evaluate import Ballots, SplitSource, entry_vote
from ensemble.frozen import freeze
from ensemble.latency.cache import Known, LatencyCache, cached
from ensemble.latency.hardware import rounding
from ensemble.latency.measure import SECONDS, shuffled_batches
from ensemble.latency.workload import Workload, of_committee, of_network
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.module import Ensemble
from ensemble.report.graphs import Graph
from ensemble.report.record import Timing
from ensemble.view_cache import cached_views, keep_views
from tta import view_set
from tta.freeze import FrozenNet, Setting
from tta.predict import Precision, view_logits
from zoo.data.split import Pixels
from zoo.entry import Entry
from zoo.errors import UsageError
from zoo.files import warn_if_not_kept

__all__ = ["Bench", "timing"]

_Run = Callable[[Tensor], object]

_SEED = 0
_PICTURES = 2048  # different images that are timed on, at most


class Bench:
    """One device, on which candidates of a report run.

    Args:
        device: where.
        source: the split whose images are answered, and timed on.
        batches: sizes of the small batch, for latency, and of the large one, for throughput; None for no large one.
        sets: names of the view sets that will be asked for.
        seconds: that each measurement takes.
        remeasure: whether what was measured before counts for nothing.
        tell: called with a few words before anything slow.

    Attributes:
        kept: what was asked for and had been measured before, whatever `seconds` is.
    """

    def __init__(
        self,
        device: torch.device,
        source: SplitSource,
        batches: tuple[int, int | None],
        *,
        sets: Sequence[str] = (),
        seconds: float = SECONDS,
        remeasure: bool = False,
        tell: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.device, self.source, self.batches = device, source, batches
        self.cache = LatencyCache(device)
        self.kept: list[Workload] = []
        self._measured: list[Workload] = []
        self._sets, self._seconds, self._remeasure, self._tell = sets, seconds, remeasure, tell

    def pixels(self) -> Pixels:
        """Return images to be timed on, uint8 `[N, H, W, 3]`: the split's, the first in the order of `Split.order`."""
        split = self.source.split
        return split.images[split.order[: max(_PICTURES, *self._sizes)]]

    @property
    def _sizes(self) -> list[int]:
        return [batch for batch in self.batches if batch is not None]

    def times(self, committee: Committee, precision: str, runtime: str) -> tuple[Timing, Timing | None]:
        """Return how long a committee takes for the small and the large batch, from and to the CPU's memory.

        Without a cascade, only the shapes of the networks matter, and equal ones are measured once.

        Raises:
            UsageError: it cannot run compiled, or not in this precision.
        """
        stages = bool(committee.cascade)
        what = of_committee(committee) if stages else _shapes(committee)
        images = self._pictures() if stages else "split"
        loaded: list[_Run] = []

        def load() -> _Run:
            if not loaded:
                setting = self._setting(precision, compile=runtime == "compiled")
                whole = Ensemble(committee)
                loaded.append(_from_memory(freeze(Cascade(whole, committee) if stages else whole, setting), setting))
            return loaded[0]

        def known(batch: int) -> Timing:
            workload = Workload(what, committee.views, batch, precision, runtime, images)
            return self.time(workload, load, f"{len(committee.members)} x {committee.views}, {precision}, {runtime}")

        return self._both(known)

    def graph_times(self, graph: Graph) -> tuple[Timing, Timing | None]:
        """Return how long an exported graph takes for the small and the large batch, from and to the CPU's memory."""

        def known(batch: int) -> Timing:
            what = {"graph": graph.sha256, "provider": graph.provider}
            workload = Workload(what, str(graph.lockfile.get("views")), batch, graph.precision, "onnx", "split")
            return self.time(workload, lambda: graph.run, graph.path.name)

        return self._both(known)

    def _both(self, known: Callable[[int], Timing]) -> tuple[Timing, Timing | None]:
        small, large = self.batches
        return known(small), None if large is None else known(large)

    def time(self, workload: Workload, load: Callable[[], _Run], words: str) -> Timing:
        """Return how long a workload takes.

        Args:
            workload: the key under which it is kept.
            load: returns what runs, on images in the CPU's memory; called if it has to be measured.
            words: what is measured, for people.
        """

        def make() -> tuple[_Run, list[Tensor]]:
            self._tell(f"timing {words}, batch of {workload.batch}")
            pixels = self.pixels()
            batch = min(workload.batch, len(pixels))
            if batch < workload.batch:
                raise UsageError(f"a batch of {workload.batch} images: the split has {len(self.source.split)} only")
            return load(), shuffled_batches(pixels, batch, seed=_SEED, device=torch.device("cpu"))

        again = self._remeasure and workload not in self._measured  # what another committee shares is measured once
        known = cached(self.cache, workload, make, remeasure=again, seconds=self._seconds)
        if workload not in (*self._measured, *self.kept):
            (self._measured if known.fresh else self.kept).append(workload)
        return timing(known)

    def ballots(self, committee: Committee, precision: str) -> Ballots:
        """Return what the members answer in a precision, frozen, rows in the order of `Split.order`.

        Each network runs over the split once for each precision, hardware and version of what runs it; the answers are
        kept beside those of other views, and in fp16 as those.

        Raises:
            UsageError: a network cannot run in this precision, or there is none.
        """
        split = self.source.split
        votes = [
            entry_vote(member, self._answers(member, committee.views, precision), committee.views)
            for member in committee.members
        ]
        return Ballots(votes, split.labels[split.order])

    def _setting(self, precision: str, *, compile: bool = False) -> Setting:  # noqa: A002  # the field's word
        return Setting(self.device, cast("Precision", precision), compile)  # which checks it

    def _answers(self, member: Member, views: str, precision: str) -> dict[str, Any]:
        if not isinstance(member.origin, Entry):
            raise UsageError(f"{member.name} has predictions only: it cannot run in {precision}")
        split, name = self.source.split, f"{self.source.name}-{precision}-{rounding(self.cache.hardware)}"
        found = cached_views(member.origin, name, split.fingerprint)
        if not _names(views) <= set(found):
            wider = [s for s in self._sets if _names(s) >= _names(views)]
            whole = max(wider, key=lambda s: len(_names(s)), default=views)  # so that no view runs twice
            self._tell(f"running {member.name} in {precision}, views {whole}")
            card, setting = member.origin.card, self._setting(precision)
            net = FrozenNet(member.origin.load(), setting)
            images, stats = split.images[split.order], (card.mean, card.std)
            fresh = view_logits(net, images, view_set(whole), stats, device=self.device)
            _check([net], setting)
            found = {**found, **{view: logits.astype(np.float16) for view, logits in fresh.items()}}
            with warn_if_not_kept("what was answered"):
                found = keep_views(member.origin, name, split, fresh)
        return dict(found)

    def _pictures(self) -> str:
        """Return what tells the images that are timed on from others, in words."""
        source = self.source
        count = min(len(source.split), max(_PICTURES, *self._sizes))
        return f"{source.dataset} {source.name} {source.split.fingerprint[:16]}, {count} images, seed {_SEED}"


def _from_memory(model: Ensemble | Cascade, setting: Setting) -> _Run:
    """Return what runs a model on images in the CPU's memory and puts probabilities there, as a graph's session does.

    Errors as in `_check`.
    """

    def run(images: Tensor) -> Tensor:
        probs: Tensor = model(images.to(setting.device)).cpu()
        _check(model.nets, setting)
        return probs

    return run


def _check(nets: Iterable[nn.Module], setting: Setting) -> None:
    """Raise `UsageError` if a frozen network has not run as it was to: what it did would go by another's name."""
    for net in nets:
        if isinstance(net, FrozenNet) and net.precision != setting.precision:
            raise UsageError(f"{setting.precision} fails here, as said above: give --precision {net.precision}")
        if isinstance(net, FrozenNet) and net.compiled != setting.compile:
            raise UsageError("torch.compile fails here, as said above: leave --compile out")


def timing(known: Known) -> Timing:
    """Return a latency as a report has it; times to a hundredth of a percent."""
    of = known.latency
    return Timing(
        batch=of.batch,
        runs=of.runs,
        median_ms=of.median_ms,
        p90_ms=of.p90_ms,
        p99_ms=of.p99_ms,
        mean_ms=of.mean_ms,
        images_per_second=of.images_per_second,
        quantiles=tuple(float(f"{ms:.5g}") for ms in of.samples),
        measured=known.measured,
        note=of.note,
    )


def _names(views: str) -> set[str]:
    return {view.name for view in view_set(views)}


def _shapes(committee: Committee) -> dict[str, Any]:
    """Return what the time of a committee without stages depends on."""
    cards: Sequence[Any] = [m.origin.card for m in committee.members if isinstance(m.origin, Entry)]
    return {"networks": sorted((of_network(card) for card in cards), key=repr), "merge": committee.merge}
