"""Published networks that only look like ones of this zoo: structure, names and order of their tensors."""

from collections.abc import Sequence

from torch import nn

from tests.zoo.importing.published.parts import LAYERS, STAGES, Stages, applied, conv, groups, named


class Meliketoy(nn.Module):
    """A block of meliketoy/wide-resnet.pytorch: biases, and a shortcut that starts before the activation."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, bias=True)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b, 3, stride, bias=True)
        self.shortcut = nn.Sequential(conv(a, b, 1, stride, bias=True)) if stride != 1 or a != b else nn.Sequential()

    @staticmethod
    def network(width: int, blocks: int) -> nn.Module:
        widths = [16 * width, 32 * width, 64 * width]
        parts: dict[str, nn.Module] = {"conv1": conv(3, 16, bias=True)}
        parts |= groups(Meliketoy, LAYERS[:3], 16, widths, blocks)
        parts |= {"bn1": nn.BatchNorm2d(widths[-1]), "linear": nn.Linear(widths[-1], 10)}
        return Stages(parts, LAYERS[:3], applied("conv1"), applied("bn1", "relu"), "linear")


class KuangliuPreAct(nn.Module):
    """A block of kuangliu/pytorch-cifar's PreActResNet18, which has no norm outside of its blocks."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)
        if stride != 1 or a != b:
            self.shortcut = nn.Sequential(conv(a, b, 1, stride))

    @staticmethod
    def network(widths: Sequence[int], blocks: int) -> nn.Module:
        names = LAYERS[: len(widths)]
        parts: dict[str, nn.Module] = {"conv1": conv(3, widths[0])}
        parts |= groups(KuangliuPreAct, names, widths[0], widths, blocks) | {"linear": nn.Linear(widths[-1], 10)}
        return Stages(parts, names, applied("conv1"), applied(), "linear")


class PreActNoShortcut(nn.Module):
    """bn1, conv1, bn2, conv2, whose shortcut has no parameters: as many tensors of each shape as `PostActivation`."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        self.bn1, self.conv1 = nn.BatchNorm2d(a), conv(a, b, 3, stride)
        self.bn2, self.conv2 = nn.BatchNorm2d(b), conv(b, b)


def hysts_preact(widths: Sequence[int], blocks: int) -> nn.Module:
    """hysts/pytorch_image_classification, resnet_preact, had it shortcuts without parameters: the nearest miss."""
    parts: dict[str, nn.Module] = {"conv": conv(3, widths[0])}
    parts |= groups(PreActNoShortcut, STAGES, widths[0], widths, blocks, pattern="block{}", first=1)
    parts |= {"bn": nn.BatchNorm2d(widths[-1]), "fc": nn.Linear(widths[-1], 10)}
    return Stages(parts, STAGES, applied("conv"), applied("bn", "relu"), "fc")


class HystsShakeShake(nn.Module):
    """A block of hysts' shake_shake: its tensors are those of ours, its shortcut's shift is not."""

    def __init__(self, a: int, b: int, stride: int) -> None:
        super().__init__()
        for path in ("residual_path1", "residual_path2"):
            first, second = conv(a, b, 3, stride), conv(b, b)
            self.add_module(path, named(conv1=first, bn1=nn.BatchNorm2d(b), conv2=second, bn2=nn.BatchNorm2d(b)))
        self.shortcut = nn.Sequential()
        if a != b:
            skip = named(conv1=conv(a, b // 2, 1), conv2=conv(a, b // 2, 1), bn=nn.BatchNorm2d(b))
            self.shortcut = named(skip=skip)

    @staticmethod
    def network(width: int, blocks: int) -> nn.Module:
        widths = [width, 2 * width, 4 * width]
        parts: dict[str, nn.Module] = {"conv": conv(3, 16), "bn": nn.BatchNorm2d(16)}
        parts |= groups(HystsShakeShake, STAGES, 16, widths, blocks, pattern="block{}", first=1)
        parts |= {"fc": nn.Linear(widths[-1], 10)}
        return Stages(parts, STAGES, applied("conv", "bn"), applied("relu"), "fc")
