"""What the stages of a cascade could be, and what each would say of the validation images."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
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
        target: the whole committee's probabilities, at the temperature that is best for them, `[N, C]`.
        labels: `[N]`.
    """

    parts: Mapping[str, Array]
    weights: Array
    costs: Array
    logits: bool
    views: str
    target: Array
    labels: Labels
    _known: dict[tuple[frozenset[int], str], tuple[float, Signal]] = field(default_factory=dict, repr=False)

    @property
    def whole(self) -> Shape:
        """The committee itself."""
        return tuple(range(len(self.weights))), self.views

    def rows(self, images: npt.NDArray[np.generic]) -> "Evidence":
        """Return the evidence on some of the images: row numbers or a mask."""
        parts = {views: part[:, images] for views, part in self.parts.items()}
        target, labels = self.target[images], self.labels[images]
        return Evidence(parts, self.weights, self.costs, self.logits, self.views, target, labels)

    def fitted(self, shape: Shape) -> tuple[float, Signal]:
        """Return the temperature of a stage that is best for its log-loss, and what it says at that; computed once."""
        key = (frozenset(shape[0]), shape[1])
        if key not in self._known:
            logs = _logs(self.parts[shape[1]], self.weights, shape[0], logits=self.logits)
            temperature = _temperature(logs, self.labels)
            self._known[key] = temperature, self.signal(shape, temperature)
        return self._known[key]

    def signal(self, shape: Shape, temperature: float) -> Signal:
        """Return what a stage says at a temperature."""
        logs = _logs(self.parts[shape[1]], self.weights, shape[0], logits=self.logits)
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
    logs = _logs(parts[committee.views], weights, range(len(weights)), logits=logits)
    target = np.exp(log_softmax(logs / _temperature(logs, ballots.labels)))
    return Evidence(parts, weights, np.array(costs, np.float64), logits, committee.views, target, ballots.labels)


def _logs(part: Array, weights: Array, members: Sequence[int], *, logits: bool) -> Array:
    """Return the log of what members say together at temperature 1, `[N, C]`, but for a constant of each image."""
    chosen = sorted(members)
    mean: Array = part[chosen].sum(0) / weights[chosen].sum()
    return mean if logits else np.log(np.maximum(mean, _TINY))


def _temperature(logs: Array, labels: Labels) -> float:
    """Return the temperature of log-probabilities `[N, C]` that is best for their log-loss."""
    return float(fit_temperatures(logs.T[None, None], np.ones(1), labels)[0])
