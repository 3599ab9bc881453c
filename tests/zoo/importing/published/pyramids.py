"""PyramidNets as others publish them: our own short renderings of their structure, names and order."""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.importing.published.parts import LAYERS, STAGES, Stages, applied, conv, features_network, named


class PyramidUnit(nn.Module):
    """dyhan0920/PyramidNet-PyTorch, hysts, fast-autoaugment: bn1 first, no ReLU after it; zeros for new channels."""

    def __init__(self, a: int, width: int, stride: int, *, bottleneck: bool, keep: float = 1.0) -> None:
        super().__init__()
        b = 4 * width if bottleneck else width
        chain = [(a, width, 1), (width, width, 3), (width, b, 1)] if bottleneck else [(a, b, 3), (b, b, 3)]
        strided = 1 if bottleneck else 0
        for i, (c, d, kernel) in enumerate(chain):
            self.add_module(f"bn{i + 1}", nn.BatchNorm2d(c))
            self.add_module(f"conv{i + 1}", conv(c, d, kernel, stride if i == strided else 1))
        self.add_module(f"bn{len(chain) + 1}", nn.BatchNorm2d(b))
        self.count, self.stride, self.new, self.keep = len(chain), stride, b - a, keep

    def forward(self, x: Tensor) -> Tensor:
        y = x
        for i in range(1, self.count + 1):
            y = self.get_submodule(f"bn{i}")(y)
            y = self.get_submodule(f"conv{i}")(F.relu(y) if i > 1 else y)
        y = self.get_submodule(f"bn{self.count + 1}")(y) * self.keep
        if self.stride > 1:
            x = F.avg_pool2d(x, 2)
        out: Tensor = y + torch.cat((x, x.new_zeros(len(x), self.new, *x.shape[2:])), 1)
        return out


class PyrUnit(nn.Module):
    """osmr/imgclsmob, pyramidnet with basic blocks: the last norm lies beside the body."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = named(
            conv1=named(bn=nn.BatchNorm2d(a), conv=conv(a, b, 3, stride)),
            conv2=named(bn=nn.BatchNorm2d(b), activ=nn.ReLU(), conv=conv(b, b)),
        )
        self.bn = nn.BatchNorm2d(b)
        self.stride, self.new = stride, b - a

    def forward(self, x: Tensor) -> Tensor:
        y = self.bn(self.body(x))
        x = F.avg_pool2d(x, 2) if self.stride > 1 else x
        out: Tensor = F.pad(x, (0, 0, 0, 0, 0, self.new)) + y
        return out


def _widths(alpha: float, blocks: int) -> list[int]:
    """Widths as the code adds them up, one step after the other."""
    found, width = [], 16.0
    for _ in range(3 * blocks):
        width += alpha / (3 * blocks)
        found.append(round(width))
    return found


def _pyramid(
    make: Callable[[int, int, int, int], nn.Module],
    names: Sequence[str],
    block: str,
    alpha: float,
    blocks: int,
    expansion: int,
) -> tuple[dict[str, nn.Module], int]:
    """Stages of a pyramid, and the width after them; `make` is also told the number of the block, from 1."""
    parts: dict[str, nn.Module] = {}
    a = 16
    for i, width in enumerate(_widths(alpha, blocks)):
        group, inner = divmod(i, blocks)
        part = parts.setdefault(names[group], nn.Sequential())
        first = 0 if block == "{}" else 1
        part.add_module(block.format(inner + first), make(a, width, 2 if group and not inner else 1, i + 1))
        a = width * expansion
    return parts, a


def dyhan(
    alpha: float, blocks: int, classes: int = 10, *, bottleneck: bool = False, shakedrop: float = 0.0
) -> nn.Module:
    """dyhan0920/PyramidNet-PyTorch; `shakedrop` as in `fast_autoaugment`."""
    last = 3 * blocks

    def make(a: int, width: int, stride: int, number: int) -> nn.Module:
        keep = 1 - shakedrop * number / last
        return PyramidUnit(a, width, stride, bottleneck=bottleneck, keep=keep)

    inner, width = _pyramid(make, LAYERS, "{}", alpha, blocks, 4 if bottleneck else 1)
    parts: dict[str, nn.Module] = {"conv1": conv(3, 16), "bn1": nn.BatchNorm2d(16), **inner}
    parts |= {"bn_final": nn.BatchNorm2d(width), "fc": nn.Linear(width, classes)}
    return Stages(parts, LAYERS[:3], applied("conv1", "bn1"), applied("bn_final", "relu"), "fc")


def fast_autoaugment(alpha: float, blocks: int, classes: int = 10) -> nn.Module:
    """kakaobrain/fast-autoaugment: bottlenecks, ShakeDrop up to 0.5, which scales branches in evaluation."""
    return dyhan(alpha, blocks, classes, bottleneck=True, shakedrop=0.5)


def hysts_pyramid(alpha: float, blocks: int, classes: int = 10, *, bottleneck: bool = False) -> nn.Module:
    """hysts/pytorch_image_classification, pyramidnet."""

    def make(a: int, width: int, stride: int, _number: int) -> nn.Module:
        return PyramidUnit(a, width, stride, bottleneck=bottleneck)

    inner, width = _pyramid(make, STAGES, "block{}", alpha, blocks, 4 if bottleneck else 1)
    parts: dict[str, nn.Module] = {"conv": conv(3, 16), "bn1": nn.BatchNorm2d(16), **inner}
    parts |= {"bn2": nn.BatchNorm2d(width), "fc": nn.Linear(width, classes)}
    return Stages(parts, STAGES, applied("conv", "bn1"), applied("bn2", "relu"), "fc")


def pytorchcv_pyramid(alpha: float, blocks: int, classes: int = 10) -> nn.Module:
    """osmr/imgclsmob, pyramidnet*_cifar10 with basic blocks."""
    inner, width = _pyramid(lambda a, w, s, _: PyrUnit(a, w, s), STAGES, "unit{}", alpha, blocks, 1)
    parts: dict[str, nn.Module] = {"init_block": named(conv=conv(3, 16), bn=nn.BatchNorm2d(16)), **inner}
    parts |= {"post_activ": named(bn=nn.BatchNorm2d(width))}
    return features_network(parts, classes, width, ("init_block",), "post_activ")
