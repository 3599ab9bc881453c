"""Networks as others publish them give the same logits here; those that only look alike are refused."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from tests.zoo.importing.published import lookalikes, pyramids, resnets, wide
from tests.zoo.importing.published.parts import randomised
from zoo.archs import create
from zoo.archs.unfilled import unfilled
from zoo.errors import DataError
from zoo.importing.convert import open_checkpoint, pair, weights_of
from zoo.importing.matching import MismatchError
from zoo.importing.zero_channels import zeros_to_the_end

SMALL = (4, 8, 16)
WIDE = (4, 8, 16, 32)


@pytest.fixture(autouse=True)
def _seed() -> None:
    torch.manual_seed(0)


def as_zip(state: Mapping[str, Tensor], path: Path) -> None:
    torch.save({"epoch": 90, "state_dict": {f"module.{k}": v for k, v in state.items()}, "best_acc": 93.5}, path)


def as_legacy(state: Mapping[str, Tensor], path: Path) -> None:
    torch.save(dict(state), path, _use_new_zipfile_serialization=False)


def as_safetensors(state: Mapping[str, Tensor], path: Path) -> None:
    save_file({k: v.contiguous() for k, v in state.items()}, path)


WAYS = {"zip.pth.tar": as_zip, "legacy.th": as_legacy, "theirs.safetensors": as_safetensors}


def imported(
    path: Path, arch: str, arguments: Mapping[str, Any], *, both: bool = False, keys: tuple[str, ...] = ()
) -> nn.Module:
    """Return a network of this zoo with the weights in a file."""
    checkpoint = open_checkpoint(path, keys)
    with unfilled():
        net = create(arch, 10, **arguments)
    found = pair(net, checkpoint)
    assert found.how == "order and shape"
    assert len(set(found.pairs.values())) == len(checkpoint.state)
    net.load_state_dict(weights_of(net, checkpoint, found.pairs), assign=True)
    net.eval()
    if both:
        zeros_to_the_end(net)
    return net


def agree(theirs: Callable[[Tensor], Tensor], ours: nn.Module) -> None:
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        expected, found = theirs(images), ours(images)
    assert expected.std() > 0.01, "logits that say something"
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-4)


RESNETS = [resnets.chenyaofo, resnets.kuangliu, resnets.hysts_resnet, resnets.pytorchcv_resnet]


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", RESNETS)
def test_projection_shortcuts(make: Callable[..., nn.Module], way: str, tmp_path: Path) -> None:
    theirs = randomised(make(SMALL, 2))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    agree(theirs, imported(tmp_path / way, "resnet20", {"widths": SMALL, "depth": 14}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [resnets.kuangliu, resnets.weiaicunzai])
def test_resnet18(make: Callable[..., nn.Module], way: str, tmp_path: Path) -> None:
    theirs = randomised(make(WIDE, 2))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    agree(theirs, imported(tmp_path / way, "resnet18", {"widths": WIDE}))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("both", [True, False])
def test_option_a(both: bool, way: str, tmp_path: Path) -> None:
    theirs = randomised(resnets.akamaster(SMALL, 3, both=both))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    agree(theirs, imported(tmp_path / way, "resnet20-a", {"widths": SMALL}, both=both))


def test_zeros_on_both_sides_are_not_zeros_at_the_end(tmp_path: Path) -> None:
    theirs = randomised(resnets.akamaster(SMALL, 3))
    as_zip(theirs.state_dict(), tmp_path / "theirs.th")
    ours = imported(tmp_path / "theirs.th", "resnet20-a", {"widths": SMALL})
    images = torch.randn(6, 3, 32, 32)
    with torch.no_grad():
        assert (theirs(images) - ours(images)).abs().max() > 0.1


def test_the_published_sizes(tmp_path: Path) -> None:
    theirs = randomised(resnets.akamaster((16, 32, 64), 9))
    as_zip(theirs.state_dict(), tmp_path / "resnet56.th")
    agree(theirs, imported(tmp_path / "resnet56.th", "resnet56-a", {}, both=True))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("make", [wide.xternalz, wide.hysts_wide, wide.pytorchcv_wide])
def test_wide_resnets(make: Callable[..., nn.Module], way: str, tmp_path: Path) -> None:
    theirs = randomised(make(2, 2))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    agree(theirs, imported(tmp_path / way, "wrn16-2", {}))


def test_functional_wide_resnet(tmp_path: Path) -> None:
    theirs = wide.Functional(2, 2)
    torch.save({"params": theirs.params, "stats": theirs.stats, "optimizer": {}, "epoch": 200}, tmp_path / "model.pt7")
    agree(theirs, imported(tmp_path / "model.pt7", "wrn16-2", {}, keys=("params", "stats")))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("bottleneck", [False, True])
@pytest.mark.parametrize("make", [pyramids.dyhan, pyramids.hysts_pyramid])
def test_pyramids(make: Callable[..., nn.Module], bottleneck: bool, way: str, tmp_path: Path) -> None:
    theirs = randomised(make(20, 2, bottleneck=bottleneck))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    arguments = {"depth": 20 if bottleneck else 14, "alpha": 20, "bottleneck": bottleneck}
    agree(theirs, imported(tmp_path / way, "pyramid110-a48", arguments))


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("alpha", [20, 4])  # with 4, neighbouring blocks have one width: shapes say less
def test_a_pyramid_whose_last_norm_lies_beside_the_body(alpha: float, way: str, tmp_path: Path) -> None:
    theirs = randomised(pyramids.pytorchcv_pyramid(alpha, 2))
    WAYS[way](theirs.state_dict(), tmp_path / way)
    agree(theirs, imported(tmp_path / way, "pyramid110-a48", {"depth": 14, "alpha": alpha}))


def test_a_pyramid_with_shakedrop(tmp_path: Path) -> None:
    theirs = randomised(pyramids.fast_autoaugment(20, 2))
    torch.save({"model": theirs.state_dict(), "ema": None, "epoch": 1800}, tmp_path / "theirs.pth")
    arguments = {"depth": 20, "alpha": 20}
    agree(theirs, imported(tmp_path / "theirs.pth", "pyramid272", arguments | {"shakedrop": 0.5}))
    plain = imported(tmp_path / "theirs.pth", "pyramid272", arguments)
    images = torch.randn(4, 3, 32, 32)
    with torch.no_grad():
        assert (theirs(images) - plain(images)).abs().max() > 0.01, "no tensor tells, and it matters"


@pytest.mark.parametrize("name", ["pyramid272", "pyramid110-a270", "pyramid110-a84", "pyramid110-a48"])
def test_widths_added_up_are_widths_computed(name: str) -> None:
    with torch.device("meta"):
        kinds = {"pyramid272": (200, 30, True), "pyramid110-a270": (270, 18, False)}
        kinds |= {"pyramid110-a84": (84, 18, False), "pyramid110-a48": (48, 18, False)}
        alpha, blocks, bottleneck = kinds[name]
        theirs = pyramids.dyhan(alpha, blocks, bottleneck=bottleneck)
    with unfilled():
        ours = create(name, 10)
    assert [v.shape for v in theirs.state_dict().values()] == [v.shape for v in ours.state_dict().values()]


REFUSED: dict[str, tuple[Callable[[], nn.Module], str, dict[str, Any]]] = {
    "biases and an early shortcut": (lambda: lookalikes.Meliketoy.network(2, 2), "wrn16-2", {}),
    "no norm in the stem": (lambda: lookalikes.KuangliuPreAct.network(WIDE, 2), "resnet18", {"widths": WIDE}),
    "norms before convolutions": (lambda: lookalikes.hysts_preact(SMALL, 3), "resnet20-a", {"widths": SMALL}),
    "projections": (lambda: resnets.chenyaofo(SMALL, 3), "resnet20-a", {"widths": SMALL}),
    "no projections": (lambda: resnets.akamaster(SMALL, 3), "resnet20", {"widths": SMALL}),
    "deeper": (lambda: resnets.chenyaofo(SMALL, 4), "resnet20", {"widths": SMALL}),
    "other widths": (lambda: resnets.chenyaofo((4, 8, 12), 3), "resnet20", {"widths": SMALL}),
    "100 classes": (lambda: resnets.chenyaofo(SMALL, 3, 100), "resnet20", {"widths": SMALL}),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("case", REFUSED)
def test_what_only_looks_alike(case: str, way: str, tmp_path: Path) -> None:
    make, arch, arguments = REFUSED[case]
    WAYS[way](make().state_dict(), tmp_path / way)
    with pytest.raises(MismatchError):
        imported(tmp_path / way, arch, arguments)


def test_shake_shake_fits_and_is_refused(tmp_path: Path) -> None:
    as_zip(lookalikes.HystsShakeShake.network(4, 2).state_dict(), tmp_path / "theirs.pth")
    with pytest.raises(DataError, match="shift the shortcut's image the other way"):
        imported(tmp_path / "theirs.pth", "shakeshake26-2x32d", {"depth": 14, "width": 4})
