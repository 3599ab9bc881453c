"""Networks that take pixels as they are say what they said of normalised ones."""

from typing import TYPE_CHECKING

import pytest
import torch
from torch import Tensor, nn

from ensemble.module import Ensemble
from export.graph.pixels import PixelEnsemble, fold_normalisation
from tests.ensemble.conftest import pictures
from tta import VIEW_SETS
from tta.fold import fold_batch_norms
from zoo.data import Split

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

MEAN, STD = torch.tensor([0.4, 0.5, 0.6]), torch.tensor([0.2, 0.25, 0.3])
PIXELS = torch.randint(0, 256, (5, 3, 9, 9), generator=torch.Generator().manual_seed(0)).float()


def normalised() -> Tensor:
    return (PIXELS / 255 - MEAN.view(3, 1, 1)) / STD.view(3, 1, 1)


class TwoStems(nn.Module):
    """Two convolutions read the images, one of them with a padding of its own."""

    def __init__(self, padding: int | str) -> None:
        super().__init__()
        self.a, self.b = nn.Conv2d(3, 4, 3, bias=False), nn.Conv2d(3, 4, 3, padding=padding)
        self.crop = nn.AdaptiveAvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.crop(self.a(x)) + self.crop(self.b(x))
        return out


class Twice(nn.Module):
    """One convolution, of the images and of what it made of them."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 3)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(self.conv(x))
        return out


class Beside(nn.Module):
    """A convolution, and the images themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 3, 1)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.conv(x) + x
        return out


@torch.no_grad()
@pytest.mark.parametrize(
    ("net", "folds"),
    [
        (nn.Sequential(nn.Conv2d(3, 8, 2), nn.GELU(), nn.Conv2d(8, 4, 3, padding=1)), True),
        (nn.Sequential(nn.Conv2d(3, 8, 3, stride=2, padding="valid", bias=False), nn.ReLU()), True),
        (TwoStems(0), True),
        (TwoStems(1), False),
        (TwoStems("same"), False),
        (nn.Sequential(nn.Conv2d(3, 8, 3, padding=1)), False),
        (nn.Sequential(nn.Conv2d(3, 6, 3, groups=3)), False),
        (nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 8, 3)), False),
        (Twice(), False),
        (Beside(), False),
    ],
)
def test_normalisation_is_folded_where_nothing_is_padded(net: nn.Module, folds: bool) -> None:
    net.eval()
    wanted = net(normalised())
    traced = fold_batch_norms(net)
    before = {name: value.clone() for name, value in traced.state_dict().items()}
    assert fold_normalisation(traced, MEAN, STD) is folds
    if folds:
        torch.testing.assert_close(traced(PIXELS), wanted, atol=1e-5, rtol=1e-5)
    else:
        assert all(torch.equal(value, before[name]) for name, value in traced.state_dict().items())
        torch.testing.assert_close(traced(normalised()), wanted, atol=1e-5, rtol=1e-5)


@torch.inference_mode()
@pytest.mark.parametrize("views", list(VIEW_SETS))
def test_it_says_what_the_committee_says(workshop: "Workshop", seen: Split, views: str) -> None:
    committee = Ensemble(workshop.committee("abcd", views))
    images = torch.from_numpy(seen.images)
    pixels = PixelEnsemble(committee)
    wanted, found = (one.log_probs(one.planes(images)) for one in (committee, pixels))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)
    some = ([1, 0], [len(committee.views) - 1])
    wanted, found = (one.log_probs(one.planes(images), *some) for one in (committee, pixels))
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-4)


@torch.inference_mode()
def test_the_committee_stays_as_it_was(workshop: "Workshop") -> None:
    committee = Ensemble(workshop.committee("ac", "flip"))
    images = torch.from_numpy(pictures(8, seed=5).images)
    before = committee(images)
    pixels = PixelEnsemble(committee)
    assert torch.equal(committee(images), before)
    assert not {id(p) for p in committee.nets.parameters()} & {id(p) for p in pixels.nets.parameters()}


def test_int8_layers_read_the_pixels_themselves(workshop: "Workshop") -> None:
    from export.quantize import quantize

    model = workshop.model(workshop.committee("ab", "flip"), opset=20, member_probs=True)
    assert [node.op_type for node in model.graph.node].count("Cast") == 1
    made, _ = quantize(model, pictures(32, seed=3), "member_probs", most=1.0)
    assert "Cast" not in [node.op_type for node in made.graph.node]
    tensors = {tensor.name: tensor for tensor in made.graph.initializer}
    moved = next(node for node in made.graph.node if node.op_type == "Concat").output[0]
    readers = [node for node in made.graph.node if moved in node.input]
    assert len(readers) >= 1
    for reader in readers:  # each pixel is the integer that it was
        assert reader.op_type == "DequantizeLinear"
        from onnx import numpy_helper

        scale, zero = (numpy_helper.to_array(tensors[name]) for name in reader.input[1:])
        assert (float(scale), int(zero)) == (1.0, 0)
