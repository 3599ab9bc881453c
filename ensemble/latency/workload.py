"""What is timed: two workloads that are equal take the same time on the same hardware."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import TYPE_CHECKING, Any

from zoo.card import Card
from zoo.entry import Entry

if TYPE_CHECKING:
    from ensemble.lockfile import Committee

__all__ = ["Workload", "of_committee", "of_network"]


@dataclass(frozen=True)
class Workload:
    """What runs, on what.

    Attributes:
        what: the network or committee, as `of_network` and `of_committee` describe it; anything that JSON can hold.
        views: name of the view set.
        batch: images at a time, before views.
        precision: of the networks.
        runtime: what runs them: `frozen`, `compiled`, `onnx`, or whatever else tells two ways apart.
        images: which they are, if the time depends on them: `cifar10 test 0123456789abcdef, 2048 images, seed 0`.
    """

    what: Mapping[str, Any]
    views: str
    batch: int
    precision: str
    runtime: str
    images: str = "random"

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, as JSON would give them back."""
        table: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return table


def of_network(card: Card) -> dict[str, Any]:
    """Return what the time of a single network depends on: not its weights, which any others of its shape stand for."""
    return {
        "architecture": card.architecture,
        "arguments": dict(card.architecture_args),
        "input_size": list(card.input_size),
        "classes": len(card.classes),
    }


def of_committee(committee: "Committee") -> dict[str, Any]:
    """Return what the time of a committee depends on: all of it, as thresholds and weights send images on or home.

    Members are told apart by the sha256 of weights, and prediction files, which take no time, by their names.
    """
    members = [
        (m.name, m.origin.weights_digest if isinstance(m.origin, Entry) else None, m.weight, m.temperature)
        for m in committee.members
    ]
    rest = {part.name: getattr(committee, part.name) for part in fields(committee) if part.name != "members"}
    text = json.dumps({"members": members, **rest}, sort_keys=True, default=asdict)
    return {
        "committee": hashlib.sha256(text.encode()).hexdigest(),
        "members": [member.name for member in committee.members],
    }
