"""A tiny network with everything that averages must treat differently, and a random walk of its weights."""

import io
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

from training.averaging import Averager

History = list[dict[str, Tensor]]


class Tiny(nn.Module):
    """Convolution, BatchNorm, dropout, a frozen parameter, a tied one, a constant and an integer buffer."""

    constant: Tensor

    def __init__(self, norms: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.norm = nn.BatchNorm2d(4, momentum=0.3) if norms else nn.GroupNorm(2, 4)
        self.dropout = nn.Dropout(0.5)
        self.deep = nn.Conv2d(4, 4, 1)
        self.norm2 = nn.BatchNorm2d(4) if norms else nn.GroupNorm(2, 4)
        self.head = nn.Linear(4, 2)
        self.same = self.head  # tied: one parameter under two names
        self.deep.weight.requires_grad_(False)
        self.register_buffer("constant", torch.tensor([1.5, -2.0]), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm2(self.deep(self.dropout(self.norm(self.conv(x)).relu()))).mean((2, 3))
        out: Tensor = self.same(x) * self.constant
        return out


def tiny(*, norms: bool = True, channels_last: bool = False, seed: int = 0) -> Tiny:
    torch.manual_seed(seed)
    net = Tiny(norms)
    if channels_last:
        net = net.to(memory_format=torch.channels_last)
        assert not net.conv.weight.is_contiguous()
    return net


def images(count: int, seed: int = 0) -> Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed)) * 2 + 1


def batches(count: int = 3) -> Callable[[], Iterator[Tensor]]:
    return lambda: (images(8, 100 + number) for number in range(count))


def no_batches() -> Iterator[Tensor]:
    raise AssertionError("nobody needs images here")


def snapshot(net: nn.Module) -> dict[str, Tensor]:
    """All parameters and buffers in float64, by every name they have in the network."""
    named = [*net.named_parameters(remove_duplicate=False), *net.named_buffers(remove_duplicate=False)]
    return {name: t.detach().double().clone() for name, t in named}


def step_once(net: nn.Module, step: int) -> None:
    """Move the trainable weights and BatchNorm's statistics by what depends on the step's number alone."""
    generator = torch.Generator().manual_seed(1000 + step)
    for p in net.parameters():
        if p.requires_grad:
            p.data.add_(torch.randn(p.shape, generator=generator), alpha=0.1)
    torch.manual_seed(step)
    net.train()(images(8, step))


def walk(net: nn.Module, averager: Averager, first: int, last: int) -> History:
    """Take steps `first` to `last`, counted from 1, and return what the network was after each."""
    history = []
    for step in range(first, last + 1):
        step_once(net, step)
        averager.update(net, step)
        history.append(snapshot(net))
    return history


def saved(state: dict[str, Any]) -> dict[str, Any]:
    """Send a state through a file that may hold tensors and numbers only."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    buffer.seek(0)
    loaded: dict[str, Any] = torch.load(buffer, map_location="cpu", weights_only=True)
    return loaded
