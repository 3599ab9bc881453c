"""FastNet against a closed form, its published counts, and a plain rendering of its forward pass."""

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from zoo.archs import create
from zoo.archs.fastnet import VARIANTS, ConvGroup, FastNet
from zoo.errors import UsageError


def on_meta(**arguments: tuple[int, int, int] | float) -> FastNet:
    with torch.device("meta"):
        return FastNet(**arguments).eval()  # type: ignore[arg-type]


def closed_form(widths: tuple[int, int, int], classes: int, depth: int = 2) -> int:
    """Parameters by hand: 2x2x3 patches and a bias, then as many convolutions and norms a group, and the head."""
    total, width_in = 24 * 12 + 24, 24
    for width in widths:
        total += 9 * width_in * width + (depth - 1) * 9 * width * width + depth * 2 * width
        width_in = width
    return total + width_in * classes


def test_variants() -> None:
    assert dict(VARIANTS) == {
        "fastnet": {"widths": (64, 256, 256)},
        "fastnet96": {"widths": (128, 384, 512), "depth": 3, "norm_momentum": 0.1},
    }


@pytest.mark.parametrize("depth", [2, 3])
@pytest.mark.parametrize(("widths", "classes"), [((64, 256, 256), 10), ((64, 256, 256), 100), ((8, 16, 24), 3)])
def test_parameters(widths: tuple[int, int, int], classes: int, depth: int) -> None:
    net = on_meta(widths=widths, classes=classes, depth=depth)
    assert sum(p.numel() for p in net.parameters()) == closed_form(widths, classes, depth)


def test_airbench96_in_numbers() -> None:
    net = create("fastnet96", 10)
    assert sum(p.numel() for p in net.parameters()) == closed_form((128, 384, 512), 10, 3) == 9_918_776
    assert {m.momentum for m in net.modules() if isinstance(m, nn.BatchNorm2d)} == {0.1}


@pytest.mark.parametrize("depth", [1, 4])
def test_other_depths_are_refused(depth: int) -> None:
    with pytest.raises(UsageError, match=rf"^architecture 'fastnet': a group has 2 or 3 convolutions, not {depth}$"):
        create("fastnet", 10, depth=depth)


def test_about_two_million_parameters_and_an_eighth_of_a_giga_multiply_add() -> None:
    net = on_meta()
    assert sum(p.numel() for p in net.parameters()) == pytest.approx(2e6, rel=0.02)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        net(torch.empty(1, 3, 32, 32, device="meta"))
    # By hand: outputs of each convolution times its kernel; the first of a group runs before its pooling.
    layers = [
        (31, 12, 24),
        (31, 216, 64),
        (15, 576, 64),
        (15, 576, 256),
        (7, 2304, 256),
        (7, 2304, 256),
        (3, 2304, 256),
    ]
    wanted = sum(side**2 * kernel * width for side, kernel, width in layers) + 256 * 10
    assert counter.get_total_flops() / 2 == wanted
    assert round(wanted / 1e9, 2) == 0.12


def test_structure() -> None:
    net = on_meta()
    assert (net.whiten.kernel_size, net.whiten.stride, net.whiten.padding) == ((2, 2), (1, 1), (0, 0))
    convolutions = [m for m in net.groups.modules() if isinstance(m, nn.Conv2d)]
    assert [(m.in_channels, m.out_channels) for m in convolutions] == [
        (24, 64),
        (64, 64),
        (64, 256),
        (256, 256),
        (256, 256),
        (256, 256),
    ]
    assert all((m.kernel_size, m.padding, m.bias) == ((3, 3), (1, 1), None) for m in convolutions)
    assert net.head.bias is None


def test_what_is_learned() -> None:
    net = FastNet()
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    norms = {name for name, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)}
    assert len(norms) == 6
    assert frozen == {"whiten.weight", *(f"{name}.weight" for name in norms)}
    assert all(bool((p == 1).all()) for name, p in net.named_parameters() if name in frozen - {"whiten.weight"})


def test_convolutions_start_as_the_identity_on_their_first_filters() -> None:
    for conv in (m for m in FastNet().groups.modules() if isinstance(m, nn.Conv2d)):
        images = torch.randn(2, conv.in_channels, 5, 6)
        assert torch.equal(conv(images)[:, : conv.in_channels], images)
        if conv.out_channels > conv.in_channels:
            assert conv.weight[conv.in_channels :].std() > 0.001


def test_the_head_starts_with_unit_deviation() -> None:
    assert FastNet().head.weight.std().item() == pytest.approx(1)


def randomised(net: FastNet) -> FastNet:
    """Give every layer values of its own, so that none can stand in for another."""
    for tensor in (*net.parameters(), *(b for b in net.buffers() if b.is_floating_point())):
        nn.init.uniform_(tensor, 0.1, 0.3) if tensor.ndim == 1 else nn.init.normal_(tensor, std=0.1)
    return net


def plain(net: FastNet, images: Tensor) -> Tensor:
    """Whitening, GELU, three times (conv, pool, norm, GELU, conv, norm, GELU, and more), pool, head, over the width."""

    def norm(x: Tensor, layer: nn.BatchNorm2d) -> Tensor:
        return F.batch_norm(x, layer.running_mean, layer.running_var, layer.weight, layer.bias, eps=1e-12)

    x = F.gelu(F.conv2d(images, net.whiten.weight, net.whiten.bias))
    for group in net.groups:
        assert isinstance(group, ConvGroup)
        x = F.max_pool2d(F.conv2d(x, group.conv1.weight, padding=1), 2)
        first = x = F.gelu(norm(x, group.norm1))
        x = F.gelu(norm(F.conv2d(x, group.conv2.weight, padding=1), group.norm2))
        if group.deep:
            x = F.gelu(first + norm(F.conv2d(x, group.conv3.weight, padding=1), group.norm3))
    x = F.max_pool2d(x, 3).flatten(1)
    return x @ net.head.weight.T / net.head.in_features


@pytest.mark.parametrize("widths", [(0, 8, 8), (8, 8, -1)])
def test_widths_below_one_are_refused(widths: tuple[int, int, int]) -> None:
    with pytest.raises(UsageError, match=r"^architecture 'fastnet': widths are .*: each must be at least 1$"):
        create("fastnet", 10, widths=widths)


@pytest.mark.parametrize("momentum", [0, -0.1, 1.1, float("nan")])
def test_other_momenta_are_refused(momentum: float) -> None:
    with pytest.raises(UsageError, match=rf"norm_momentum is {momentum}: it must be in \(0, 1\]$"):
        create("fastnet96", 10, norm_momentum=momentum)


@pytest.mark.parametrize("depth", [2, 3])
def test_forward_against_a_plain_rendering(depth: int) -> None:
    net = randomised(FastNet(classes=5, widths=(8, 12, 16), depth=depth)).eval()
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        logits = net(images)
        assert logits.std() > 0
        torch.testing.assert_close(logits, plain(net, images))


@pytest.mark.parametrize("size", [25, 32, 48])
def test_image_sizes(size: int) -> None:
    assert on_meta()(torch.empty(2, 3, size, size, device="meta")).shape == (2, 10)


@pytest.mark.parametrize("size", [24, 49])
def test_image_sizes_it_does_not_take(size: int) -> None:
    with pytest.raises(RuntimeError):
        on_meta()(torch.empty(2, 3, size, size, device="meta"))


@pytest.mark.parametrize("momentum", [0.4, 0.1])
def test_norms_follow_the_batches_at_their_momentum(momentum: float) -> None:
    group = ConvGroup(2, 3, norm_momentum=momentum).train()
    images = torch.randn(4, 2, 6, 6)
    pooled = F.max_pool2d(F.conv2d(images, group.conv1.weight, padding=1), 2)
    group(images)
    torch.testing.assert_close(group.norm1.running_mean, momentum * pooled.mean((0, 2, 3)))
