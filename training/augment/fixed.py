"""A fixed set of crops of each image, and a teacher's answers to them: asked once, for students of every seed."""

from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.streams import Stream, torch_generator
from training.recipe import Augment
from zoo.errors import UsageError

__all__ = ["Answers", "check_fixed", "crops_there_are", "draw_crops", "pick_crops"]

_AT_ONCE = 1 << 22
"""Numbers that are drawn and sorted at a time."""


@dataclass(frozen=True, eq=False)
class Answers:
    """What a teacher says of K crops of each of N images.

    Attributes:
        offsets: int64 `[K, N, 2]`, top-left corner of each crop; on the CPU.
        logits: logits or log-probabilities `[K, O, N, C]`. O = 1 if they are the same for a crop and its mirror image;
            else there are those of the crop, and those of its mirror image.
        digest: sha256 of the two, for the records.
    """

    offsets: Tensor
    logits: Tensor
    digest: str = ""

    def __len__(self) -> int:
        """Return K."""
        return len(self.offsets)

    def of(self, rows: Tensor, crops: Tensor, mirrored: Tensor | None) -> Tensor:
        """Return the answers to one crop of each chosen image.

        Args:
            rows: integer `[B]`, the images chosen.
            crops: integer `[B]`, which of their crops.
            mirrored: bool `[B]`, whether it is mirrored; None if none is.

        Returns:
            float32 `[B, C]`.
        """
        both = self.logits.shape[1] > 1 and mirrored is not None
        sides = mirrored.to(rows.dtype) if both and mirrored is not None else torch.zeros_like(rows)
        return self.logits[crops, sides, rows].float()


def check_fixed(augment: Augment) -> None:
    """Raise `UsageError` if more is done to images than crops and flips, which is all that answers are stored for."""
    more = {"policy": augment.policy != "none", "cutout": augment.cutout > 0, "mix": augment.mix != "none"}
    for key, used in more.items():
        if used:
            raise UsageError(f"answers are stored for crops and flips only, and the recipe has augment.{key}")


def crops_there_are(augment: Augment) -> int:
    """Return the number of different crops of an image."""
    return int((2 * augment.crop_padding + 1) ** 2)


def draw_crops(images: int, augment: Augment, crops: int) -> Tensor:
    """Choose K different crops of each image, all alike; they depend on nothing but these numbers.

    Args:
        images: their number N.
        augment: how far crops may be shifted.
        crops: K.

    Returns:
        int64 `[K, N, 2]`, (row, column), each in `0 .. 2 * crop_padding`. More crops begin with those of fewer.

    Raises:
        UsageError: there are fewer than K crops of an image.
    """
    there_are, side = crops_there_are(augment), 2 * augment.crop_padding + 1
    if not 0 < crops <= there_are:
        raise UsageError(
            f"{crops} crops of an image: with augment.crop_padding = {augment.crop_padding}, 1..{there_are}"
        )
    generator = torch_generator(0, Stream.CROPS, 0)
    chosen = torch.empty(images, crops, dtype=torch.int64)
    for part in torch.split(chosen, max(_AT_ONCE // there_are, 1)):
        part.copy_(torch.rand(len(part), there_are, generator=generator).argsort(dim=1, stable=True)[:, :crops])
    return torch.stack((chosen // side, chosen % side), -1).movedim(1, 0).contiguous()


def pick_crops(images: int, crops: int, seed: int, epoch: int, *, alternating: bool = False) -> Tensor:
    """Say which of its crops each image shows in an epoch: in K epochs every one once, in an order drawn anew.

    Where images and mirror images alternate, the even epochs go through the crops by themselves, and so do the odd
    ones: in 2K epochs every crop shows once from either side.

    Args:
        images: their number N.
        crops: K.
        seed: of the run.
        epoch: counted from 0.
        alternating: whether the epochs alternate so.

    Returns:
        int64 `[N]`, each in `0 .. K-1`.
    """
    sides = 2 if alternating else 1
    cycle, turn = divmod(epoch // sides, crops)
    drawn = torch.rand(images, crops, generator=torch_generator(seed, Stream.PICK, sides * cycle + epoch % sides))
    picked: Tensor = drawn.argsort(dim=1, stable=True)[:, turn]
    return picked.contiguous()
