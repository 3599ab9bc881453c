"""The operations of AutoAugment and RandAugment on many images at once.

Same result as torchvision's own, image by image. Three families, by what is the same for all images that go through an
operation of a given magnitude:

- *moves* (shear, translation, rotation; nearest neighbour, black outside): where each pixel comes from;
- *tables* (brightness, posterize, solarize, invert): which value takes the place of each value;
- the others, which look at the image: one call for the images of each magnitude.

torchvision itself makes the first two, once, out of a picture of all positions and of all values; then all images of a
family go through one lookup.
"""

import math
from collections.abc import Callable, Sequence
from itertools import accumulate

import torch
from torch import Tensor
from torchvision.transforms.v2 import functional

from training.augment.policies import Op
from training.augment.transfer import send

__all__ = ["Operations", "sharpen", "source_pixels", "value_table"]

_MOVES = ("Rotate", "ShearX", "ShearY", "TranslateX", "TranslateY")
_TABLES = ("Brightness", "Invert", "Posterize", "Solarize")


def source_pixels(op: Op, size: tuple[int, int]) -> Tensor:
    """Say where the pixels of a moved image come from.

    Args:
        op: one of the moves; shear as a slope, translation in pixels (rounded towards zero), rotation in degrees.
        size: (H, W), less than 2**24 pixels.

    Returns:
        int64 `[H * W]`, positions in the flattened image; -1 for pixels from outside of it.
    """
    numbers = torch.arange(1.0, 1 + size[0] * size[1]).view(1, *size)
    if op.name == "Rotate":
        moved = functional.rotate(numbers, op.magnitude)
    elif op.name.startswith("Shear"):
        degrees = math.degrees(math.atan(op.magnitude))
        shear = [degrees, 0.0] if op.name == "ShearX" else [0.0, degrees]
        moved = functional.affine(numbers, 0.0, [0, 0], 1.0, shear, center=[0, 0])
    else:
        pixels = int(op.magnitude)
        shift = [pixels, 0] if op.name == "TranslateX" else [0, pixels]
        moved = functional.affine(numbers, 0.0, shift, 1.0, [0.0, 0.0])
    source: Tensor = moved.flatten().long() - 1
    return source


def value_table(op: Op) -> Tensor:
    """Return what an operation on single values makes of each: uint8 `[256]`."""
    values = torch.arange(256, dtype=torch.uint8).view(1, 16, 16)
    if op.name == "Brightness":
        table: Tensor = functional.adjust_brightness(values, 1 + op.magnitude)
    elif op.name == "Posterize":
        table = functional.posterize(values, int(op.magnitude))
    elif op.name == "Solarize":
        table = functional.solarize(values, 255 * op.magnitude)
    else:
        table = functional.invert(values)
    return table.flatten()


def sharpen(images: Tensor, factor: float) -> Tensor:
    """Do as torchvision's `adjust_sharpness`, several times faster: the blur is a sum, not a convolution.

    It also stays exact on a GPU, where a convolution may round its inputs to TF32.

    Args:
        images: uint8 `[B, C, H, W]`.
        factor: 0 blurs, 1 changes nothing, above 1 sharpens.

    Returns:
        uint8 `[B, C, H, W]`; pixels at the edge keep their value.
    """
    values = images.float()
    inner = values[..., 1:-1, 1:-1]
    if inner.numel():
        across = values[..., :-2] + values[..., 1:-1] + values[..., 2:]
        square = across[..., :-2, :] + across[..., 1:-1, :] + across[..., 2:, :]
        # The mean of nine pixels, of which the middle one counts five times. A thirteenth is never half-way.
        blurred = square.add_(inner, alpha=4).div_(13).round_()
        inner.add_(blurred.sub_(inner), alpha=1 - factor)
    return values.clamp_(0, 255).to(torch.uint8)


_OTHERS: dict[str, Callable[[Tensor, float], Tensor]] = {
    "AutoContrast": lambda images, _: functional.autocontrast(images),
    "Color": lambda images, magnitude: functional.adjust_saturation(images, 1 + magnitude),
    "Contrast": lambda images, magnitude: functional.adjust_contrast(images, 1 + magnitude),
    "Equalize": lambda images, _: functional.equalize(images),
    "Sharpness": lambda images, magnitude: sharpen(images, 1 + magnitude),
}


class Operations:
    """A policy's operations, prepared for images of one size on one device.

    Args:
        ops: see `training.augment.policies.Policy`.
        size: (H, W) of the images.
        device: where they are.
    """

    def __init__(self, ops: Sequence[Op], size: tuple[int, int], device: torch.device) -> None:
        # Sorted by family, so that the images of a family, sorted by their operation, are neighbours.
        moves, tables, others = ([op for op in ops if op.name in names] for names in (_MOVES, _TABLES, _OTHERS))
        self._others = others
        self._moves, self._tables = len(moves), len(tables)
        place = {op: position for position, op in enumerate([*moves, *tables, *others])}
        # What is in no family, `Identity`, comes last and is never looked at.
        self._place = torch.tensor([place.get(op, len(place)) for op in ops])
        source = torch.stack([source_pixels(op, size) for op in moves]) if moves else torch.empty(0, 0)
        self._source = source.clamp(min=0).to(device)
        self._inside = (source >= 0).to(device, torch.uint8)
        self._values = torch.stack([value_table(op) for op in tables]).to(device) if tables else torch.empty(0, 256)

    def apply(self, images: Tensor, drawn: Tensor) -> None:
        """Change images in place, stage after stage.

        Args:
            images: uint8 `[B, C, H, W]`, contiguous.
            drawn: int64 `[B, S]` on the CPU, positions in `ops`: what happens to each image at each stage.
        """
        # All that has to be known about the groups is worked out here, on the CPU: no kernel is waited for.
        place, rows = self._place[drawn.T].sort(stable=True)
        sizes = [torch.bincount(stage, minlength=len(self._place)).tolist() for stage in place]
        on_device = send(torch.stack((place, rows)), images.device)
        for stage, counts in enumerate(sizes):
            self._stage(images, on_device[0, stage], on_device[1, stage], [0, *accumulate(counts)])

    def _stage(self, images: Tensor, place: Tensor, rows: Tensor, start: list[int]) -> None:
        """Apply one stage to the images `rows`, sorted by `place`; those at place k begin at `start[k]`."""
        moves, tables = slice(start[self._moves]), slice(start[self._moves], start[self._moves + self._tables])
        if moves.stop:
            self._move(images, rows[moves], place[moves])
        if tables.stop > tables.start:
            self._look_up(images, rows[tables], place[tables] - self._moves)
        for k, op in enumerate(self._others, self._moves + self._tables):
            if start[k + 1] > start[k]:
                group = rows[start[k] : start[k + 1]]
                images.index_copy_(0, group, _OTHERS[op.name](images.index_select(0, group), op.magnitude))

    def _move(self, images: Tensor, rows: Tensor, which: Tensor) -> None:
        picked = images.index_select(0, rows)
        source = self._source.index_select(0, which).unsqueeze(1).expand(-1, images.shape[1], -1)
        moved = picked.flatten(2).gather(2, source).mul_(self._inside.index_select(0, which).unsqueeze(1))
        images.index_copy_(0, rows, moved.view_as(picked))

    def _look_up(self, images: Tensor, rows: Tensor, which: Tensor) -> None:
        picked = images.index_select(0, rows)
        values = self._values.index_select(0, which).gather(1, picked.flatten(1).long())
        images.index_copy_(0, rows, values.view_as(picked))
