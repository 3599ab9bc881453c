"""Fixtures of the architectures' tests: a seed, and what several networks are put through."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


@pytest.fixture
def count_parameters() -> Callable[[nn.Module], int]:
    """Return a function that counts a network's parameters."""

    def count(net: nn.Module) -> int:
        return sum(p.numel() for p in net.parameters())

    return count


@pytest.fixture
def multiply_adds() -> Callable[[nn.Module], int]:
    """Return a function that counts the multiply-adds of a network on the meta device, for one 32x32 image.

    Those of convolutions and the head, and two for each element that a BatchNorm puts out (as the table counts).
    """

    def total(net: nn.Module) -> int:
        norm_elements = 0

        def count(_module: nn.Module, _args: object, out: Tensor) -> None:
            nonlocal norm_elements
            norm_elements += out.numel()

        for module in net.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.register_forward_hook(count)
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            net(torch.empty(1, 3, 32, 32, device="meta"))
        return int(counter.get_total_flops()) // 2 + 2 * norm_elements

    return total


@pytest.fixture
def randomise_norms() -> Callable[[nn.Module], None]:
    """Return a function that gives every BatchNorm values of its own, so that none can stand in for another."""

    def randomise(module: nn.Module) -> None:
        for norm in module.modules():
            if isinstance(norm, nn.BatchNorm2d):
                assert norm.running_mean is not None
                assert norm.running_var is not None
                nn.init.uniform_(norm.weight, 0.5, 1.5)
                nn.init.normal_(norm.bias)
                nn.init.normal_(norm.running_mean)
                nn.init.uniform_(norm.running_var, 0.5, 1.5)

    return randomise


@pytest.fixture
def check_bf16_autocast() -> Callable[[nn.Module, Tensor], None]:
    """Return a function that holds a network of 7 classes in bf16 and channels-last to its own plain logits."""

    def check(net: nn.Module, images: Tensor) -> None:
        expected = net(images)
        assert expected.shape == (4, 7)
        net = net.to(memory_format=torch.channels_last)
        features: list[Tensor] = []
        net.get_submodule("blocks").register_forward_hook(lambda _module, _args, out: features.append(out))
        with torch.autocast("cpu", torch.bfloat16):
            logits = net(images.to(memory_format=torch.channels_last))
        assert features[0].is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(logits.float(), expected, rtol=0.05, atol=0.05)

    return check
