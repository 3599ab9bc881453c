"""CIFAR ResNets as others publish them: our own short renderings of their structure, names and order."""

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from tests.zoo.importing.published.parts import (
    LAYERS,
    STAGES,
    Make,
    Stages,
    applied,
    conv,
    features_network,
    groups,
    named,
)


class PostActivation(nn.Module):
    """conv1, bn1, ReLU, conv2, bn2, plus the shortcut, ReLU. Shortcut: a module, under the name of its code base."""

    def __init__(self, a: int, b: int, stride: int, shortcut: str, kind: str) -> None:
        super().__init__()
        self.conv1, self.bn1 = conv(a, b, 3, stride), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = conv(b, b), nn.BatchNorm2d(b)
        self.kind, self.side, self.name = kind, (b - a) // 2, shortcut
        self.changes = stride != 1 or a != b
        if self.changes and kind == "numbered":
            self.add_module(shortcut, nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b)))
        elif self.changes and kind == "named":
            self.add_module(shortcut, named(conv=conv(a, b, 1, stride), bn=nn.BatchNorm2d(b)))

    def forward(self, x: Tensor) -> Tensor:
        out = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        if self.changes:
            if self.kind == "zeros on both sides":
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.side, self.side))
            elif self.kind == "zeros at the end":
                x = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, 0, 2 * self.side))
            else:
                x = self.get_submodule(self.name)(x)
        return F.relu(out + x)


def _post(shortcut: str, kind: str) -> Make:
    return lambda a, b, s: PostActivation(a, b, s, shortcut, kind)


def _torchvision_like(make: Make, widths: Sequence[int], blocks: int, classes: int, head: str) -> nn.Module:
    parts: dict[str, nn.Module] = {"conv1": conv(3, widths[0]), "bn1": nn.BatchNorm2d(widths[0])}
    names = LAYERS[: len(widths)]
    parts |= groups(make, names, widths[0], widths, blocks) | {head: nn.Linear(widths[-1], classes)}
    return Stages(parts, names, applied("conv1", "bn1", "relu"), applied(), head)


def akamaster(widths: Sequence[int], blocks: int, classes: int = 10, *, both: bool = True) -> nn.Module:
    """akamaster/pytorch_resnet_cifar10, option A; others of its names pad at the end."""
    kind = "zeros on both sides" if both else "zeros at the end"
    return _torchvision_like(_post("shortcut", kind), widths, blocks, classes, "linear")


def chenyaofo(widths: Sequence[int], blocks: int, classes: int = 10) -> nn.Module:
    """chenyaofo/pytorch-cifar-models."""
    return _torchvision_like(_post("downsample", "numbered"), widths, blocks, classes, "fc")


def kuangliu(widths: Sequence[int], blocks: int, classes: int = 10) -> nn.Module:
    """kuangliu/pytorch-cifar."""
    return _torchvision_like(_post("shortcut", "numbered"), widths, blocks, classes, "linear")


def hysts_resnet(widths: Sequence[int], blocks: int, classes: int = 10) -> nn.Module:
    """hysts/pytorch_image_classification, resnet with basic blocks."""
    parts: dict[str, nn.Module] = {"conv": conv(3, widths[0]), "bn": nn.BatchNorm2d(widths[0])}
    parts |= groups(_post("shortcut", "named"), STAGES, widths[0], widths, blocks, pattern="block{}", first=1)
    parts |= {"fc": nn.Linear(widths[-1], classes)}
    return Stages(parts, STAGES, applied("conv", "bn", "relu"), applied(), "fc")


class ResidualFunction(nn.Module):
    """weiaicunzai/pytorch-cifar100: two sequences."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.residual_function = nn.Sequential(
            conv(a, b, 3, stride), nn.BatchNorm2d(b), nn.ReLU(), conv(b, b), nn.BatchNorm2d(b)
        )
        self.shortcut = nn.Sequential()
        if stride != 1 or a != b:
            self.shortcut = nn.Sequential(conv(a, b, 1, stride), nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.residual_function(x) + self.shortcut(x))


def weiaicunzai(widths: Sequence[int], blocks: int, classes: int = 10) -> nn.Module:
    """weiaicunzai/pytorch-cifar100."""
    names = ("conv2_x", "conv3_x", "conv4_x", "conv5_x")
    parts: dict[str, nn.Module] = {"conv1": nn.Sequential(conv(3, widths[0]), nn.BatchNorm2d(widths[0]), nn.ReLU())}
    parts |= groups(ResidualFunction, names, widths[0], widths, blocks) | {"fc": nn.Linear(widths[-1], classes)}
    return Stages(parts, names, applied("conv1"), applied(), "fc")


class ResUnit(nn.Module):
    """osmr/imgclsmob, resnet."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.body = named(
            conv1=named(conv=conv(a, b, 3, stride), bn=nn.BatchNorm2d(b), activ=nn.ReLU()),
            conv2=named(conv=conv(b, b), bn=nn.BatchNorm2d(b)),
        )
        self.changes = stride != 1 or a != b
        if self.changes:
            self.identity_conv = named(conv=conv(a, b, 1, stride), bn=nn.BatchNorm2d(b))

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(self.body(x) + (self.identity_conv(x) if self.changes else x))


def pytorchcv_resnet(widths: Sequence[int], blocks: int, classes: int = 10) -> nn.Module:
    """osmr/imgclsmob, resnet20_cifar10 and deeper."""
    parts: dict[str, nn.Module] = {"init_block": named(conv=conv(3, widths[0]), bn=nn.BatchNorm2d(widths[0]))}
    parts |= groups(ResUnit, STAGES, widths[0], widths, blocks, pattern="unit{}", first=1)
    return features_network(parts, classes, widths[-1], ("init_block", "relu"), "")
