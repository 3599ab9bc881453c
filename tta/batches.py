"""Batches of images on the device, copied while the device still computes on the batch before."""

from collections.abc import Iterator

import torch
from torch import Tensor

from zoo.data.split import Pixels

__all__ = ["device_batches"]


def device_batches(images: Pixels, batch_size: int, device: torch.device) -> Iterator[Tensor]:
    """Yield the images of a split in batches, on a device.

    On a CUDA GPU the next batch is copied from pinned memory on a stream of its own while the caller works on the
    current one. Elsewhere there is nothing to overlap.

    Args:
        images: uint8 `[N, H, W, 3]`.
        batch_size: images a batch, at least 1; the last batch may be smaller.
        device: where the batches are wanted.

    Yields:
        uint8 `[B, H, W, 3]`.
    """
    parts = (torch.from_numpy(images[start : start + batch_size]) for start in range(0, len(images), batch_size))
    if device.type != "cuda":
        yield from (part.to(device) for part in parts)
        return
    copying = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]  # torch's own
    waiting: Tensor | None = None
    for part in parts:
        with torch.cuda.stream(copying):
            coming = part.pin_memory().to(device, non_blocking=True)
        if waiting is not None:
            yield waiting
        current = torch.cuda.current_stream(device)
        current.wait_stream(copying)
        coming.record_stream(current)
        waiting = coming
    if waiting is not None:
        yield waiting
