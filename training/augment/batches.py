"""Batches of a split that lies on the device: shuffled, augmented, normalised, mixed."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from training.augment.cutout import cutout_mask, draw_centres
from training.augment.fixed import Answers, check_fixed, pick_crops
from training.augment.geometry import flip, flip_mask
from training.augment.mix import Mixing, draw_mixings, mix
from training.augment.ops import Operations
from training.augment.pixels import PaddedImages
from training.augment.policies import Policy, autoaugment, randaugment
from training.augment.streams import Stream, numpy_generator, torch_generator
from training.augment.transfer import send
from training.recipe import Augment
from zoo.data import Split
from zoo.errors import UsageError

__all__ = ["Batches"]

CHUNK = 8 << 20
"""Bytes of pixels that are augmented at a time: enough images to fill a policy's groups, few enough for the caches."""


class Batches:
    """Shuffled, augmented, normalised batches of a split.

    The draws depend on (seed, epoch) alone and are made on the CPU: any epoch can be had again, from any batch on,
    every device sees the same images, and so do the processes of a distributed run, whatever their number. Only
    mixing depends on that: it pairs the images that one process has.

    Args:
        split: training images; copied once to `device`, as uint8 with their padding.
        augment: what to do to them.
        batch_size: images a batch, of all processes together.
        seed: of the run.
        mean: per channel, in units of 0..1.
        std: per channel, in units of 0..1.
        device: where the split is kept and augmented.
        rank: which of `world` processes this is, in `0 .. world-1`; it gets every `world`-th image of each batch.
        world: number of processes.
        answers: a teacher's to a fixed set of crops, on `device` but for their offsets: these crops are all that is
            shown, and `taught` yields the answers to them.

    Raises:
        UsageError: the batch cannot be shared evenly; cutout is larger than the images; there are answers, which are
            to other images or do not go with the augmentation.
    """

    def __init__(  # noqa: PLR0913, PLR0917  # what, how, where, and the share of it
        self,
        split: Split,
        augment: Augment,
        batch_size: int,
        seed: int,
        mean: Sequence[float],
        std: Sequence[float],
        device: torch.device,
        rank: int = 0,
        world: int = 1,
        answers: Answers | None = None,
    ) -> None:
        if batch_size % world:
            raise UsageError(
                f"a batch of {batch_size} images cannot be shared evenly by {world} processes: "
                f"choose a batch_size that is a multiple of {world}"
            )
        if not 0 <= rank < world:
            raise UsageError(f"rank {rank} is not one of {world} processes: it must be in 0..{world - 1}")
        if augment.cutout_inside and augment.cutout > min(split.images.shape[1:3]):
            raise UsageError(
                f"a square of {augment.cutout} pixels does not fit into images of {split.images.shape[1]} x "
                f"{split.images.shape[2]}: lower augment.cutout, or leave out cutout_inside"
            )
        if answers is not None:
            check_fixed(augment)
            if answers.offsets.shape[1] != len(split):
                raise UsageError(f"the answers are to {answers.offsets.shape[1]:,} images, not to {len(split):,}")
        self._images = PaddedImages(split.images, augment, mean, std, device)
        self._labels = torch.from_numpy(split.labels).to(device)
        self._probs = torch.eye(len(split.classes), device=device)
        self._size, self._answers = self._images.size, answers
        self._augment, self._seed, self._device = augment, seed, device
        self._batch_size, self._rank, self._world = batch_size, rank, world
        self._policy = _policy(augment, self._size)
        self._operations = Operations(self._policy.ops, self._size, device) if self._policy else None

    def __len__(self) -> int:
        """Return the number of batches an epoch."""
        return len(self._labels) // self._batch_size

    def epoch(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield images and targets of the batches of an epoch; see `taught`."""
        for images, targets, _ in self.taught(epoch, start):
            yield images, targets

    def taught(self, epoch: int, start: int = 0) -> Iterator[tuple[Tensor, Tensor, Tensor | None]]:
        """Yield the batches of an epoch, from batch `start` on, with the teacher's answers.

        Args:
            epoch: counted from 0.
            start: counted from 0.

        Yields:
            Images float32 `[B, 3, H, W]` in channels-last memory format and their labels int64 `[B]`, B being this
            process's share of the batch. If the recipe mixes, class probabilities float32 `[B, C]` take the place of
            the labels, in batches that are not mixed as well. Last the answers float32 `[B, C]`, if there are any.
        """
        draws = self._draw(epoch)
        share = self._batch_size // self._world
        step = max(1, CHUNK // (share * self._images.bytes_each))
        for first in range(start, len(self), step):
            batches = range(first, min(first + step, len(self)))
            rows = draws.order[first * self._batch_size : batches.stop * self._batch_size][self._rank :: self._world]
            images, hidden, labels = self._chunk(rows, draws)
            for batch, at in zip(batches, range(0, len(rows), share), strict=True):
                mine = slice(at, at + share)
                made = self._finish(images[mine], labels[mine], hidden, mine, draws.mixings[batch])
                yield *made, self._answered(rows[mine], draws)

    def _answered(self, rows: Tensor, draws: "_Draws") -> Tensor | None:
        if self._answers is None or draws.crops is None:
            return None
        mirrored = None if draws.flips is None else send(draws.flips[rows], self._device)
        return self._answers.of(send(rows, self._device), send(draws.crops[rows], self._device), mirrored)

    def _draw(self, epoch: int) -> "_Draws":
        count, augment, seed = len(self._labels), self._augment, self._seed
        generator = torch_generator(seed, Stream.ORDER, epoch)
        order = torch.randperm(count, generator=generator)
        offsets = torch.randint(0, 2 * augment.crop_padding + 1, (count, 2), generator=generator)
        crops = None
        if self._answers is not None:
            crops = pick_crops(count, len(self._answers), seed, epoch, alternating=augment.flip == "alternating")
            offsets = self._answers.offsets[crops, torch.arange(count)]
        policy, cutout = (torch_generator(seed, stream, epoch) for stream in (Stream.POLICY, Stream.CUTOUT))
        return _Draws(
            order,
            offsets,
            flip_mask(augment.flip, count, epoch, seed) if augment.flip != "none" else None,
            self._policy.draw(count, policy) if self._policy else None,
            draw_centres(count, self._size, cutout, augment.cutout * augment.cutout_inside) if augment.cutout else None,
            draw_mixings(augment, len(self), self._size, numpy_generator(seed, Stream.MIX, epoch)),
            crops,
        )

    def _chunk(self, rows: Tensor, draws: "_Draws") -> tuple[Tensor, Tensor | None, Tensor]:
        """Augment images as long as they are bytes; return them, what cutout hides, and their labels."""
        on_device = send(rows, self._device)
        images = self._images.crop(on_device, send(draws.offsets[rows], self._device))
        if draws.flips is not None:
            images = flip(images, send(draws.flips[rows], self._device))
        if self._operations is not None and draws.ops is not None:
            self._operations.apply(images, draws.ops[rows])
        hidden = None
        if draws.centres is not None:
            hidden = cutout_mask(send(draws.centres[rows], self._device), self._augment.cutout, self._size)
        return images, hidden, self._labels[on_device]

    def _finish(
        self, pixels: Tensor, labels: Tensor, hidden: Tensor | None, mine: slice, mixing: Mixing | None
    ) -> tuple[Tensor, Tensor]:
        """Turn one batch of a chunk into what a network takes."""
        images = self._images.normalize(pixels)
        if hidden is not None:
            images.masked_fill_(hidden[mine], 0)
        targets = labels
        if self._augment.mix != "none":
            targets = self._probs[labels]
            if mixing is not None:
                images, targets = mix(images, targets, mixing)
        return images.contiguous(memory_format=torch.channels_last), targets


@dataclass(frozen=True)
class _Draws:
    """What was drawn for an epoch, on the CPU; everything but the order and the mixing is by image of the split."""

    order: Tensor
    offsets: Tensor
    flips: Tensor | None
    ops: Tensor | None
    centres: Tensor | None
    mixings: list[Mixing | None]
    crops: Tensor | None


def _policy(augment: Augment, size: tuple[int, int]) -> Policy | None:
    if augment.policy == "autoaugment":
        return autoaugment(size)
    if augment.policy == "randaugment":
        return randaugment(augment.randaugment_ops, augment.randaugment_magnitude, size)
    return None
