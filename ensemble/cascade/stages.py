"""The stages of a cascade, what makes them well-formed, and what each of them has to run.

A stage is some members under some views of a committee. Each contains the one before, so that whatever was computed is
used again, and the last is the committee itself. A stage's answer is the committee's merge over the stage's members
(their weights renormalised) and views, at the stage's own temperature; an image whose largest probability is at least
the threshold leaves with it (X. Wang et al., "Wisdom of Committees", ICLR 2022, arXiv:2012.01988, section 4).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from ensemble.merge import Merge
from tta import VIEW_SETS, view_set

__all__ = ["Stage", "Step", "check_stages", "steps"]

_SHOWN = 40  # characters of what somebody wrote into a file

Block = tuple[tuple[int, ...], tuple[int, ...]]
"""Positions of members, and of views: every pair of them."""


@dataclass(frozen=True)
class Stage:
    """One stage, as the lockfile has it.

    Attributes:
        members: names, at least one, in the order in which they were called in.
        views: name of a view set.
        temperature: of the stage's merged answer, above 0.
        threshold: the largest probability of an image that leaves, in (0, 1]; 0 of the last stage, where all leave.
    """

    members: tuple[str, ...]
    views: str
    temperature: float
    threshold: float


@dataclass(frozen=True)
class Step:
    """A stage in the positions of its committee.

    Attributes:
        members: in the committee, ascending.
        views: in the committee's view set, in the order of the stage's own.
        view_weights: of the stage's own set, sum 1.
        new: what no stage before has computed, as one or two blocks.
        temperature: of the stage.
        threshold: of the stage.
    """

    members: tuple[int, ...]
    views: tuple[int, ...]
    view_weights: tuple[float, ...]
    new: tuple[Block, ...]
    temperature: float
    threshold: float

    @property
    def pairs(self) -> list[tuple[int, int]]:
        """The (member, view) pairs that this stage is the first to run."""
        return [(m, v) for members, views in self.new for m in members for v in views]


def check_stages(stages: Sequence[Stage], names: Sequence[str], views: str, merge: Merge, temperature: float) -> None:
    """Raise `ValueError`, in a line, unless stages are a cascade of a committee.

    Args:
        stages: to be checked.
        names: of the committee's members.
        views: name of the committee's view set.
        merge: of the committee.
        temperature: of the committee.
    """
    if merge == "vote":
        raise ValueError("a vote cannot have a cascade: a share of votes is no confidence")
    if len(stages) < 2:  # noqa: PLR2004  # one stage is no cascade
        raise ValueError(f"a cascade has at least two stages, not {len(stages)}")
    before: set[tuple[str, str]] = set()
    for number, stage in enumerate(stages, 1):
        try:
            pairs = _pairs(stage, names, last=number == len(stages))
        except ValueError as error:
            raise ValueError(f"stage {number} of {len(stages)} has {error}") from error
        if not before < pairs:
            raise ValueError(f"stage {number} does not contain the one before, or is the same")
        before = pairs
    if not before <= {(name, view.name) for name in names for view in view_set(views)}:
        raise ValueError("its stages have views that the ensemble has not")
    last = stages[-1]
    if (set(last.members), last.views, last.temperature) != (set(names), views, temperature):
        raise ValueError("the last stage is not the ensemble: all its members, its views and its temperature")


def _pairs(stage: Stage, names: Sequence[str], *, last: bool) -> set[tuple[str, str]]:
    """Return the (member, view) pairs of a stage; `ValueError` says what it has that cannot be."""
    stray = [name for name in stage.members if name not in names]
    if stray:
        raise ValueError(f"the member {stray[0][:_SHOWN]!r}, which the ensemble has not")
    if not stage.members or len(set(stage.members)) < len(stage.members):
        raise ValueError("no member, or one twice")
    if stage.views not in VIEW_SETS:
        raise ValueError(f"the views {str(stage.views)[:_SHOWN]!r}")
    if not 0 < stage.temperature < math.inf:
        raise ValueError(f"the temperature {stage.temperature}")
    if (stage.threshold != 0) if last else not 0 < stage.threshold <= 1:
        raise ValueError(f"the threshold {stage.threshold}: it is in (0, 1], and 0 of the last stage")
    return {(name, view.name) for name in stage.members for view in view_set(stage.views)}


def steps(stages: Sequence[Stage], names: Sequence[str], views: str) -> list[Step]:
    """Return what each stage has to run.

    Args:
        stages: well-formed, see `check_stages`.
        names: of the committee's members, in its order.
        views: name of the committee's view set.
    """
    columns = [view.name for view in view_set(views)]
    found: list[Step] = []
    for stage in stages:
        own = view_set(stage.views)
        members = tuple(sorted(names.index(name) for name in stage.members))
        shown = tuple(columns.index(view.name) for view in own)
        known_members, known_views = (found[-1].members, found[-1].views) if found else ((), ())
        joined = tuple(m for m in members if m not in known_members)
        added = tuple(v for v in shown if v not in known_views)
        blocks = ((joined, shown), (known_members, added))
        new = tuple((some, these) for some, these in blocks if some and these)
        weights = tuple(view.weight for view in own)
        found.append(Step(members, shown, weights, new, stage.temperature, stage.threshold))
    return found
