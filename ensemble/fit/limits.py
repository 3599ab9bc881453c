"""What a committee may cost."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

__all__ = ["Limits"]


@dataclass(frozen=True, eq=False)
class Limits:
    """Bounds on a committee of distinct members.

    Attributes:
        costs: of each candidate under the view set in question, `[M]`, in any unit; a member of larger weight costs
            no more.
        budget: that the sum of the costs may not exceed; None for any.
        max_members: that there may be; None for any.
    """

    costs: npt.NDArray[np.float64]
    budget: float | None = None
    max_members: int | None = None

    @property
    def ceiling(self) -> float:
        """The budget, with room for the rounding of sums; infinite if there is none."""
        return np.inf if self.budget is None else self.budget * (1 + 1e-9)

    @property
    def affordable(self) -> npt.NDArray[np.intp]:
        """The candidates that fit the budget alone."""
        return np.flatnonzero(self.costs <= self.ceiling)

    def cost(self, members: tuple[int, ...]) -> float:
        """Return what a committee costs."""
        return float(self.costs[sorted(set(members))].sum())

    def addable(self, members: tuple[int, ...]) -> npt.NDArray[np.bool_]:
        """Say for each candidate whether it may be added (again) to a committee, `[M]`."""
        inside = np.zeros(len(self.costs), bool)
        inside[list(members)] = True
        if self.max_members is not None and inside.sum() >= self.max_members:
            return inside
        return np.asarray(inside | (self.costs <= self.ceiling - self.cost(members)))
