"""The state dict in what people save: where it is, which one is meant, what keeps a tensor out."""

import warnings
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from zoo.errors import CorruptError, DataError, MenagerieError, UsageError
from zoo.importing.nested import find_state, strip_prefixes

STATE = {"conv.weight": torch.ones(2, 3, 1, 1), "bn.weight": torch.ones(2)}
OPTIMIZER = {"state": {0: {"momentum_buffer": torch.ones(2, 3, 1, 1)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def find(tree: Any, *keys: str, size: int | None = None) -> dict[str, Tensor]:  # noqa: ANN401
    return find_state(tree, "file.pth", keys, size)


@pytest.mark.parametrize("key", ["state_dict", "model", "net", "model_state_dict", "module", "ema", "weights"])
def test_nested_under_any_key_beside_an_optimizer(key: str) -> None:
    tree = {"epoch": 3, key: STATE, "optimizer": OPTIMIZER, "best_acc": torch.tensor(0.9), "args": {"lr": 0.1}}
    assert find(tree) == STATE


@pytest.mark.parametrize("tree", [STATE, OrderedDict(STATE), {**STATE, "epoch": 3, "lr": 0.1, "names": ["a"]}])
def test_bare(tree: Mapping[str, Any]) -> None:
    assert find(tree) == STATE


def test_deeper_and_named_by_path() -> None:
    tree = {"train": {"model": STATE, "ema": {"module": {"conv.weight": torch.zeros(1, 1)}}}}
    with pytest.raises(DataError, match=r"--key, one of train.model \(2 tensors\), train.ema.module \(1 tensors\)"):
        find(tree)
    assert find(tree, "train.model") == STATE
    with pytest.raises(UsageError, match=r"'train.modle': .*did you mean 'train.model'\?\); there are train.model, "):
        find(tree, "train.modle")


def test_an_optimizer_that_names_parameters_is_no_candidate() -> None:
    buffers = {"conv.weight": {"exp_avg": torch.ones(2, 2)}}
    assert find({"model": STATE, "optimizer": {"state": buffers}, "optim_g": {"state": buffers}}) == STATE


def test_keys_are_joined_and_may_name_vectors_only() -> None:
    tree = {"params": STATE, "stats": {"bn.running_mean": torch.zeros(2)}}
    assert list(find(tree, "params", "stats")) == [*STATE, "bn.running_mean"]
    with pytest.raises(UsageError, match=r"has 'bn.weight' there and in another key"):
        find({"a": STATE, "b": STATE.copy()}, "a", "b")


def test_nothing_to_find() -> None:
    for tree, said in (
        ({"epoch": 3, "lr": 0.1}, r"at its top is epoch \(int\), lr \(float\)"),
        ([STATE], "at its top is a list"),
        (torch.ones(2, 2), "at its top is a Tensor"),
        ({}, "an empty mapping"),
        ({1: STATE["conv.weight"]}, r"1 \(Tensor\)"),
        ({"bias": torch.ones(3)}, "no mapping of names to tensors"),
    ):
        with pytest.raises(DataError, match=said):
            find(tree)
    with pytest.raises(UsageError, match="its tensors are at its top"):
        find(STATE, "state_dict")


def test_hostile_keys_are_shown_harmlessly_and_not_at_length() -> None:
    trees = {f"\x1b[2J{i}" + 1000 * "x": STATE.copy() for i in range(1000)}
    values = dict.fromkeys(trees, 1)
    cases: list[tuple[object, tuple[str, ...]]] = [(trees, ()), (trees, ("model",)), (values, ())]
    for tree, keys in cases:
        with pytest.raises(MenagerieError) as caught:
            find(tree, *keys)
        assert str(caught.value).isprintable()
        assert len(str(caught.value)) < 1000


def test_a_mapping_that_holds_itself() -> None:
    tree: dict[str, Any] = {"model": STATE}
    tree |= {f"self{i}": tree for i in range(100)}
    assert find(tree) == STATE


def peculiar() -> dict[str, tuple[Tensor, str]]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # both are on their way out of torch
        quantised = torch.quantize_per_tensor(torch.ones(2, 2), 0.1, 0, torch.qint8)
        nested = torch.nested.nested_tensor([torch.ones(2), torch.ones(3)])
    return {
        "sparse": (torch.eye(3).to_sparse(), "is sparse coo"),
        "quantised": (quantised, "is quantised"),
        "nested": (nested, "is nested"),
        "complex": (torch.ones(2, 2, dtype=torch.complex64), "is complex"),
        "without data": (torch.ones(2, 2, device="meta"), "is on the device meta"),
    }


@pytest.mark.parametrize("kind", ["sparse", "quantised", "nested", "complex", "without data"])
def test_tensors_that_are_not_plain(kind: str) -> None:
    tensor, said = peculiar()[kind]
    with pytest.raises(DataError, match=f"'odd' {said}; only plain tensors"):
        find({**STATE, "odd": tensor})


def test_claims_beyond_the_memory_or_the_file() -> None:
    with pytest.raises(CorruptError, match="claims 1,000,000 numbers and stores fewer"):
        find({"conv.weight": torch.ones(1).expand(1000, 1000)})
    with pytest.raises(CorruptError, match="claim 4,000 bytes, and the file has 3,999"):
        find({"conv.weight": torch.ones(10, 100)}, size=3999)
    tied = torch.ones(10, 100)
    assert len(find({"a.weight": tied, "b.weight": tied, "c.weight": tied[:5]}, size=4000)) == 3


def test_parameters_are_tensors() -> None:
    assert list(find(dict(nn.Linear(2, 2).named_parameters()))) == ["weight", "bias"]


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module.", "model.net."])
def test_prefixes_that_all_names_have_go(prefix: str) -> None:
    assert strip_prefixes({prefix + key: value for key, value in STATE.items()}, "file") == STATE


def test_prefixes_that_some_names_have_stay() -> None:
    state = {"module.conv.weight": STATE["conv.weight"], "bn.weight": STATE["bn.weight"]}
    assert strip_prefixes(state, "file") == state
    averaged = {"n_averaged": torch.tensor(5), **{f"module.{key}": value for key, value in STATE.items()}}
    assert strip_prefixes(averaged, "file") == STATE
    assert strip_prefixes({}, "file") == {}


def test_insisting_on_dataparallel() -> None:
    wrapped = {f"_orig_mod.module.{key}": value for key, value in STATE.items()}
    assert strip_prefixes(wrapped, "file", from_dataparallel=True) == STATE
    with pytest.raises(DataError, match=r"names in file do not begin with 'module.', e.g. 'conv.weight'"):
        strip_prefixes(STATE, "file", from_dataparallel=True)
