"""Views against numpy, torchvision and airbench's own inference."""

import re
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional
from torchvision.transforms.v2.functional import five_crop

from tta.views import VIEW_SETS, flip, identity, shift, view_set
from zoo.errors import UsageError


@pytest.fixture
def images() -> Tensor:
    return torch.randn(3, 2, 10, 8, generator=torch.Generator().manual_seed(0))


def small_net(images: Tensor) -> Tensor:
    """Logits that a shift or a mirror image changes, from a fixed random filter over the whole image."""
    weight = torch.randn(images[0].numel(), 5, generator=torch.Generator().manual_seed(1))
    return (images.flatten(1) @ weight).sin()


def merged(net: Callable[[Tensor], Tensor], images: Tensor, name: str) -> Tensor:
    return sum((view.weight * net(view.apply(images)) for view in view_set(name)), torch.zeros(()))


def test_identity_and_flip(images: Tensor) -> None:
    assert torch.equal(identity(images), images)
    np.testing.assert_array_equal(flip(images).numpy(), images.numpy()[..., ::-1])
    assert torch.equal(flip(flip(images)), images)
    assert not torch.equal(flip(images), images)


@pytest.mark.parametrize(
    ("down", "right"), [(0, 0), (1, 1), (-1, -1), (1, -1), (3, 0), (0, -2), (-2, 1), (5, -7), (7, 7)]
)
def test_shift_is_a_window_of_numpys_reflection(images: Tensor, down: int, right: int) -> None:
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (9, 9), (7, 7)), mode="reflect")
    expected = padded[:, :, 9 - down : 19 - down, 7 - right : 15 - right]
    np.testing.assert_array_equal(shift(images, down, right).numpy(), expected)


@pytest.mark.parametrize(("down", "right"), [(1, 1), (-1, -1), (2, -1), (-2, 2)])
def test_shift_is_numpys_roll_away_from_the_edges(images: Tensor, down: int, right: int) -> None:
    rolled = np.roll(images.numpy(), (down, right), axis=(2, 3))
    np.testing.assert_array_equal(shift(images, down, right).numpy()[..., 2:-2, 2:-2], rolled[..., 2:-2, 2:-2])


def test_shift_and_shift_back_keep_the_inside(images: Tensor) -> None:
    assert torch.equal(shift(shift(images, 2, -1), -2, 1)[..., 2:-2, 2:-2], images[..., 2:-2, 2:-2])


def test_flip_turns_a_shift_around(images: Tensor) -> None:
    assert torch.equal(flip(shift(images, 1, 2)), shift(flip(images), 1, -2))


@pytest.mark.parametrize(("down", "right"), [(9, 0), (8, 7), (-9, 1)])
def test_shift_may_be_as_large_as_each_axis_allows(images: Tensor, down: int, right: int) -> None:
    padded = np.pad(images.numpy(), ((0, 0), (0, 0), (9, 9), (7, 7)), mode="reflect")
    expected = padded[:, :, 9 - down : 19 - down, 7 - right : 15 - right]
    np.testing.assert_array_equal(shift(images, down, right).numpy(), expected)


@pytest.mark.parametrize("name", VIEW_SETS)
def test_views_keep_the_shape_and_the_images(images: Tensor, name: str) -> None:
    before = images.clone()
    for view in view_set(name):
        out = view.apply(images)
        assert out.shape == images.shape
        assert set(out.flatten().tolist()) <= set(before.flatten().tolist())
    assert torch.equal(images, before)


@pytest.mark.parametrize("name", VIEW_SETS)
def test_weights_sum_to_one_and_names_differ(name: str) -> None:
    views = view_set(name)
    assert sum(view.weight for view in views) == pytest.approx(1, abs=1e-12)
    assert all(view.weight > 0 for view in views)
    assert len({view.name for view in views}) == len(views)
    assert views[0].name == "none"
    assert views[0].apply is identity


@pytest.mark.parametrize("name", VIEW_SETS)
def test_views_of_a_set_all_differ(images: Tensor, name: str) -> None:
    seen = [view.apply(images) for view in view_set(name)]
    assert not any(torch.equal(a, b) for i, a in enumerate(seen) for b in seen[:i])


def test_a_name_means_the_same_view_in_every_set(images: Tensor) -> None:
    seen: dict[str, Tensor] = {}
    for views in VIEW_SETS.values():
        for view in views:
            assert torch.equal(seen.setdefault(view.name, view.apply(images)), view.apply(images))


def test_names_of_sets_and_their_views() -> None:
    names = {name: [view.name for view in views] for name, views in VIEW_SETS.items()}
    assert list(names) == ["none", "flip", "flip+shift1", "crops5"]
    assert names["none"] == ["none"]
    assert names["flip"] == ["none", "flip"]
    assert (len(names["flip+shift1"]), len(names["crops5"])) == (6, 5)


def test_flip_is_the_mean_over_the_image_and_its_mirror(images: Tensor) -> None:
    expected = 0.5 * small_net(images) + 0.5 * small_net(images.flip(-1))
    torch.testing.assert_close(merged(small_net, images, "flip"), expected)


def test_flip_shift1_is_airbenchs_tta_level_2() -> None:
    """`infer_mirror_translate` of KellerJordan/cifar10-airbench at 096d14d, `airbench94_muon.py`."""
    images = torch.randn(3, 3, 32, 32, generator=torch.Generator().manual_seed(0))

    def mirrored(inputs: Tensor) -> Tensor:
        return 0.5 * small_net(inputs) + 0.5 * small_net(inputs.flip(-1))

    padded = functional.pad(images, (1, 1, 1, 1), "reflect")
    translated = (mirrored(padded[:, :, 0:32, 0:32]) + mirrored(padded[:, :, 2:34, 2:34])) / 2
    torch.testing.assert_close(
        merged(small_net, images, "flip+shift1"), 0.5 * mirrored(images) + 0.5 * translated, rtol=1e-4, atol=1e-4
    )


def test_flip_shift1_weighs_the_image_as_it_is_by_half() -> None:
    assert [view.weight for view in view_set("flip+shift1")] == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]


def test_flip_shift1_moves_the_plain_image_down_right_and_up_left(images: Tensor) -> None:
    padded = functional.pad(images, (1, 1, 1, 1), "reflect")
    views = [view.apply(images) for view in view_set("flip+shift1")]
    for corner in (padded[..., :10, :8], padded[..., 2:, 2:]):
        assert sum(torch.equal(view, corner) for view in views) == 1


def test_crops5_are_torchvisions_five_crop(images: Tensor) -> None:
    padded = functional.pad(images, (2, 2, 2, 2), "reflect")
    expected = {crop.numpy().tobytes() for crop in five_crop(padded, [10, 8])}
    views = view_set("crops5")
    assert len(expected) == 5
    assert {view.apply(images).contiguous().numpy().tobytes() for view in views} == expected
    assert {view.weight for view in views} == {0.2}


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("flips", "unknown view set 'flips' (did you mean 'flip'?); there are none, flip, flip+shift1, crops5"),
        ("ten-crop", "unknown view set 'ten-crop'; there are none, flip, flip+shift1, crops5"),
        ("", "unknown view set ''; there are"),
    ],
)
def test_unknown_set_is_refused(name: str, message: str) -> None:
    with pytest.raises(UsageError, match=re.escape(message)):
        view_set(name)
