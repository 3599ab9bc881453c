"""Run a network over images under several views."""

from collections.abc import Callable, Sequence

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from tta.batches import device_batches
from tta.views import View
from zoo.convert import DTYPES, Dtype
from zoo.data.split import Pixels
from zoo.images import normalize

__all__ = ["TTA", "Precision", "autocast", "view_logits"]

Precision = Dtype


def autocast(device: torch.device, precision: Precision) -> torch.autocast:
    """Return the context in which a network runs in `precision` on `device`; for fp32 it changes nothing."""
    half = precision != "fp32"
    return torch.autocast(device.type, getattr(torch, DTYPES[precision]) if half else None, enabled=half)


@torch.inference_mode()
def view_logits(
    net: nn.Module,
    images: Pixels,
    views: Sequence[View],
    stats: tuple[Sequence[float], Sequence[float]],
    *,
    device: torch.device,
    precision: Precision = "fp32",
    batch_size: int = 500,
    progress: Callable[[int], None] | None = None,
) -> dict[str, npt.NDArray[np.float32]]:
    """Return a network's logits under each view.

    Args:
        net: in eval mode, on `device`: normalised images `[B, 3, H, W]` -> logits `[B, C]`.
        images: uint8 `[N, H, W, 3]`.
        views: what to look at.
        stats: mean and standard deviation per channel, in units of 0..1.
        device: where `net` is.
        precision: `bf16` and `fp16` run under autocast.
        batch_size: images a batch; each view of a batch is a forward pass of its own.
        progress: called after each batch with the number of images in it.

    Returns:
        View name -> float32 `[N, C]`.
    """
    parts: dict[str, list[Tensor]] = {view.name: [] for view in views}
    for pixels in device_batches(images, batch_size, device):
        batch = normalize(pixels, *stats)
        with autocast(device, precision):
            for view in views:
                parts[view.name].append(net(view.apply(batch)).float().cpu())
        if progress is not None:
            progress(len(pixels))
    return {name: torch.cat(logits).numpy() for name, logits in parts.items()}


class TTA(nn.Module):
    """A network behind a set of views, with one merged output.

    Args:
        net: normalised images `[N, C_in, H, W]` -> logits `[N, C]`.
        views: see `tta.VIEW_SETS`.

    Shape: normalised images `[N, C_in, H, W]` -> probabilities `[N, C]`, the weighted mean of each view's softmax.
    """

    def __init__(self, net: nn.Module, views: Sequence[View]) -> None:
        super().__init__()
        self.net = net
        self.views = tuple(views)

    def view_logits(self, images: Tensor) -> Tensor:
        """Return the logits under each view, `[V, N, C]`, from one forward pass over all views."""
        batch = torch.stack([view.apply(images) for view in self.views])
        logits: Tensor = self.net(batch.flatten(0, 1))
        return logits.reshape(*batch.shape[:2], -1)

    def forward(self, images: Tensor) -> Tensor:
        """Return merged probabilities `[N, C]`."""
        weights = torch.tensor([view.weight for view in self.views], device=images.device)
        probs = self.view_logits(images).float().softmax(-1)
        return torch.einsum("v,vnc->nc", weights, probs)
