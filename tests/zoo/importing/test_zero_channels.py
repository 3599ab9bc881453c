"""Zeros on both sides of the channels: against a plain rendering, and where they mean nothing."""

import pytest
import torch

from zoo.archs import create
from zoo.archs.resnet import ResNet
from zoo.errors import UsageError
from zoo.importing.zero_channels import _wider, has_zero_channels, zeros_to_the_end


def test_the_order_by_hand() -> None:
    # Theirs has two zeros, channels 0 1 2, two zeros; ours has 0 1 2 and four zeros.
    assert _wider(torch.arange(3), 4).tolist() == [2, 3, 4, 0, 1, 5, 6]
    twice = _wider(_wider(torch.arange(1), 2), 4)
    theirs = ["z", "z", "y", "x", "y", "z", "z"]
    assert [theirs[i] for i in twice] == ["x", "y", "y", "z", "z", "z", "z"]


def test_who_has_them() -> None:
    assert has_zero_channels(create("resnet20-a", 10))
    assert not has_zero_channels(create("resnet20", 10))
    assert not has_zero_channels(create("wrn16-2", 10))


@pytest.mark.parametrize("arch", ["resnet20", "wrn16-2", "cnn6"])
def test_other_networks(arch: str) -> None:
    with pytest.raises(UsageError, match="has no shortcuts that pad with zeros"):
        zeros_to_the_end(create(arch, 10))


def test_an_odd_number_of_new_channels() -> None:
    with pytest.raises(UsageError, match="3 new channels have no half"):
        zeros_to_the_end(ResNet(10, 8, (4, 7, 14), projection=False))


def test_only_the_stream_between_blocks_changes_places() -> None:
    net = create("resnet20-a", 10, depth=8, widths=(4, 8, 16))
    before = {name: value.clone() for name, value in net.state_dict().items()}
    zeros_to_the_end(net)
    changed = {name for name, value in net.state_dict().items() if not torch.equal(value, before[name])}
    assert "head.weight" in changed
    assert not any(name.startswith(("stem.", "blocks.0.")) or ".branch.1." in name for name in changed)
    for name, value in net.state_dict().items():
        assert torch.equal(value.flatten().sort().values, before[name].flatten().sort().values), name
