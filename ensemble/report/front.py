"""The Pareto front, and the point to choose for a budget."""

from collections.abc import Sequence

from ensemble.report.record import Budget, Point

__all__ = ["MILLISECONDS", "MULTIPLY_ADDS", "choose", "cost", "front", "missed", "ranking"]

MILLISECONDS, MULTIPLY_ADDS = "ms", "G multiply-adds"
"""The units of a budget."""


def cost(point: Point, unit: str) -> float | None:
    """Return what a point costs: the median latency in milliseconds, or 10^9 multiply-adds; None if not known."""
    if unit == MULTIPLY_ADDS:
        return point.multiply_adds
    return point.latency.median_ms if point.latency is not None else None


def front(values: Sequence[tuple[float | None, float]]) -> list[bool]:
    """Say of each (cost, accuracy) whether no other is at least as good in both and better in one.

    Equal pairs are all on the front; without a cost, nothing is.
    """
    kept = [False] * len(values)
    best = float("-inf")
    known = sorted((c, -accuracy, i) for i, (c, accuracy) in enumerate(values) if c is not None)
    previous: tuple[float, float] | None = None
    for c, minus, i in known:
        twin = previous == (c, minus)
        if -minus > best or twin:
            kept[i], best, previous = True, -minus, (c, minus)
    return kept


def ranking(points: Sequence[Point], unit: str) -> list[int]:
    """Return the numbers of the points, the cheapest first, among equals the most accurate; without a cost last."""

    def rank(i: int) -> tuple[bool, float, float]:
        price = cost(points[i], unit)
        return price is None, price or 0.0, -points[i].scores.accuracy

    return sorted(range(len(points)), key=rank)


def choose(points: Sequence[Point], budget: Budget) -> int | None:
    """Return the number of the affordable point of the best accuracy on the validation split; None if there is none.

    Among equals the smaller log-loss there decides, then the smaller cost. Scores on the reported split take no part:
    what is chosen by them would look better than it is.
    """
    best: tuple[tuple[float, float, float], int] | None = None
    for i, point in enumerate(points):
        price = cost(point, budget.unit)
        if price is None or price > budget.limit or point.val_accuracy is None:
            continue
        loss = float("inf") if point.val_nll is None else point.val_nll
        key = (-point.val_accuracy, loss, price)
        if best is None or key < best[0]:
            best = (key, i)
    return None if best is None else best[1]


def missed(points: Sequence[Point], budget: Budget) -> str:
    """Return why `choose` finds nothing."""
    within = any(price <= budget.limit for point in points if (price := cost(point, budget.unit)) is not None)
    said = "whose validation accuracy is known is" if within else "is"
    return f"no point {said} within the budget of {budget.limit:g} {budget.unit}"
