"""WideResNets as others publish them: our own short renderings of their structure, names and order."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.importing.published.parts import STAGES, Stages, applied, conv, features_network, groups, named


class Xternalz(nn.Module):
    """xternalz/WideResNet-pytorch: where the width changes, the shortcut sees the activated input."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        self.convShortcut = conv(a, b, 1, stride) if a != b else None

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        total: Tensor = out + (x if self.convShortcut is None else self.convShortcut(active))
        return total


def xternalz(width: int, blocks: int, classes: int = 10) -> nn.Module:
    """xternalz/WideResNet-pytorch."""
    widths, names = [16 * width, 32 * width, 64 * width], ("block1", "block2", "block3")
    inner = groups(Xternalz, names, 16, widths, blocks)
    parts: dict[str, nn.Module] = {"conv1": conv(3, 16)}
    parts |= {name: named(layer=part) for name, part in inner.items()}
    parts |= {"bn1": nn.BatchNorm2d(widths[-1]), "fc": nn.Linear(widths[-1], classes)}
    return Stages(parts, names, applied("conv1"), applied("bn1", "relu"), "fc")


class HystsWide(nn.Module):
    """hysts/pytorch_image_classification, wrn."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        self.shortcut = named(conv=conv(a, b, 1, stride)) if a != b else nn.Sequential()
        self.both = a != b

    def forward(self, x: Tensor) -> Tensor:
        active = F.relu(self.bn1(x))
        out = self.conv2(F.relu(self.bn2(self.conv1(active))))
        total: Tensor = out + self.shortcut(active if self.both else x)
        return total


def hysts_wide(width: int, blocks: int, classes: int = 10) -> nn.Module:
    """hysts/pytorch_image_classification, wrn."""
    widths = [16 * width, 32 * width, 64 * width]
    parts: dict[str, nn.Module] = {"conv": conv(3, 16)}
    parts |= groups(HystsWide, STAGES, 16, widths, blocks, pattern="block{}", first=1)
    parts |= {"bn": nn.BatchNorm2d(widths[-1]), "fc": nn.Linear(widths[-1], classes)}
    return Stages(parts, STAGES, applied("conv"), applied("bn", "relu"), "fc")


class PreResUnit(nn.Module):
    """osmr/imgclsmob, wrn: the norm of a convolution lies beside it, and before it in time."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = named(
            conv1=named(bn=nn.BatchNorm2d(a), conv=conv(a, b, 3, stride)),
            conv2=named(bn=nn.BatchNorm2d(b), conv=conv(b, b)),
        )
        self.changes = stride != 1 or a != b
        if self.changes:
            self.identity_conv = conv(a, b, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        first, second = self.body.get_submodule("conv1"), self.body.get_submodule("conv2")
        active = F.relu(first.get_submodule("bn")(x))
        y = F.relu(second.get_submodule("bn")(first.get_submodule("conv")(active)))
        out: Tensor = second.get_submodule("conv")(y) + (self.identity_conv(active) if self.changes else x)
        return out


def pytorchcv_wide(width: int, blocks: int, classes: int = 10) -> nn.Module:
    """osmr/imgclsmob, wrn*_cifar10."""
    widths = [16 * width, 32 * width, 64 * width]
    parts: dict[str, nn.Module] = {"init_block": conv(3, 16)}
    parts |= groups(PreResUnit, STAGES, 16, widths, blocks, pattern="unit{}", first=1)
    parts |= {"post_activ": named(bn=nn.BatchNorm2d(widths[-1]))}
    return features_network(parts, classes, widths[-1], ("init_block",), "post_activ")


class Functional:
    """szagoruyko/wide-residual-networks: no modules; `params` and `stats` are flat, and so are convolutions' names."""

    def __init__(self, width: int, blocks: int, classes: int = 10) -> None:
        self.params: dict[str, Tensor] = {"conv0": 0.3 * torch.randn(16, 3, 3, 3)}
        self.stats: dict[str, Tensor] = {}
        self.blocks = blocks
        a = 16
        for group, b in enumerate((16 * width, 32 * width, 64 * width)):
            for block in range(blocks):
                base = f"group{group}.block{block}"
                self.params[f"{base}.conv0"] = torch.randn(b, a, 3, 3) / (3 * a**0.5)
                self.params[f"{base}.conv1"] = torch.randn(b, b, 3, 3) / (3 * b**0.5)
                self._norm(f"{base}.bn0", a)
                self._norm(f"{base}.bn1", b)
                if a != b:
                    self.params[f"{base}.convdim"] = torch.randn(b, a, 1, 1) / a**0.5
                a = b
        self._norm("bn", a)
        self.params |= {"fc.weight": torch.randn(classes, a) / a**0.5, "fc.bias": torch.randn(classes)}

    def _norm(self, base: str, width: int) -> None:
        self.params |= {f"{base}.weight": 0.5 + torch.rand(width), f"{base}.bias": torch.randn(width)}
        self.stats |= {f"{base}.running_mean": torch.randn(width), f"{base}.running_var": 0.5 + torch.rand(width)}

    def _active(self, x: Tensor, base: str) -> Tensor:
        mean, var = self.stats[f"{base}.running_mean"], self.stats[f"{base}.running_var"]
        return F.relu(F.batch_norm(x, mean, var, self.params[f"{base}.weight"], self.params[f"{base}.bias"]))

    def __call__(self, x: Tensor) -> Tensor:
        x = F.conv2d(x, self.params["conv0"], padding=1)
        for group in range(3):
            for block in range(self.blocks):
                base, stride = f"group{group}.block{block}", 2 if group and not block else 1
                first = self._active(x, f"{base}.bn0")
                y = F.conv2d(first, self.params[f"{base}.conv0"], stride=stride, padding=1)
                y = F.conv2d(self._active(y, f"{base}.bn1"), self.params[f"{base}.conv1"], padding=1)
                dim = self.params.get(f"{base}.convdim")
                x = y + (x if dim is None else F.conv2d(first, dim, stride=stride))
        x = self._active(x, "bn").mean((2, 3))
        return F.linear(x, self.params["fc.weight"], self.params["fc.bias"])
