"""Patch whitening: the first convolution's filters are the scaled principal directions of image patches.

Source: D. Page, "How to Train Your ResNet 8" (2019), and arXiv:2404.00498, section 3.2; code:
KellerJordan/cifar10-airbench at 096d14d, `airbench94_muon.py`, `init_whiten`.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional

__all__ = ["whiten_first_layer", "whitening_filters"]


def whitening_filters(images: Tensor, kernel: int, eps: float) -> Tensor:
    """Return filters whose outputs on patches of `images` are uncorrelated and of variance `v / (v + eps)`.

    Second moments are taken about zero (the images are normalised).

    Args:
        images: normalised, `[N, C, H, W]`.
        kernel: side k of the square patches.
        eps: added to the variances v.

    Returns:
        `[C * k * k, C, k, k]`, by growing variance.
    """
    patches = functional.unfold(images.float(), kernel)  # [N, C*k*k, L]
    flat = patches.transpose(1, 2).reshape(-1, patches.shape[1])
    variances, directions = torch.linalg.eigh(flat.T @ flat / len(flat))
    filters = directions.T / torch.sqrt(variances[:, None] + eps)
    out: Tensor = filters.reshape(-1, images.shape[1], kernel, kernel)
    return out


@torch.no_grad()
def whiten_first_layer(conv: nn.Conv2d, images: Tensor, eps: float) -> None:
    """Set a convolution's weights to the whitening filters of `images` `[N, C, H, W]`, followed by their negatives.

    Raises:
        ValueError: the layer has not two output channels for each element of a patch.
    """
    filters = whitening_filters(images, conv.kernel_size[0], eps)
    both = torch.cat((filters, -filters))
    if both.shape != conv.weight.shape:
        raise ValueError(
            f"whitening needs weights of shape {list(both.shape)}, the layer has {list(conv.weight.shape)}"
        )
    conv.weight.copy_(both)
