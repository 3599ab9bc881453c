"""Pairing by name, and by where layers are: what is found, and that nothing is paired where there is a choice."""

import random
from collections.abc import Mapping

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.importing.published import resnets
from zoo.archs import ARCHS, create
from zoo.archs.unfilled import unfilled
from zoo.importing.convert import outline
from zoo.importing.layers import Shape
from zoo.importing.matching import Match, MismatchError, Outline, match

Shapes = dict[str, Shape]


def network(arch: str = "resnet20", **arguments: object) -> Outline:
    with unfilled():
        return outline(create(arch, 10, **arguments))


def shapes_of(module: torch.nn.Module) -> Shapes:
    return {name: tuple(value.shape) for name, value in module.state_dict().items()}


RESNET = network(depth=14, widths=(4, 8, 16))
with torch.device("meta"):
    THEIRS = shapes_of(resnets.chenyaofo((4, 8, 16), 2))


def expected(network: Outline) -> dict[str, str]:
    """Pair by hand: what each of our names is in chenyaofo's code, two blocks a stage."""
    parts = {"branch.0": "conv1", "branch.1": "bn1", "branch.3": "conv2", "branch.4": "bn2"}
    parts |= {"shortcut.0": "downsample.0", "shortcut.1": "downsample.1"}
    found = {}
    for name in network.shapes:
        layer, _, leaf = name.rpartition(".")
        if layer.startswith("blocks."):
            _, number, rest = layer.split(".", 2)
            layer = f"layer{int(number) // 2 + 1}.{int(number) % 2}.{parts[rest]}"
        else:
            layer = {"stem.0": "conv1", "stem.1": "bn1", "head": "fc"}[layer]
        found[name] = f"{layer}.{leaf}"
    return found


def without(shapes: Mapping[str, Shape], text: str) -> Shapes:
    return {name: shape for name, shape in shapes.items() if text not in name}


def test_against_a_pairing_by_hand() -> None:
    assert match(RESNET, THEIRS, ordered=True) == Match(expected(RESNET), "order and shape")


@pytest.mark.parametrize("ordered", [True, False])
@given(seed=st.integers(0, 2**32))
def test_sorted_or_shuffled_names_give_the_same(ordered: bool, seed: int) -> None:
    names = sorted(THEIRS)
    if not ordered:
        random.Random(seed).shuffle(names)
    assert match(RESNET, {name: THEIRS[name] for name in names}, ordered=ordered).pairs == expected(RESNET)


def test_counters_may_be_missing() -> None:
    found = match(RESNET, without(THEIRS, "num_batches_tracked"), ordered=True)
    assert found.pairs == {k: v for k, v in expected(RESNET).items() if not k.endswith("num_batches_tracked")}


@pytest.mark.parametrize("arch", sorted(ARCHS))
def test_own_names_come_first_for_every_architecture(arch: str) -> None:
    own = network(arch)
    names = list(own.shapes)
    random.Random(0).shuffle(names)
    for ordered in (True, False):
        found = match(own, {name: own.shapes[name] for name in names}, ordered=ordered)
        assert found == Match({name: name for name in own.shapes}, "name")


def test_more_than_ten_blocks_of_a_stage_are_counted() -> None:
    with torch.device("meta"):
        theirs = shapes_of(resnets.chenyaofo((4, 4, 4), 12))
    own = network(depth=74, widths=(4, 4, 4))
    by_file = match(own, theirs, ordered=True).pairs
    assert by_file["blocks.11.branch.0.weight"] == "layer1.11.conv1.weight"
    assert match(own, dict(sorted(theirs.items())), ordered=True).pairs == by_file
    assert match(own, dict(sorted(theirs.items())), ordered=False).pairs == by_file


def moved(shapes: Mapping[str, Shape], start: str, before: str) -> Shapes:
    """Put the tensors whose names start so before the first whose name starts otherwise."""
    found: Shapes = {}
    for name, shape in shapes.items():
        if name.startswith(before):
            found |= {n: s for n, s in shapes.items() if n.startswith(start) and n not in found}
        found.setdefault(name, shape)
    return found


def test_a_branch_that_is_defined_first_is_told_by_its_shapes() -> None:
    theirs = THEIRS
    for stage in (2, 3):
        theirs = moved(theirs, f"layer{stage}.0.downsample.", f"layer{stage}.0.")
    assert list(theirs) != list(THEIRS)
    assert match(RESNET, theirs, ordered=True).pairs == expected(RESNET)


def renamed(shapes: Mapping[str, Shape], words: Mapping[str, str]) -> Shapes:
    found: Shapes = {}
    for name, shape in shapes.items():
        new = name
        for old, word in words.items():
            new = new.replace(old, word)
        found[new] = shape
    return found


NAMES = {
    "a branch whose name comes first": {"downsample": "a"},
    "norms by another word": {".bn": ".norm", "downsample.0": "down_conv", "downsample.1": "down_norm"},
    "words of TensorFlow": {
        "running_mean": "moving_mean",
        "running_var": "moving_variance",
    },
}


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize("case", NAMES)
def test_other_names(case: str, ordered: bool) -> None:
    theirs = renamed(THEIRS, NAMES[case])
    if not ordered:
        theirs = dict(sorted(theirs.items()))
    pairs = {own: next(iter(renamed({name: ()}, NAMES[case]))) for own, name in expected(RESNET).items()}
    assert match(RESNET, theirs, ordered=ordered).pairs == pairs


def refused(theirs: Shapes, *, ordered: bool = True, own: Outline = RESNET) -> str:
    with pytest.raises(MismatchError) as caught:
        match(own, theirs, ordered=ordered)
    return str(caught.value)


def test_a_tensor_more_or_less_or_of_another_shape() -> None:
    assert "are not in the file" in refused(without(THEIRS, "layer3.1.bn2"))
    assert "1 of the file's 32 are not" in refused({**THEIRS, "extra.weight": (3, 3)})
    assert "1 of the network's 31 layers are not in the file, and 1 of" in refused({**THEIRS, "fc.weight": (100, 16)})
    assert "are not in the file" in refused({**THEIRS, "layer1.0.conv1.bias": (4,)})
    assert "are not in the file" in refused(without(THEIRS, "layer1.0.bn1.running_var"))
    assert "are not in the file" in refused({})


def test_two_layers_that_changed_places_are_noticed() -> None:
    swap = {"layer1.0.conv2.weight": "layer2.1.conv2.weight", "layer2.1.conv2.weight": "layer1.0.conv2.weight"}
    assert "not block by block" in refused({name: THEIRS[swap.get(name, name)] for name in THEIRS})


def test_blocks_in_another_order_than_they_count_are_not_guessed_at() -> None:
    swap = {"layer1.0.": "layer1.1.", "layer1.1.": "layer1.0."}
    theirs = {next((n.replace(a, b) for a, b in swap.items() if n.startswith(a)), n): s for n, s in THEIRS.items()}
    assert "come in another order than their names count" in refused(theirs)


def test_flat_names_say_nothing_of_blocks() -> None:
    flat = {name.replace(".", "_", name.count(".") - 1): shape for name, shape in THEIRS.items()}
    assert "not block by block" in refused(flat)


def test_two_branches_that_could_be_either() -> None:
    own = network("shakeshake26-2x32d", depth=14, width=4)
    theirs = renamed(own.shapes, {"blocks": "stages", ".first.": ".right.", ".second.": ".left."})
    assert match(own, theirs, ordered=True).pairs["blocks.0.first.0.weight"] == "stages.0.right.0.weight"
    assert "more than one order of them fits" in refused(dict(sorted(theirs.items())), ordered=False, own=own)


def test_two_layers_of_one_shape_outside_of_blocks() -> None:
    own = network("fastnet", widths=(8, 8, 8))
    extra = Outline({**own.shapes, "a.weight": (3, 8), "b.weight": (3, 8)}, own.blocks)
    theirs = renamed(extra.shapes, {"groups": "layers"})
    assert "2 of its layers could be 'a'" in refused(theirs, own=extra)
