"""Other forms of the same weights: which change no value, which do, and what becomes of the card."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load, save
from torch import Tensor

from tests.zoo.conftest import file_entry, in_part
from zoo.checkpoint import cast, encode
from zoo.convert import DTYPES, Converted, Dtype, convert, convert_card
from zoo.entry import INDEX, WEIGHTS, Entry, write_entry
from zoo.errors import DataError, NotFoundError, UsageError

TORCH = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def entry_of(folder: Path, tensors: dict[str, Tensor]) -> Entry:
    return file_entry(folder, "sample", weights=save(tensors))


def values(made: Converted) -> dict[str, Tensor]:
    found: dict[str, Tensor] = {}
    for file, content in made.files.items():
        found |= load(content) if file != INDEX else {}
    return found


@pytest.mark.parametrize("limit", [None, 900])
@pytest.mark.parametrize("after", sorted(DTYPES))
@pytest.mark.parametrize("before", sorted(DTYPES))
def test_types(tmp_path: Path, before: Dtype, after: Dtype, limit: int | None) -> None:
    torch.manual_seed(0)
    tensors = {
        "a": torch.tensor([3e-7, *torch.randn(40)]).to(TORCH[before]),  # the first is too small for fp16 to be exact
        "b": torch.randn(5, 20).to(TORCH[before]),
        "steps": torch.tensor(2**53 + 1),
    }
    made = convert(entry_of(tmp_path, tensors), after, limit)
    found = values(made)
    assert found.keys() == tensors.keys()
    for name, value in tensors.items():
        wanted = value.to(TORCH[after]) if value.is_floating_point() else value
        assert torch.equal(found[name], wanted)
        assert found[name].dtype == wanted.dtype
    # 8 bits of bf16 and 11 of fp16 fit into fp32's 24, and the exponents do as well.
    assert made.lossless == (after in {before, "fp32"})
    assert (made.before, made.after) == (before, after)
    assert (list(made.files) == [WEIGHTS]) == (limit is None)


def test_rounding_that_changes_nothing_is_lossless(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, {"a": torch.tensor([0.0, -0.5, 1024.0, 2.0**-20])})
    assert convert(entry, "fp16").lossless
    assert convert(entry, "bf16").lossless
    assert not convert(entry_of(tmp_path / "other", {"a": torch.tensor([1 + 2.0**-9])}), "bf16").lossless


def test_types_that_differ(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, {"a": torch.ones(1), "b": torch.ones(1).half(), "c": torch.ones(1).double()})
    kept = convert(entry, None, 800)
    assert (kept.before, kept.after, kept.lossless) == ("float64+fp16+fp32", "float64+fp16+fp32", True)
    assert {name: value.dtype for name, value in values(kept).items()} == {
        "a": torch.float32,
        "b": torch.float16,
        "c": torch.float64,
    }
    assert convert(entry, "fp16").after == "fp16"


@pytest.mark.parametrize(("largest", "dtype"), [(65520.0, "fp16"), (-3.4e38, "fp16"), (3.4e38, "bf16")])
def test_numbers_that_are_too_large(tmp_path: Path, largest: float, dtype: Dtype) -> None:
    entry = entry_of(tmp_path, {"a": torch.ones(3), "b": torch.tensor([1.0, largest])})
    with pytest.raises(DataError, match=f"'sample' has numbers up to .* in 'b', which {dtype} cannot hold"):
        convert(entry, dtype)


def test_what_was_infinite_stays_so(tmp_path: Path) -> None:
    entry = entry_of(tmp_path, {"a": torch.tensor([torch.inf, 1.0])})
    assert convert(entry, "fp16").lossless


def test_there_and_back_is_the_same_file(tmp_path: Path, make_entry: Callable[..., Entry]) -> None:
    first = make_entry(tmp_path, "first")
    there = convert(first, "fp32", 8000)
    cut = write_entry(tmp_path / "cut", dataclasses.replace(first.card, name="cut"), there.files, None)
    back = convert(cut, "fp16")
    assert back.lossless
    assert back.files == {WEIGHTS: (first.folder / WEIGHTS).read_bytes()}
    assert str(there).startswith("fp16 -> fp32, 0.0 MB in ")
    assert str(back) == "fp32 -> fp16, 0.0 MB in 1 file"


def test_the_network_is_that_of_the_files(tmp_path: Path, make_entry: Callable[..., Entry]) -> None:
    entry = make_entry(tmp_path, "first")
    made = convert(entry, "bf16", 8000)
    written = write_entry(tmp_path / "cut", dataclasses.replace(entry.card, name="cut"), made.files, None)
    net, loaded = made.network(entry.card), written.load()
    assert not net.training
    assert encode(net, torch.float32) == encode(loaded, torch.float32) != encode(entry.load(), torch.float32)


def test_cast_keeps_what_it_is_not_asked_to_change() -> None:
    tensors = {"a": torch.ones(2, 3).half().T, "b": torch.tensor(1)}
    kept = cast(tensors, None)
    assert kept["a"].dtype == torch.float16
    assert kept["a"].is_contiguous()
    assert kept["b"].dtype == torch.int64


def test_the_card_says_where_it_comes_from(tmp_path: Path) -> None:
    before = {"test": {"none": 0.5, "flip": 0.6}}
    entry = file_entry(tmp_path, "sample", metrics=before, training={"epochs": 3})
    after = {"test": {"none": 0.4, "flip": 0.5}}
    kept, anew, none = (
        convert_card(entry, "new", lossless=True, metrics=after),
        convert_card(entry, "new", lossless=False, metrics=after),
        convert_card(entry, "new", lossless=False),
    )
    assert (kept.metrics, anew.metrics, none.metrics) == (before, after, {})
    for card in (kept, anew, none):
        assert card.name == "new"
        assert card.training == {"epochs": 3, "converted_from": f"sample@{entry.weights_digest[:16]}"}
        assert dataclasses.replace(card, name="sample", metrics=before, training={"epochs": 3}) == entry.card
    assert json.loads(kept.to_json())["name"] == "new"


def test_weights_that_are_not_here_or_do_not_fit(
    tmp_path: Path, make_entry: Callable[..., Entry], zoo_home: Path
) -> None:
    from tests.conftest import random_split

    entry = make_entry(tmp_path, "first", splits={"test": random_split(5)})
    with pytest.raises(UsageError, match="are too small for the tensor"):
        convert(entry, None, 600)
    part = in_part(entry, zoo_home)
    (part.folder / WEIGHTS).unlink()
    with pytest.raises(NotFoundError, match="`zoo pull first`"):
        convert(part, "fp32")
