"""Batched prediction against an image at a time, and the merged module against a mean of softmaxes."""

import numpy as np
import numpy.typing as npt
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

import tta
from tests.conftest import random_split
from tta.predict import TTA, view_logits
from tta.views import VIEW_SETS
from zoo.data.split import Pixels

CPU = torch.device("cpu")
STATS = ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))


@pytest.fixture(scope="module")
def images() -> Pixels:
    return random_split(10, size=12).images


@pytest.fixture(scope="module")
def net() -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.GELU(), nn.Flatten(), nn.Linear(200, 5))
    net(torch.randn(64, 3, 12, 12))
    return net.eval()


def normalized(images: Pixels) -> Tensor:
    """`[N, 3, H, W]`, in double precision by numpy."""
    values = (images / 255 - np.array(STATS[0])) / np.array(STATS[1])
    return torch.from_numpy(values.transpose(0, 3, 1, 2)).float()


def plain_loop(net: nn.Module, images: Pixels, name: str) -> dict[str, npt.NDArray[np.float32]]:
    with torch.no_grad():
        return {
            view.name: np.stack([net(view.apply(image[None]))[0].numpy() for image in normalized(images)])
            for view in VIEW_SETS[name]
        }


@pytest.mark.parametrize("name", VIEW_SETS)
def test_logits_equal_a_plain_loop(net: nn.Module, images: Pixels, name: str) -> None:
    got = view_logits(net, images, VIEW_SETS[name], STATS, device=CPU)
    expected = plain_loop(net, images, name)
    assert list(got) == list(expected)
    for view, logits in expected.items():
        assert got[view].dtype == np.float32
        np.testing.assert_allclose(got[view], logits, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("batch_size", [1, 3, 5, 10, 11])
def test_batch_size_changes_nothing(net: nn.Module, images: Pixels, batch_size: int) -> None:
    whole = view_logits(net, images, VIEW_SETS["flip"], STATS, device=CPU)
    sizes = []
    handle = net.register_forward_pre_hook(lambda _net, args: sizes.append(len(args[0])))
    got = view_logits(net, images, VIEW_SETS["flip"], STATS, device=CPU, batch_size=batch_size)
    handle.remove()
    assert max(sizes) == min(batch_size, 10)
    for view, logits in whole.items():
        np.testing.assert_allclose(got[view], logits, rtol=1e-4, atol=1e-5)


def test_progress_counts_images_and_not_views(net: nn.Module, images: Pixels) -> None:
    counted: list[int] = []
    view_logits(net, images, VIEW_SETS["crops5"], STATS, device=CPU, batch_size=4, progress=counted.append)
    assert counted == [4, 4, 2]


def test_bf16_is_close_to_fp32_and_not_the_same(net: nn.Sequential, images: Pixels) -> None:
    views, kinds = VIEW_SETS["flip"], []
    full = view_logits(net, images, views, STATS, device=CPU)
    handle = net[0].register_forward_hook(lambda _net, _args, out: kinds.append(out.dtype))
    half = view_logits(net, images, views, STATS, device=CPU, precision="bf16")
    handle.remove()
    assert kinds == [torch.bfloat16] * 2
    for view, logits in full.items():
        assert half[view].dtype == np.float32
        assert not np.array_equal(half[view], logits)
        np.testing.assert_allclose(half[view], logits, atol=0.03 * np.abs(logits).max())


def test_no_graph_is_kept_and_the_network_is_left_alone(net: nn.Module, images: Pixels) -> None:
    before = {name: value.clone() for name, value in net.state_dict().items()}
    recording = []
    handle = net.register_forward_hook(lambda _net, _args, out: recording.append(out.requires_grad))
    view_logits(net, images, VIEW_SETS["flip"], STATS, device=CPU)
    handle.remove()
    assert recording == [False, False]
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())


@pytest.mark.parametrize("name", VIEW_SETS)
def test_module_is_the_weighted_mean_of_softmaxes(net: nn.Module, images: Pixels, name: str) -> None:
    with torch.no_grad():
        probs = TTA(net, VIEW_SETS[name])(normalized(images)).numpy()
    expected = np.zeros((10, 5))
    for view, logits in zip(VIEW_SETS[name], plain_loop(net, images, name).values(), strict=True):
        powers = np.exp(logits.astype(np.float64))
        expected += view.weight * powers / powers.sum(1, keepdims=True)
    np.testing.assert_allclose(probs, expected, atol=1e-5)
    np.testing.assert_allclose(probs.sum(1), 1, atol=1e-5)


def test_module_looks_through_all_views_in_one_pass(net: nn.Module, images: Pixels) -> None:
    shapes = []
    handle = net.register_forward_pre_hook(lambda _net, args: shapes.append(tuple(args[0].shape)))
    with torch.no_grad():
        logits = TTA(net, VIEW_SETS["crops5"]).view_logits(normalized(images))
    handle.remove()
    assert shapes == [(50, 3, 12, 12)]
    assert logits.shape == (5, 10, 5)
    for got, expected in zip(logits, plain_loop(net, images, "crops5").values(), strict=True):
        np.testing.assert_allclose(got.numpy(), expected, rtol=1e-4, atol=1e-5)


def test_merged_gradient_reaches_the_network(images: Pixels) -> None:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Flatten(), nn.Linear(432, 3))
    batch = normalized(images)
    probs = TTA(net, VIEW_SETS["flip"])(batch)
    functional.nll_loss(probs.log(), torch.zeros(10, dtype=torch.long)).backward()  # type: ignore[no-untyped-call]
    (grad,) = (p.grad for p in net.parameters() if p.ndim == 2)
    assert grad is not None
    assert grad.abs().max() > 0


def test_package_exports_what_it_promises() -> None:
    assert tta.TTA is TTA
    assert tta.view_logits is view_logits
    assert all(hasattr(tta, name) for name in tta.__all__)
    with pytest.raises(AttributeError, match="has no attribute 'tta'"):
        tta.tta  # noqa: B018  # the look-up is the test
