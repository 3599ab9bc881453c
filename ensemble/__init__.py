"""Weighted ensembles of zoo entries: members, merging, metrics and evaluation.

import ensemble
net = ensemble.load("ensemble.json")  # or ensemble.load("fastnet-seed*", views="flip")
probs = net(images)
fast = ensemble.freeze(net)           # the same answers, as fast as this machine gives them
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from ensemble.cascade.run import Cascade
    from ensemble.frozen import freeze
    from ensemble.merge import Merge
    from ensemble.module import Ensemble

__all__ = ["freeze", "load"]


def __getattr__(name: str) -> Any:  # noqa: ANN401
    """Import what needs torch when it is first asked for."""
    if name == "freeze":
        from ensemble.frozen import freeze  # noqa: PLC0415

        return freeze
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def load(source: str | Path, *, views: str = "none", merge: "Merge" = "probs") -> "Ensemble | Cascade":
    """Return a committee as an `nn.Module` in eval mode, in fp32, on the CPU; see `Ensemble`.

    One with a cascade is a `Cascade`: called on images it answers with early exits; `exits(images)` also says who left
    where, and its `whole` is the `Ensemble`.

    Args:
        source: path of an `ensemble.json`, which has its own views and merge; or members as `ensemble eval --members`
            takes them: `"fastnet-seed1,wrn*=0.5"`. Weights that are not on this machine are pulled.
        views: name of a view set, with members.
        merge: `probs`, `logits` or `vote`, with members.

    Raises:
        UsageError, DataError, NotFoundError, CorruptError: as in `read_lockfile`, `parse_members` and `Ensemble`.
    """
    from ensemble.lockfile import Committee, read_lockfile  # noqa: PLC0415  # `import ensemble` stays light
    from ensemble.members import parse_members  # noqa: PLC0415
    from ensemble.merge import MERGES  # noqa: PLC0415
    from ensemble.module import Ensemble  # noqa: PLC0415
    from zoo.errors import UsageError  # noqa: PLC0415

    if not isinstance(source, str | Path):
        raise UsageError(f"{type(source).__name__}: give the path of an ensemble.json, or members in one string")
    if isinstance(source, Path) or source.endswith(".json"):
        if (views, merge) != ("none", "probs"):
            raise UsageError(f"{source} has its own views and merge: leave them out")
        committee = read_lockfile(Path(source))
        if not committee.cascade:
            return Ensemble(committee)
        from ensemble.cascade.run import Cascade  # noqa: PLC0415

        return Cascade(Ensemble(committee), committee)
    if merge not in MERGES:
        raise UsageError(f"unknown merge {merge!r}; there are {', '.join(MERGES)}")
    return Ensemble(Committee(tuple(parse_members(source)), views, merge))
