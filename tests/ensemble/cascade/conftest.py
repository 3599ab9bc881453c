"""Committees of made-up members: some images are hard, and on those the members are of many opinions."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from ensemble.cascade.evidence import Evidence, gather
from ensemble.evaluate import Ballots
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.merge import Merge, Vote
from tta import view_set


@dataclass(frozen=True)
class MadeUp:
    """A committee, what it says, and what a view of each member costs."""

    committee: Committee
    ballots: Ballots
    costs: tuple[float, ...]

    @property
    def evidence(self) -> Evidence:
        return gather(self.committee, self.ballots, self.costs)


def made_up(
    members: int = 4, images: int = 400, *, views: str = "flip", merge: Merge = "probs", seed: int = 0
) -> MadeUp:
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 5, images)
    sure = 6 * rng.beta(1.5, 0.8, images)[:, None] * np.eye(5)[labels]  # a few images are hard for all
    columns = view_set(views)
    votes = []
    for m in range(members):
        noise = rng.standard_normal((len(columns), images, 5)) * 0.9 + rng.standard_normal((images, 5)) * 0.7
        logits = (sure + noise).astype(np.float16)
        votes.append(Vote(logits, [view.weight for view in columns], 1.0 + 0.5 * m, 0.8 + 0.1 * m))
    chosen = tuple(Member(f"m{m}", Path(f"m{m}"), v.weight, v.temperature) for m, v in enumerate(votes))
    costs = tuple(1.0 + m for m in range(members))
    return MadeUp(Committee(chosen, views, merge, 1.1), Ballots(votes, labels.astype(np.int64)), costs)


@pytest.fixture
def make() -> Callable[..., MadeUp]:
    """Return the function that makes committees up."""
    return made_up
