"""Sliced max pooling against PyTorch's own."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from tta.fold import fold_batch_norms
from tta.freeze import FrozenNet, Setting
from tta.max_pool import SlicedMaxPool2d, slice_max_pools, sliced_max_pool2d
from zoo.archs import create

WINDOWS = [((2, 2), (2, 2)), ((3, 3), (3, 3)), ((3, 3), (2, 2)), ((2, 3), (3, 1)), ((3, 3), (1, 1))]


@pytest.mark.parametrize(("kernel", "stride"), WINDOWS)
@pytest.mark.parametrize("size", [(3, 3), (7, 8), (15, 15), (31, 4)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_is_max_pooling(
    kernel: tuple[int, int],
    stride: tuple[int, int],
    size: tuple[int, int],
    layout: torch.memory_format,
    dtype: torch.dtype,
) -> None:
    x = torch.randn(2, 5, *size, dtype=dtype, generator=torch.Generator().manual_seed(0)).to(memory_format=layout)
    pooled = sliced_max_pool2d(x, kernel, stride)
    assert torch.equal(pooled, functional.max_pool2d(x, kernel, stride))
    assert pooled.is_contiguous(memory_format=layout)  # what comes next need not lay it out anew


@pytest.mark.parametrize("shape", [(5, 9, 8), (2, 5, 9, 8)])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_the_module_takes_what_pytorchs_takes(shape: tuple[int, ...], layout: torch.memory_format) -> None:
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    x = x.to(memory_format=layout) if x.ndim == 4 else x
    pooled = SlicedMaxPool2d((2, 3), (2, 2))(x)
    assert torch.equal(pooled, nn.MaxPool2d((2, 3), 2)(x))


def test_a_pool_of_two_names_is_replaced_under_both() -> None:
    pool = nn.MaxPool2d(2)
    net = slice_max_pools(nn.Sequential(pool, nn.Conv2d(3, 3, 1), pool))
    assert [type(m) for m in net] == [SlicedMaxPool2d, nn.Conv2d, SlicedMaxPool2d]


def test_nan_and_infinity_go_through() -> None:
    x = torch.zeros(1, 1, 4, 4)
    x[0, 0, 0, 1], x[0, 0, 1, 3], x[0, 0, 2:, :2] = torch.nan, torch.inf, -torch.inf
    expected = functional.max_pool2d(x, 2)
    assert expected.isnan().sum() == 1
    torch.testing.assert_close(sliced_max_pool2d(x, (2, 2), (2, 2)), expected, equal_nan=True)


def test_a_network_keeps_its_function() -> None:
    torch.manual_seed(0)
    net = create("fastnet", 10).eval()
    folded = fold_batch_norms(net)
    images = torch.randn(3, 3, 32, 32)
    with torch.inference_mode():
        expected = folded(images)
        sliced = slice_max_pools(folded)
        assert sliced is folded
        assert [type(m) for m in sliced.modules() if "Pool" in type(m).__name__] == [SlicedMaxPool2d] * 4
        assert torch.equal(sliced(images), expected)


def test_freezing_slices_and_leaves_the_network_alone() -> None:
    net = create("fastnet", 10).eval()
    frozen = FrozenNet(net, Setting(torch.device("cpu")))
    assert not any(isinstance(m, nn.MaxPool2d) for m in frozen.modules())
    assert not any(isinstance(m, SlicedMaxPool2d) for m in net.modules())


class Loud(nn.MaxPool2d):
    """A sub-class, whose forward may do anything."""


@pytest.mark.parametrize(
    "pool",
    [
        nn.MaxPool2d(3, 2, padding=1),
        nn.MaxPool2d(2, dilation=2),
        nn.MaxPool2d(2, ceil_mode=True),
        nn.MaxPool2d(2, return_indices=True),
        Loud(2),
        nn.AvgPool2d(2),
    ],
)
def test_other_poolings_stay(pool: nn.Module) -> None:
    assert slice_max_pools(nn.Sequential(pool))[0] is pool


def test_the_stride_is_the_kernel_unless_it_says_so() -> None:
    net = slice_max_pools(nn.Sequential(nn.MaxPool2d(2), nn.MaxPool2d((3, 2), stride=1)))
    assert [repr(m) for m in net] == [repr(SlicedMaxPool2d((2, 2), (2, 2))), repr(SlicedMaxPool2d((3, 2), (1, 1)))]
    assert "kernel_size=(3, 2), stride=(1, 1)" in repr(net)


def test_what_does_not_fit_is_said_as_pytorch_says_it() -> None:
    with pytest.raises(RuntimeError, match="Output size is too small"):
        SlicedMaxPool2d((2, 2), (2, 2))(torch.zeros(1, 1, 1, 4))
