"""Recomputed statistics against the formulas for the batches themselves, layer by layer."""

from collections.abc import Iterator

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from tests.training.averaging.conftest import Tiny, batches, images, no_batches, snapshot, tiny
from training.averaging import recompute_statistics
from zoo.archs import create
from zoo.errors import MenagerieError


def mean_and_variance(x: Tensor) -> tuple[Tensor, Tensor]:
    """Per channel of `[B, C, H, W]`: mean and unbiased variance, by the formulas."""
    flat = x.transpose(0, 1).flatten(1).double()
    mean = flat.mean(1)
    return mean, ((flat - mean[:, None]) ** 2).sum(1) / (flat.shape[1] - 1)


def layer_by_layer(net: Tiny, x: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Statistics of both layers' inputs in one batch, each layer normalising by the batch, without dropout."""
    net = net.double()
    first = net.conv(x.double())
    mean, variance = mean_and_variance(first)
    biased = variance * (first.numel() / 4 - 1) / (first.numel() / 4)
    scale = (net.norm.weight / (biased + net.norm.eps).sqrt())[:, None, None]
    normalised = (first - mean[:, None, None]) * scale + net.norm.bias[:, None, None]
    return (mean, variance), mean_and_variance(net.deep(normalised.relu()))


def dirty(net: Tiny) -> Tiny:
    """Give statistics and affine parameters values that show whether they were used."""
    for name, buffer in net.named_buffers():
        if name != "constant":
            buffer.fill_(9)
    net.norm.weight.data.uniform_(0.5, 2)
    net.norm.bias.data.uniform_(-1, 1)
    return net


def statistics_of(net: Tiny) -> list[tuple[Tensor, Tensor]]:
    """Running mean and variance of both layers, in float64."""
    values = snapshot(net)
    return [(values[f"{norm}.running_mean"], values[f"{norm}.running_var"]) for norm in ("norm", "norm2")]


@pytest.mark.parametrize("channels_last", [False, True])
def test_one_big_batch_gives_its_mean_and_unbiased_variance(channels_last: bool) -> None:
    net = dirty(tiny(channels_last=channels_last))
    recompute_statistics(net, lambda: iter([images(40)]))
    got = statistics_of(net)
    with torch.no_grad():
        expected = layer_by_layer(net, images(40))
    for (mean, variance), (right_mean, right_variance) in zip(got, expected, strict=True):
        torch.testing.assert_close(mean, right_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, right_variance, rtol=1e-4, atol=1e-5)


def test_several_batches_count_the_same() -> None:
    net = dirty(tiny())
    parts = [images(8, 1), images(8, 2) * 3, images(8, 3) - 4]
    recompute_statistics(net, lambda: iter(parts))
    got = statistics_of(net)
    with torch.no_grad():
        by_batch = [layer_by_layer(net, part) for part in parts]
    for layer, (mean, variance) in enumerate(got):
        right_mean = sum(statistics[layer][0] for statistics in by_batch) / 3
        right_variance = sum(statistics[layer][1] for statistics in by_batch) / 3
        torch.testing.assert_close(mean, right_mean, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(variance, right_variance, rtol=1e-4, atol=1e-5)
    assert net.norm.num_batches_tracked == 3


def test_nothing_else_changes() -> None:
    net = dirty(tiny()).train()
    before = snapshot(net)
    state = torch.get_rng_state()
    recompute_statistics(net, batches())
    assert torch.equal(torch.get_rng_state(), state), "nothing was drawn: dropout was off"
    after = snapshot(net)
    changed = {name for name in before if not torch.equal(before[name], after[name])}
    assert changed == {
        f"{n}.{k}" for n in ("norm", "norm2") for k in ("running_mean", "running_var", "num_batches_tracked")
    }
    assert not any(module.training for module in net.modules())
    assert (net.norm.momentum, net.norm2.momentum) == (0.3, 0.1)
    assert not net.conv.weight.grad


def test_evaluation_then_normalises_what_it_sees() -> None:
    net = tiny()
    recompute_statistics(net, lambda: iter([images(64)]))
    seen: list[Tensor] = []
    net.norm2.register_forward_hook(lambda *args: seen.append(args[2]))
    with torch.no_grad():
        net(images(64))
    mean, variance = mean_and_variance(seen[0])
    torch.testing.assert_close(mean, torch.zeros(4, dtype=torch.float64), atol=1e-3, rtol=0)
    torch.testing.assert_close(variance, torch.ones(4, dtype=torch.float64), atol=1e-2, rtol=0)


def test_noise_of_training_is_off_in_real_networks() -> None:
    """A WideResNet with dropout and ShakeDrop in training mode would give other statistics at every pass."""
    torch.manual_seed(0)
    net = create("wrn16-2", 10, depth=10, width=1, dropout=0.3, shakedrop=0.5)
    results = []
    for _ in range(2):
        recompute_statistics(net, lambda: iter([functional.interpolate(images(4), 8)]))
        results.append(snapshot(net))
    assert all(torch.equal(results[0][name], results[1][name]) for name in results[0])


def test_networks_without_batch_norm_need_no_images() -> None:
    net = tiny(norms=False).train()
    recompute_statistics(net, no_batches)
    assert not net.training


def test_batch_norm_without_statistics_is_left_alone() -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2, track_running_stats=False))
    recompute_statistics(net, batches())
    assert [name for name, _ in net.named_buffers()] == []


def test_no_batch_is_an_error() -> None:
    def none() -> Iterator[Tensor]:
        yield from ()

    with pytest.raises(MenagerieError, match=r"^BatchNorm statistics need at least one batch of images: give more"):
        recompute_statistics(tiny(), none)


def test_precision_is_that_of_the_pass() -> None:
    seen: list[torch.dtype] = []
    net = tiny()
    net.conv.register_forward_hook(lambda *args: seen.append(args[2].dtype))
    recompute_statistics(net, batches(1), "bf16")
    recompute_statistics(net, batches(1), "fp32")
    assert seen == [torch.bfloat16, torch.float32]
    assert net.norm.running_mean is not None
    assert net.norm.running_mean.dtype == torch.float32
