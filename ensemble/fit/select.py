"""The best committee of a pool: its members, views, weights and temperatures, all fitted on the validation split."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from ensemble.fit.limits import Limits
from ensemble.fit.objective import Features, Objective, features
from ensemble.fit.pool import Pool
from ensemble.fit.search import Bag, beam_search
from ensemble.fit.shrinkage import Shrunk, shrunk_weights
from ensemble.fit.subsets import LARGEST, best_subset
from ensemble.fit.temperature import ensemble_temperature, fit_temperatures, tempered_losses
from zoo.errors import UsageError

__all__ = ["Method", "Selection", "fit_views", "method_for", "search", "select"]

Method = Literal["auto", "greedy", "beam", "exhaustive"]
_EXHAUSTIVE, _BEAM = 15, 200  # the most candidates for which `auto` takes these
_WIDTH = 8
_NEGLIGIBLE = 1e-4  # a smaller weight is not worth running the network


@dataclass(frozen=True, eq=False)
class Selection:
    """What was selected.

    Attributes:
        views: name of the view set.
        members: numbers of the chosen candidates in the pool, by falling weight, then by name.
        weights: of the chosen, sum 1.
        temperatures: of the chosen.
        temperature: of the ensemble.
        calibrated: temperatures of all candidates, `[M]`.
        method: that found the members; never `auto`.
        pull: pseudo-images of the prior for equal weights that the fit of the weights had; None if the weights are how
            often the search chose each member.
        cross_validated: log-loss of weights and temperature on images they were not fitted on, see `Shrunk.loss`.
        wrong: wrong answers among the images.
        nll: log-loss, in nats.
        cost: of all members under the views, in the unit of the limits.
    """

    views: str
    members: tuple[int, ...]
    weights: tuple[float, ...]
    temperatures: tuple[float, ...]
    temperature: float
    calibrated: npt.NDArray[np.float64]
    method: str
    pull: float | None
    cross_validated: float | None
    wrong: int
    nll: float
    cost: float


def method_for(candidates: int, method: Method = "auto") -> Method:
    """Return the search that `auto` means for so many candidates; `UsageError` if `exhaustive` would take too long."""
    if method == "exhaustive" and candidates > LARGEST:
        raise UsageError(
            f"--method exhaustive: {candidates} candidates have 2^{candidates} subsets; give at most {LARGEST}, "
            "or --method beam"
        )
    if method != "auto":
        return method
    return "exhaustive" if candidates <= _EXHAUSTIVE else "beam" if candidates <= _BEAM else "greedy"


def search(of: Features, limits: Limits, method: Method = "auto") -> tuple[Bag | None, tuple[int, ...], Method]:
    """Find the members of the best committee.

    Under a budget, beam and greedy search also run on the candidates that cost at most a half, a quarter and an eighth
    of it, and the best outcome counts: the strongest single members are often too dear to be joined by others.

    Args:
        of: what the candidates contribute, `[M, D, N]`.
        limits: at least one candidate must be affordable.
        method: how.

    Returns:
        The multiset (None of an exhaustive search), its distinct members, ascending, and the method that was used.
    """
    rows = limits.affordable
    method = method_for(len(rows), method)
    if method == "exhaustive":
        inner = Limits(limits.costs[rows], limits.budget, limits.max_members)
        return None, tuple(rows[list(best_subset(of[rows], inner))].tolist()), method
    bags: list[Bag] = []
    for divisor in (1, 2, 4, 8) if limits.budget is not None else (1,):
        if limits.budget is not None:
            rows = np.flatnonzero(limits.costs <= limits.budget / divisor)
        if not len(rows):
            break
        inner = Limits(limits.costs[rows], limits.budget, limits.max_members)
        whole = len(rows) == len(of)  # a slice, so that a thousand candidates are not copied
        found = beam_search(of if whole else of[rows], inner, width=_WIDTH if method == "beam" else 1)
        bags.append(Bag(tuple(rows[list(found.members)].tolist()), found.key))
    best = min(bags, key=lambda bag: bag.key)
    return best, tuple(best.counts), method


def select(
    pool: Pool, limits: Mapping[str, Limits], objective: Objective = "nll", method: Method = "auto"
) -> Selection:
    """Select the best committee over members and view sets.

    For each view set: every candidate's temperature is fitted to what it says alone; members are searched for by the
    objective of the mean of the calibrated probabilities; their weights minimise the log-loss of the mean, drawn to
    equal weights as far as cross-validation allows; last, the ensemble's temperature. The view set whose committee is
    best on the validation split is taken.

    Args:
        pool: the candidates.
        limits: view set -> what a committee may cost under it; each set's views are in the pool.
        objective: `nll` or `accuracy` (among equals the log-loss decides).
        method: how members are searched for.

    Raises:
        UsageError: nothing is affordable, or `exhaustive` would take too long.
    """
    fitted = [fit_views(pool, views, some, objective, method) for views, some in limits.items() if len(some.affordable)]
    if not fitted:
        views, tightest = min(limits.items(), key=lambda item: float(item[1].costs.min()))
        name, cost = pool.names[int(tightest.costs.argmin())], tightest.costs.min()
        raise UsageError(
            f"the budget {tightest.budget:g} is too small for any candidate: "
            f"the cheapest, {name!r} with --tta {views}, costs {cost:.4g}"
        )
    return min(fitted, key=lambda one: (one.wrong if objective == "accuracy" else 0, one.nll, one.cost))


def fit_views(
    pool: Pool, views: str, limits: Limits, objective: Objective = "nll", method: Method = "auto"
) -> Selection:
    """Select the best committee under one view set; see `select`."""
    columns, view_weights = pool.columns(views)
    some = slice(None) if columns == list(range(len(pool.views))) else columns
    calibrated = fit_temperatures(pool.logits[:, some], view_weights, pool.labels)
    bag, members, method = search(features(pool, views, calibrated, objective), limits, method)
    rows = np.array(members)
    probs = pool.probs(rows, views, calibrated[rows])
    shrunk = shrunk_weights(probs, pool.labels)
    choices: list[tuple[npt.NDArray[np.float64], Shrunk | None]] = [(shrunk.weights, shrunk)]
    if objective == "accuracy":
        # The weights of least log-loss need not be those of most right answers.
        counts = np.ones(len(members)) if bag is None else np.array([bag.counts[m] for m in members], float)
        choices.append((counts / counts.sum(), None))
    outcomes = []
    for weights, origin in choices:
        kept = np.flatnonzero(weights > _NEGLIGIBLE)
        kept = kept[np.argsort(-weights[kept], kind="stable")]
        final = weights[kept] / weights[kept].sum()
        merged = np.tensordot(final, probs[kept].astype(np.float64), 1)
        temperature = ensemble_temperature(merged.T, pool.labels)
        chosen = tuple(members[k] for k in kept)
        outcomes.append(
            Selection(
                views=views,
                members=chosen,
                weights=tuple(final.tolist()),
                temperatures=tuple(calibrated[list(chosen)].tolist()),
                temperature=temperature,
                calibrated=calibrated,
                method=method,
                pull=origin.pull if origin else None,
                cross_validated=origin.loss if origin else None,
                wrong=int((merged.argmax(0) != pool.labels).sum()),
                nll=float(tempered_losses(merged, pool.labels, temperature).mean()),
                cost=limits.cost(chosen),
            )
        )
    return min(outcomes, key=lambda one: (one.wrong if objective == "accuracy" else 0, one.nll))
