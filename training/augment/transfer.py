"""Small tensors on their way to the device."""

import torch
from torch import Tensor

__all__ = ["send"]


def send(tensor: Tensor, device: torch.device) -> Tensor:
    """Copy a CPU tensor to `device` without waiting for the work that is queued there."""
    if device.type != "cuda":
        return tensor.to(device)
    # Only from pinned memory does a copy not block; torch keeps that memory until the copy is done.
    return tensor.pin_memory().to(device, non_blocking=True)
