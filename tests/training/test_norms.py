"""Ghost BatchNorm against a loop of plain BatchNorms over groups of images, and frozen scales."""

import copy
import math
from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.optim.swa_utils import update_bn

from training.norms import GhostBatchNorm2d, freeze_scales, ghost_batch_norm, group_normalise
from zoo.archs import create
from zoo.errors import UsageError

WIDTH = 3


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def batch(images: int, **options: Any) -> Tensor:  # noqa: ANN401
    """Images that differ in mean and scale, so that groups do."""
    scales = torch.arange(1, images + 1).reshape(-1, 1, 1, 1)
    return (torch.randn(images, WIDTH, 4, 5) * scales + scales).to(**options)


def randomised(**settings: Any) -> nn.BatchNorm2d:  # noqa: ANN401
    norm = nn.BatchNorm2d(WIDTH, **settings)
    for tensor in (*norm.parameters(), *norm.buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.5, 1.5)
    return norm


def ghost_of(norm: nn.BatchNorm2d, images: int) -> nn.Module:
    """A converted copy."""
    net = nn.Sequential(copy.deepcopy(norm))
    assert ghost_batch_norm(net, images) == 1
    return net[0]


def sizes(images: int, largest: int) -> list[int]:
    """As many groups as are needed, as equal as they can be, larger ones first."""
    groups = -(-images // largest)
    return [images // groups + (group < images % groups) for group in range(groups)]


def slow(norm: nn.BatchNorm2d, x: Tensor, groups: Sequence[int]) -> Tensor:
    """Normalise each group by a BatchNorm of its own; its statistics move once, to the mean over the images' groups."""
    outs, means, variances = [], torch.zeros(WIDTH), torch.zeros(WIDTH)
    for chunk in torch.split(x, list(groups)):
        alone = nn.BatchNorm2d(WIDTH, eps=norm.eps, momentum=1.0)
        alone.weight, alone.bias = norm.weight, norm.bias
        outs.append(alone(chunk))
        assert alone.running_mean is not None
        assert alone.running_var is not None
        means += alone.running_mean * len(chunk) / len(x)
        variances += alone.running_var * len(chunk) / len(x)
    assert norm.running_mean is not None
    assert norm.running_var is not None
    assert norm.num_batches_tracked is not None
    assert norm.momentum is not None
    norm.running_mean.copy_((1 - norm.momentum) * norm.running_mean + norm.momentum * means)
    norm.running_var.copy_((1 - norm.momentum) * norm.running_var + norm.momentum * variances)
    norm.num_batches_tracked += 1
    return torch.cat(outs)


def assert_same(first: nn.Module, second: nn.Module) -> None:
    torch.testing.assert_close(dict(first.state_dict()), dict(second.state_dict()))


@given(images=st.integers(1, 13), largest=st.integers(1, 14))
def test_equals_a_loop_over_groups(images: int, largest: int) -> None:
    norm = randomised(eps=1e-3, momentum=0.3)
    ghost, x = ghost_of(norm, largest), batch(images).requires_grad_()
    upstream = torch.randn_like(x)
    results = []
    for layer in (lambda x: slow(norm, x, sizes(images, largest)), ghost):
        out = layer(x)
        parameters = tuple((norm if layer is not ghost else ghost).parameters())
        results.append((out.detach(), *torch.autograd.grad(out, (x, *parameters), upstream)))
    torch.testing.assert_close(results[1], results[0], rtol=1e-4, atol=1e-4)
    assert_same(ghost, norm)


def test_by_hand() -> None:
    """Two groups of two values: -1 and 1 after normalisation, whatever they were."""
    x = torch.tensor([1.0, 3.0, 10.0, 50.0]).reshape(4, 1, 1, 1)
    out, mean, var = group_normalise(x, None, None, 2, 1e-9)
    torch.testing.assert_close(out.flatten(), torch.tensor([-1.0, 1, -1, 1]))
    assert mean.item() == (2 + 30) / 2
    assert var.item() == (2 + 800) / 2


def test_groups_are_of_consecutive_images_and_as_equal_as_can_be() -> None:
    """Seven images in groups of at most three: three, two and two, rather than three, three and one."""
    x = torch.tensor([5.0, 6.0, 7.0, 1.0, 3.0, 2.0, 8.0]).reshape(7, 1, 1, 1)
    out, mean, var = group_normalise(x, None, None, 3, 1e-9)
    root = math.sqrt(1.5)
    torch.testing.assert_close(out.flatten(), torch.tensor([-root, 0, root, -1, 1, -1, 1]))
    assert mean.item() == pytest.approx((3 * 6 + 2 * 2 + 2 * 5) / 7)
    assert var.item() == pytest.approx((3 * 1 + 2 * 2 + 2 * 18) / 7)


@pytest.mark.parametrize("images", [8, 9])
def test_a_batch_of_one_group_is_normalised_as_ever(images: int) -> None:
    norm = randomised()
    ghost, x = ghost_of(norm, images), batch(8)
    assert torch.equal(ghost(x), norm(x))
    assert_same(ghost, norm)


def test_evaluation_is_batch_norms() -> None:
    norm = randomised()
    ghost, x = ghost_of(norm, 2).eval(), batch(8)
    assert torch.equal(ghost(x), norm.eval()(x))
    assert_same(ghost, norm)


@pytest.mark.parametrize("settings", [{"affine": False}, {"track_running_stats": False}, {"momentum": 0.7}], ids=str)
def test_settings_are_kept(settings: dict[str, Any]) -> None:
    norm = randomised(eps=0.1, **settings)
    ghost, x = ghost_of(norm, 4), batch(8)
    expected = torch.cat([copy.deepcopy(norm)(chunk) for chunk in torch.split(x, 4)])
    torch.testing.assert_close(ghost(x), expected)
    assert ghost.state_dict().keys() == norm.state_dict().keys()
    assert repr(ghost) == repr(norm).replace("BatchNorm2d(", "GhostBatchNorm2d(")[:-1] + ", images=4)"


def test_torchs_update_of_averaged_networks_averages_over_all_batches() -> None:
    """`update_bn` resets the statistics and sets the momentum to None."""
    net = nn.Sequential(randomised())
    ghost_batch_norm(net, 2)
    batches = [batch(4), batch(8), batch(6)]
    update_bn(batches, net)
    chunks = [torch.split(x, 2) for x in batches]
    means = [torch.stack([chunk.mean((0, 2, 3)) for chunk in group]).mean(0) for group in chunks]
    variances = [torch.stack([chunk.transpose(0, 1).flatten(1).var(1) for chunk in group]).mean(0) for group in chunks]
    torch.testing.assert_close(net[0].running_mean, torch.stack(means).mean(0))
    torch.testing.assert_close(net[0].running_var, torch.stack(variances).mean(0))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_precision_and_layout_are_those_of_the_input(layout: torch.memory_format, dtype: torch.dtype) -> None:
    x = batch(8, dtype=dtype).to(memory_format=layout).requires_grad_()
    ghost = ghost_of(nn.BatchNorm2d(WIDTH), 4)
    out = ghost(x)
    (grad,) = torch.autograd.grad(out.float().square().sum(), x)
    for tensor in (out, grad):
        assert tensor.dtype == dtype
        assert tensor.is_contiguous(memory_format=layout)
    assert {b.dtype for b in ghost.buffers()} == {torch.float32, torch.int64}
    expected = torch.cat([nn.BatchNorm2d(WIDTH)(chunk) for chunk in torch.split(x.float(), 4)])
    torch.testing.assert_close(out.float(), expected, rtol=0.01, atol=0.01)


def test_statistics_keep_their_precision_under_autocast() -> None:
    ghost, x = ghost_of(nn.BatchNorm2d(WIDTH, momentum=1.0), 2), batch(8)
    with torch.autocast("cpu", torch.bfloat16):
        ghost(x)
    torch.testing.assert_close(ghost.state_dict()["running_mean"], x.mean((0, 2, 3)))


def test_half_precision_parameters() -> None:
    ghost = ghost_of(nn.BatchNorm2d(WIDTH).bfloat16(), 2)
    ghost(batch(4, dtype=torch.bfloat16)).float().sum().backward()
    assert {p.dtype for p in ghost.parameters()} == {torch.bfloat16}


def test_compiles_into_one_graph() -> None:
    ghost, x = ghost_of(randomised(), 3), batch(8)
    twin = copy.deepcopy(ghost)
    torch.testing.assert_close(torch.compile(twin, fullgraph=True, backend="aot_eager")(x), ghost(x))
    assert_same(twin, ghost)


def test_two_forwards_before_a_backward() -> None:
    """As in SAM or with distillation: statistics move under the graph of the first pass."""
    ghost, x = ghost_of(randomised(), 2), batch(4).requires_grad_()
    loss = ghost(x).square().sum() + ghost(x).pow(3).sum()
    assert torch.autograd.grad(loss, x)[0].isfinite().all()


def test_networks_are_converted_in_place_and_keep_their_names_and_tensors() -> None:
    net = create("resnet20", 10)
    norms = sum(isinstance(m, nn.BatchNorm2d) for m in net.modules())
    names, before = list(net.state_dict()), {id(t) for t in (*net.parameters(), *net.buffers())}
    assert ghost_batch_norm(net, 16) == norms
    assert sum(isinstance(m, GhostBatchNorm2d) for m in net.modules()) == norms
    assert list(net.state_dict()) == names
    assert {id(t) for t in (*net.parameters(), *net.buffers())} == before
    create("resnet20", 10).load_state_dict(net.state_dict())
    assert ghost_batch_norm(net, 8) == norms
    assert {m.images for m in net.modules() if isinstance(m, GhostBatchNorm2d)} == {8}


@pytest.mark.parametrize("training", [True, False])
def test_the_mode_and_frozen_parameters_are_kept(*, training: bool) -> None:
    net = create("fastnet", 10, widths=(8, 8, 8)).train(training)
    frozen = {name for name, p in net.named_parameters() if not p.requires_grad}
    ghost_batch_norm(net, 16)
    assert all(m.training is training for m in net.modules())
    assert {name for name, p in net.named_parameters() if not p.requires_grad} == frozen


def test_a_whole_network_in_bf16_and_channels_last() -> None:
    net = create("resnet9", 7, widths=(8, 8, 8, 8)).to(memory_format=torch.channels_last)
    ghost_batch_norm(net, 4)
    images = torch.randn(10, 3, 16, 16).to(memory_format=torch.channels_last)
    with torch.autocast("cpu", torch.bfloat16):
        logits = net(images)
    logits.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters() if p.requires_grad)
    # A group is on its own: the others might as well not be there.
    with torch.autocast("cpu", torch.bfloat16):
        torch.testing.assert_close(net(images[:4]), logits[:4])


def test_one_value_per_channel_has_no_variance() -> None:
    ghost = ghost_of(nn.BatchNorm2d(WIDTH), 1)
    with pytest.raises(ValueError, match="more than 1 value per channel"):
        ghost(torch.randn(2, WIDTH, 1, 1))


@pytest.mark.parametrize("images", [0, -4])
def test_the_size_of_groups_is_checked(images: int) -> None:
    with pytest.raises(UsageError, match=f"groups of at least 1 image, got {images}"):
        ghost_batch_norm(nn.Sequential(nn.BatchNorm2d(3)), images)


@pytest.mark.parametrize("change", [lambda net: ghost_batch_norm(net, 8), freeze_scales])
def test_networks_without_batch_norm_are_refused(change: Callable[[nn.Module], int]) -> None:
    with pytest.raises(UsageError, match="the network has no BatchNorm"):
        change(create("resnet20", 10, norm="group"))


@pytest.mark.parametrize("ghost", [False, True])
def test_scales_are_set_and_frozen_and_biases_learn(*, ghost: bool) -> None:
    net = create("cnn6", 10, widths=(4, 4))
    if ghost:
        ghost_batch_norm(net, 2)
    assert freeze_scales(net, 0.25) == 2
    net(torch.randn(4, 3, 8, 8)).square().sum().backward()
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert len(norms) == 2
    for norm in norms:
        assert norm.weight.tolist() == [0.25] * 4
        assert norm.weight.grad is None
        assert norm.bias.grad is not None
    assert freeze_scales(nn.Sequential(nn.BatchNorm2d(3, affine=False), nn.BatchNorm2d(3))) == 1


@pytest.mark.parametrize("value", [0.0, -1.0, math.inf, math.nan])
def test_the_scale_is_checked(value: float) -> None:
    with pytest.raises(UsageError, match=f"must be finite and above 0, got {value}"):
        freeze_scales(nn.BatchNorm2d(3), value)
