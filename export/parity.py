"""The parity gate: an exported graph beside PyTorch, over a whole split."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt
import torch

from ensemble.cascade.run import Cascade
from ensemble.frozen import freeze
from ensemble.module import Ensemble
from export.runtime.answer import Answer, Floats
from tta.freeze import Setting
from zoo.data import Split

__all__ = ["LIMITS", "Expected", "Limits", "Parity", "Runs", "compare", "expected_answer"]

_BATCH = 500


class Runs(Protocol):
    """What is compared: a `Session` or a `CascadeSession`."""

    provider: str

    def answer(self, images: npt.NDArray[np.uint8]) -> Answer:
        """Return what it says of images, uint8 `[N, H, W, 3]`."""
        ...


@dataclass(frozen=True)
class Limits:
    """What a graph must keep.

    Attributes:
        agreement: of images with PyTorch's class, a fraction.
        difference: largest difference of a probability, members' own among them.
        loss: of accuracy, a fraction.
        moved: images that leave a cascade at another stage, a fraction. No probabilities are compared on these.
        members: of pairs of a member and an image, those with the member's class in PyTorch, a fraction.
    """

    agreement: float = 0.0
    difference: float = 1.0
    loss: float = 1.0
    moved: float = 1.0
    members: float = 0.0


LIMITS = {
    "fp32": Limits(agreement=1.0, difference=1e-4, moved=0.001, members=0.9999),
    "fp16": Limits(agreement=0.999, members=0.998),
    "int8": Limits(loss=0.002, members=0.98),
}
"""Precision -> what its graphs must keep of PyTorch's answers in fp32."""


@dataclass(frozen=True)
class Parity:
    """A graph beside PyTorch in fp32.

    Attributes:
        dataset: whose images.
        split: which of them.
        fingerprint: of the split.
        images: how many.
        provider: of ONNX Runtime, that ran the graph.
        agreement: of images with the same class, a fraction.
        difference: largest difference of a probability, members' own among them if the graph gives these; of a cascade,
            over images that leave it at the same stage.
        accuracy: of the graph.
        expected_accuracy: of PyTorch.
        moved: images that leave a cascade at another stage, because they are as sure as its threshold but for rounding.
        members: of pairs of a member and an image, those with the same class, a fraction; None if the graph does not
            give members' probabilities.
        misses: what is beyond the limits, in words; empty if the gate is passed.
    """

    dataset: str
    split: str
    fingerprint: str
    images: int
    provider: str
    agreement: float
    difference: float
    accuracy: float
    expected_accuracy: float
    moved: int
    members: float | None
    misses: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing is beyond the limits."""
        return not self.misses

    def to_dict(self) -> dict[str, Any]:
        """Return the attributes, as JSON has them; the difference rounded up to two digits.

        What comes after them is the machine's, and equal inputs shall give equal files.
        """
        scale = 10.0 ** (np.floor(np.log10(self.difference)) - 1) if self.difference > 0 else 1.0
        rounded = float(f"{np.ceil(self.difference / scale) * scale:.1e}")
        return {**asdict(self), "difference": rounded, "misses": list(self.misses), "passed": self.passed}


@dataclass(frozen=True, eq=False)
class Expected:
    """What PyTorch says of N images.

    Attributes:
        probs: merged, `[N, C]`; of a vote, the shares of votes.
        top: its classes `[N]`, which are `probs.argmax(1)` but for ties of a vote.
        stage: at which each image leaves a cascade, from 0, `[N]`; else None.
        member_probs: each member's own, `[N, M, C]`; None of a cascade, which does not ask all of them.
    """

    probs: Floats
    top: npt.NDArray[np.intp]
    stage: npt.NDArray[np.intp] | None
    member_probs: Floats | None = None


@torch.inference_mode()
def expected_answer(
    model: Ensemble | Cascade, images: npt.NDArray[np.uint8], progress: Callable[[int], None] = lambda _: None
) -> Expected:
    """Return what PyTorch says of images, in fp32 on the CPU.

    Args:
        model: of the committee; with a cascade, by its early exits.
        images: uint8 `[N, H, W, 3]`.
        progress: called after each batch with the number of images in it.
    """
    frozen = freeze(model, Setting(torch.device("cpu")))
    parts: list[tuple[Floats, ...]] = []
    for start in range(0, len(images), _BATCH):
        pixels = torch.from_numpy(images[start : start + _BATCH])
        if isinstance(frozen, Cascade):
            exits = frozen.exits(pixels)
            parts.append((exits.probs.numpy(), exits.top.numpy(), exits.stage.numpy()))
        else:
            said = frozen.verdict(pixels)
            parts.append((said.probs.numpy(), said.top.numpy(), said.member_probs.transpose(0, 1).numpy()))
        progress(len(pixels))
    probs, top, last = (np.concatenate(part) for part in zip(*parts, strict=True))
    return Expected(probs, top, last, None) if isinstance(frozen, Cascade) else Expected(probs, top, None, last)


def compare(
    session: Runs,
    expected: Expected,
    split: Split,
    limits: Limits,
    *,
    dataset: str,
    name: str,
    progress: Callable[[int], None] = lambda _: None,
) -> Parity:
    """Run a graph over a split and hold it to what PyTorch said.

    Args:
        session: of the graph.
        expected: of `split.images`, from `expected_answer`.
        split: the images.
        limits: what must be kept.
        dataset: whose images they are.
        name: of the split.
        progress: called after each batch with the number of images in it.
    """
    found = []
    for start in range(0, len(split), _BATCH):
        found.append(session.answer(split.images[start : start + _BATCH]))
        progress(len(found[-1].probs))
    probs = np.concatenate([answer.probs for answer in found])
    top = probs.argmax(1)
    stays = np.ones(len(split), bool)
    if expected.stage is not None:
        stays = expected.stage == np.concatenate([answer.stage for answer in found if answer.stage is not None])
    difference = float(np.abs(probs - expected.probs)[stays].max(initial=0))
    parts, members, finite = [answer.member_probs for answer in found], None, np.isfinite(probs).all()
    if expected.member_probs is not None and parts[0] is not None:
        own = np.concatenate([part for part in parts if part is not None])
        members = float((own.argmax(-1) == expected.member_probs.argmax(-1)).mean())
        difference = max(difference, float(np.abs(own - expected.member_probs).max(initial=0)))
        finite &= np.isfinite(own).all()
    agreement = float((top == expected.top).mean())
    accuracy, before = (float((classes == split.labels).mean()) for classes in (top, expected.top))
    misses = []
    if not finite:
        misses.append("some probabilities are not finite")
    if agreement < limits.agreement:
        misses.append(f"the same class on {100 * agreement:.2f} %, not {100 * limits.agreement:g} %")
    if difference > limits.difference:
        misses.append(f"a probability differs by {difference:.1e}, more than {limits.difference:g}")
    if members is not None and members < limits.members:
        misses.append(f"members' classes the same on {100 * members:.2f} %, not {100 * limits.members:g} %")
    if (~stays).mean() > limits.moved:
        moved = f"{(~stays).sum():,} of {len(split):,} images leave the cascade at another stage"
        misses.append(f"{moved}, more than {100 * limits.moved:g} %")
    if before - accuracy > limits.loss + 1e-9:  # as fractions of images, whose difference is rounded
        misses.append(f"{100 * (before - accuracy):.2f} points less accurate, more than {100 * limits.loss:g}")
    return Parity(
        dataset=dataset,
        split=name,
        fingerprint=split.fingerprint,
        images=len(split),
        provider=session.provider,
        agreement=agreement,
        difference=difference,
        accuracy=accuracy,
        expected_accuracy=before,
        moved=int((~stays).sum()),
        members=members,
        misses=tuple(misses),
    )
