"""Which tensors make a layer, whatever they are called, and how names are counted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.importing.layers import by_name, layers_of

NORM = {"weight": (8,), "bias": (8,), "running_mean": (8,), "running_var": (8,), "num_batches_tracked": ()}


def test_layers_of_a_network() -> None:
    shapes = {"conv1.weight": (8, 3, 3, 3), **{f"bn1.{k}": v for k, v in NORM.items()}}
    shapes |= {"fc.weight": (10, 8), "fc.bias": (10,), "n_averaged": ()}
    conv, norm, head, other = layers_of(shapes)
    assert [layer.name for layer in (conv, norm, head, other)] == ["conv1", "bn1", "fc", ""]
    assert [layer.kind for layer in (conv, norm, head, other)] == ["conv", "norm", "linear", "other"]
    assert norm.keys["count"] == "bn1.num_batches_tracked"
    assert dict(norm.shapes) == {"weight": (8,), "bias": (8,), "mean": (8,), "var": (8,)}
    assert dict(head.shapes) == {"weight": (10, 8), "bias": (10,)}


@pytest.mark.parametrize(
    "names",
    [
        ("weight", "bias", "running_mean", "running_var"),
        ("gamma", "beta", "moving_mean", "moving_variance"),
        ("Gamma", "Beta", "moving_mean", "moving_var"),
        ("scale", "offset", "running_mean", "running_var"),
    ],
)
def test_a_norm_in_other_words(names: tuple[str, ...]) -> None:
    (layer,) = layers_of({f"block.bn.{name}": (8,) for name in names})
    assert layer.kind == "norm"
    assert [layer.keys[role] for role in ("weight", "bias", "mean", "var")] == [f"block.bn.{name}" for name in names]


def test_a_weight_may_be_named_as_its_layer() -> None:
    convolution, norm = layers_of({"block0.conv0": (8, 3, 3, 3), "block0.bn0.weight": (8,), "block0.bn0.bias": (8,)})
    assert (convolution.name, convolution.kind, convolution.keys) == (
        "block0.conv0",
        "conv",
        {"weight": "block0.conv0"},
    )
    assert norm.look == ("norm", (("bias", (8,)), ("weight", (8,))))


def test_unknown_vectors_make_a_layer_that_nothing_fits() -> None:
    (layer,) = layers_of({"x.alpha": (8,), "x.weight": (8,)})
    assert layer.kind == "other"


def test_names_are_counted_as_people_do() -> None:
    names = ["layer1.10", "layer1.2", "layer10.0", "layer2.0", "layer1.0"]
    assert by_name(names) == ["layer1.0", "layer1.2", "layer1.10", "layer2.0", "layer10.0"]
    norms, convs = ["norm2", "down_norm", "norm1"], ["conv2", "down_conv", "conv1"]
    assert [n.replace("norm", "conv") for n in by_name(norms)] == by_name(convs) == ["conv1", "conv2", "down_conv"]
    assert by_name(["convShortcut", "conv2", "conv1"]) == ["conv1", "conv2", "convShortcut"]


@given(st.lists(st.text("abn1.0_", max_size=8), max_size=12))
def test_any_names_can_be_sorted(names: list[str]) -> None:
    assert sorted(by_name(names)) == sorted(names)
    assert by_name(by_name(names)) == by_name(names)
