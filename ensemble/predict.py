"""Classify images with a committee."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from ensemble.cascade.run import Cascade
from ensemble.frozen import freeze
from ensemble.lockfile import Committee
from ensemble.merge import Array
from ensemble.module import Ensemble
from tta.batches import device_batches
from tta.freeze import Setting
from tta.predict import Precision
from zoo.data.split import Pixels

__all__ = ["Answer", "classify"]

_BATCH, _CASCADE_BATCH = 500, 2000  # later stages of a cascade get a few of it


@dataclass(frozen=True, eq=False)
class Answer:
    """What a committee says of images.

    Attributes:
        probs: merged, `[N, C]`.
        top: the committee's classes `[N]`.
        member_top: each member's own, `[M, N]`; -1 where a cascade did not ask it.
        stage: of a cascade, at which each image left, from 0, `[N]`.
    """

    probs: Array
    top: npt.NDArray[np.intp]
    member_top: npt.NDArray[np.intp]
    stage: npt.NDArray[np.intp] | None = None


@torch.inference_mode()
def classify(
    committee: Committee,
    images: Pixels,
    *,
    device: torch.device,
    precision: Precision = "fp32",
    progress: Callable[[int], None] | None = None,
    whole: Ensemble | None = None,
) -> Answer:
    """Run a committee's networks, frozen, over images; one with a cascade with its early exits.

    Args:
        committee: of zoo entries.
        images: uint8 `[N, H, W, 3]`, of the size that the entries' cards state.
        device: where to run.
        precision: of the networks.
        progress: called after each batch with the number of images in it.
        whole: the committee's networks, frozen, on the device and in the precision, if they are loaded already.

    Raises:
        UsageError: a member is a prediction file or an external entry, which know no other images.
        DataError, NotFoundError, CorruptError, SourceError: as in `Ensemble`.
    """
    if whole is None:
        whole = freeze(Ensemble(committee), Setting(device, precision))
    cascade = Cascade(whole, committee) if committee.cascade else None
    parts: list[tuple[Tensor, ...]] = []
    for pixels in device_batches(images, _CASCADE_BATCH if cascade else _BATCH, device):
        if cascade is None:
            said = whole.verdict(pixels)
            parts.append((said.probs, said.top, said.member_probs.argmax(-1)))
        else:
            exits = cascade.exits(pixels)
            parts.append((exits.probs, exits.top, exits.member_top, exits.stage))
        if progress is not None:
            progress(len(pixels))
    if not parts:  # no images
        parts = [_nothing(whole, cascade=cascade is not None)]
    probs, top, own, *stage = zip(*parts, strict=True)
    return Answer(
        torch.cat(probs).cpu().numpy().astype(np.float64),
        torch.cat(top).cpu().numpy(),
        torch.cat(own, 1).cpu().numpy(),
        torch.cat(stage[0]).cpu().numpy() if stage else None,
    )


def _nothing(whole: Ensemble, *, cascade: bool) -> tuple[Tensor, ...]:
    """Return what a committee says of no images."""
    none = torch.empty(0, dtype=torch.int64)
    return (torch.empty(0, len(whole.classes)), none, none.expand(len(whole.nets), 0), *([none] if cascade else []))
