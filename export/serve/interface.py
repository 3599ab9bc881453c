"""What a served model takes and gives, in the words of the Open Inference Protocol."""

from dataclasses import dataclass
from typing import Any

from export.runtime import Answer, CascadeSession, Session

__all__ = ["IMAGES", "MEMBER_PROBS", "PROBS", "VERSION", "Interface", "interface_of"]

IMAGES, PROBS, MEMBER_PROBS = "images", "probs", "member_probs"
VERSION = "1"
"""Of every model: a reload puts other weights behind the same interface."""


@dataclass(frozen=True)
class Interface:
    """What clients rely on; a model file that is rolled in must have the same.

    Attributes:
        classes: the class names, in the order of the columns.
        size: (H, W) of the images in pixels.
        members: the members' names.
        merge: how their votes are merged.
        weights: theirs, summing to 1.
        has_members: whether each member's probabilities are given, too.
    """

    classes: tuple[str, ...]
    size: tuple[int, int]
    members: tuple[str, ...]
    merge: str
    weights: tuple[float, ...]
    has_members: bool

    def shape(self, output: str) -> list[int]:
        """Return the shape of an output, -1 for the batch."""
        return [-1, len(self.classes)] if output == PROBS else [-1, len(self.members), len(self.classes)]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return (PROBS, MEMBER_PROBS) if self.has_members else (PROBS,)

    @property
    def image_bytes(self) -> int:
        """Bytes of an image's tensor."""
        return 3 * self.size[0] * self.size[1]

    def metadata(self, name: str) -> dict[str, Any]:
        """Return the model's metadata as `GET /v2/models/NAME` gives it."""
        height, width = self.size
        return {
            "name": name,
            "versions": [VERSION],
            "platform": "onnxruntime_onnx",
            "inputs": [{"name": IMAGES, "datatype": "UINT8", "shape": [-1, height, width, 3]}],
            "outputs": [{"name": name, "datatype": "FP32", "shape": self.shape(name)} for name in self.outputs],
        }

    def difference(self, other: "Interface") -> str:
        """Say in what another model differs that clients would notice; empty if in nothing."""
        if other.classes != self.classes:
            return "other classes"
        if other.size != self.size:
            return f"images of {other.size[0]} x {other.size[1]} pixels instead of {self.size[0]} x {self.size[1]}"
        if other.has_members != self.has_members:
            return f"{'an' if other.has_members else 'no'} output {MEMBER_PROBS!r}"
        if self.has_members and len(other.members) != len(self.members):
            return f"{len(other.members)} members instead of {len(self.members)} in {MEMBER_PROBS!r}"
        return ""


def interface_of(session: Session | CascadeSession, answer: Answer) -> Interface:
    """Return the interface of a session, given what it answers to some image."""
    table = session.lockfile
    weights = [float(member["weight"]) for member in table["members"]]
    total = sum(weights)
    return Interface(
        classes=tuple(session.classes),
        size=(session.input_size[0], session.input_size[1]),
        members=tuple(session.members),
        merge=str(table["merge"]),
        weights=tuple(weight / total for weight in weights),
        has_members=answer.member_probs is not None,
    )
