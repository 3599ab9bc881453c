"""What the renderings of others' networks are put together from."""

from collections.abc import Callable, Sequence
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn

Make = Callable[[int, int, int], nn.Module]
"""(channels in, channels out, stride) -> block."""

LAYERS = ("layer1", "layer2", "layer3", "layer4")
STAGES = ("stage1", "stage2", "stage3")


def conv(a: int, b: int, kernel: int = 3, stride: int = 1, *, bias: bool = False) -> nn.Conv2d:
    return nn.Conv2d(a, b, kernel, stride, kernel // 2, bias=bias)


def named(**parts: nn.Module) -> nn.Sequential:
    """A sequence of modules under names."""
    sequence = nn.Sequential()
    for name, part in parts.items():
        sequence.add_module(name, part)
    return sequence


def randomised(net: nn.Module) -> nn.Module:
    """Give every number a value of its own, so that no tensor can stand in for another; in eval mode."""
    for name, tensor in net.state_dict().items():
        if name.endswith("running_var"):
            nn.init.uniform_(tensor, 0.5, 1.5)
        elif tensor.dim() == 1:
            nn.init.normal_(tensor, 0.5, 0.3)
        elif tensor.dim() > 1:
            nn.init.kaiming_normal_(tensor)
    return net.eval()


class Stages(nn.Module):
    """Stem, stages of blocks, what follows them, head; `order` says in which order attributes are defined."""

    def __init__(
        self,
        parts: dict[str, nn.Module],
        stages: Sequence[str],
        before: Callable[[nn.Module, Tensor], Tensor],
        after: Callable[[nn.Module, Tensor], Tensor],
        head: str,
    ) -> None:
        super().__init__()
        for name, part in parts.items():
            self.add_module(name, part)
        self.stages, self.before, self.after, self.head = stages, before, after, head

    def forward(self, x: Tensor) -> Tensor:
        x = self.before(self, x)
        for stage in self.stages:
            x = self.get_submodule(stage)(x)
        x = self.after(self, x).mean((2, 3))
        out: Tensor = self.get_submodule(self.head)(x)
        return out


def stage(make: Make, a: int, b: int, blocks: int, stride: int, pattern: str = "{}", first: int = 0) -> nn.Sequential:
    return named(
        **{pattern.format(first + i): make(a if i == 0 else b, b, stride if i == 0 else 1) for i in range(blocks)}
    )


def groups(
    make: Make,
    names: Sequence[str],
    stem: int,
    widths: Sequence[int],
    blocks: int,
    **how: Any,  # noqa: ANN401
) -> dict[str, Any]:
    """Stages by name; all but the first begin with stride 2."""
    ins = [stem, *widths[:-1]]
    return {
        name: stage(make, a, b, blocks, 1 if i == 0 else 2, **how)
        for i, (name, a, b) in enumerate(zip(names, ins, widths, strict=True))
    }


def applied(*path: str) -> Callable[[nn.Module, Tensor], Tensor]:
    """Return a function that applies parts of a network, and ReLU where the path says so."""

    def run(net: nn.Module, x: Tensor) -> Tensor:
        for part in path:
            x = F.relu(x) if part == "relu" else net.get_submodule(part)(x)
        return x

    return run


def features_network(
    parts: dict[str, nn.Module], classes: int, width: int, stem: Sequence[str], last: str
) -> nn.Module:
    """pytorchcv: everything but the head is below `features`."""
    whole = {"features": named(**parts), "output": nn.Linear(width, classes)}
    before = applied(*(s if s == "relu" else f"features.{s}" for s in stem))
    after = applied(f"features.{last}", "relu") if last else applied()
    return Stages(whole, [f"features.{name}" for name in STAGES], before, after, "output")
