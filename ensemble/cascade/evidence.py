"""What the stages of a cascade could be, and what each would say of the validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from ensemble.cascade.thresholds import Signal
from ensemble.evaluate import Ballots
from ensemble.fit.temperature import fit_temperatures
from ensemble.lockfile import Committee
from ensemble.merge import Array, log_softmax
from tta import VIEW_SETS, view_set
from zoo.data.split import Labels

__all__ = ["Evidence", "Shape", "gather"]

_TINY = 1e-12  # as `ensemble.merge`

Shape = tuple[tuple[int, ...], str]
"""A stage without its numbers: members by their positions, in the order in which they are called in, and a view set."""


@dataclass(frozen=True, eq=False)
class Evidence:
    """What M members say of N images of C classes, in a form in which any stage is a sum over members.

    Attributes:
        parts: view set -> `[M, N, C]`: each member's mean over the views of its probabilities (of log-probabilities if
            the committee merges `logits`), times its weight.
        weights: `[M]`.
        costs: of one view of each member, `[M]`.
        logits: whether the committee merges log-probabilities.
        views: name of the committee's view set.
        temperature: of what the whole committee says, by which drops are expected: best for its log-loss.
        labels: `[N]`.
    """

    parts: Mapping[str, Array]
    weights: Array
    costs: Array
    logits: bool
    views: str
    temperature: float
    labels: Labels
    _known: dict[tuple[frozenset[int], str], tuple[float, Signal]] = field(default_factory=dict, repr=False)

    @property
    def whole(self) -> Shape:
        """The committee itself."""
        return tuple(range(len(self.weights))), self.views

    @cached_property
    def target(self) -> Array:
        """What the whole committee says at `temperature`, `[N, C]`."""
        return np.exp(log_softmax(self._logs(self.whole) / self.temperature))

    def rows(self, images: npt.NDArray[np.generic]) -> "Evidence":
        """Return the evidence on some of the images, row numbers or a mask, at the same temperature."""
        parts = {views: part[:, images] for views, part in self.parts.items()}
        return replace(self, parts=parts, labels=self.labels[images], _known={})

    def recalibrated(self, temperature: float | None = None) -> "Evidence":
        """Return the evidence at another temperature of the whole committee [default: the best on these images]."""
        if temperature is None:
            temperature = _temperature(self._logs(self.whole), self.labels)
        return replace(self, temperature=temperature, _known={})

    def fitted(self, shape: Shape) -> tuple[float, Signal]:
        """Return the temperature of a stage that is best for its log-loss, and what it says at that; computed once."""
        key = (frozenset(shape[0]), shape[1])
        if key not in self._known:
            temperature = _temperature(self._logs(shape), self.labels)
            self._known[key] = temperature, self.signal(shape, temperature)
        return self._known[key]

    def signal(self, shape: Shape, temperature: float) -> Signal:
        """Return what a stage says at a temperature."""
        logs = self._logs(shape)
        top, whole, rows = logs.argmax(1), self.target.argmax(1), np.arange(len(logs))
        expected = self.target[rows, whole] - self.target[rows, top]
        lost = (whole == self.labels).astype(np.int64) - (top == self.labels)
        confidence = np.exp(log_softmax(logs / temperature).max(1))
        return Signal(top, confidence, expected, lost, top != whole)

    def cost(self, shape: Shape) -> float:
        """Return the cost of a stage for an image, if nothing was computed before."""
        return float(self.costs[list(shape[0])].sum() * len(view_set(shape[1])))

    def added_costs(self, shapes: Sequence[Shape]) -> list[float]:
        """Return what each of a cascade's stages adds for an image that reaches it."""
        totals = [0.0, *(self.cost(shape) for shape in shapes)]
        return [after - before for before, after in pairwise(totals)]

    def _logs(self, shape: Shape) -> Array:
        """Return the log of what a stage says at temperature 1, `[N, C]`, but for a constant of each image."""
        chosen = sorted(shape[0])
        mean: Array = self.parts[shape[1]][chosen].sum(0) / self.weights[chosen].sum()
        return mean if self.logits else np.log(np.maximum(mean, _TINY))


def gather(committee: Committee, ballots: Ballots, costs: Sequence[float]) -> Evidence:
    """Return the evidence for the cascades of a committee.

    Args:
        committee: of M members, that does not vote.
        ballots: its members' predictions on the images to be fitted on.
        costs: of one view of each member, `[M]`, above 0.
    """
    columns = [view.name for view in view_set(committee.views)]
    logits = committee.merge == "logits"
    largest = max(vote.weight for vote in ballots.votes)
    weights = np.array([vote.weight / largest for vote in ballots.votes])
    values = [log_softmax(np.asarray(vote.logits, np.float64) / vote.temperature) for vote in ballots.votes]
    if not logits:
        values = [np.exp(own) for own in values]
    parts = {}
    for name, views in VIEW_SETS.items():
        if {view.name for view in views} <= set(columns):
            shown = [columns.index(view.name) for view in views]
            shares = np.array([view.weight for view in views])
            means = [np.tensordot(shares / shares.sum(), own[shown], 1) for own in values]
            parts[name] = np.stack(means) * weights[:, None, None]
    prices = np.array(costs, np.float64)
    return Evidence(parts, weights, prices, logits, committee.views, 1.0, ballots.labels).recalibrated()


def _temperature(logs: Array, labels: Labels) -> float:
    """Return the temperature of log-probabilities `[N, C]` that is best for their log-loss."""
    return float(fit_temperatures(logs.T[None, None], np.ones(1), labels)[0])
