"""The weights of an entry: mapped, whole, and hashed whenever they may have changed."""

import dataclasses
import gc
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import safetensors.torch
import torch
from safetensors.torch import save
from torch import Tensor

from tests.zoo.conftest import LIMIT, again, file_entry, flip_bit
from zoo import verified
from zoo.entry import Entry, write_entry
from zoo.errors import CorruptError
from zoo.weights import open_weights


def same(one: torch.nn.Module, two: torch.nn.Module) -> bool:
    state = two.state_dict()
    return all(torch.equal(value, state[name]) for name, value in one.state_dict().items())


def mapped_files() -> set[str]:
    """Return the paths that are mapped into this process, as Linux lists them."""
    lines = Path("/proc/self/maps").read_text().splitlines()
    return {line.split(maxsplit=5)[5] for line in lines if len(line.split(maxsplit=5)) == 6}


@pytest.mark.parametrize("limit", [None, LIMIT])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_the_network_is_what_was_stored(
    make: Callable[..., Entry], net: torch.nn.Module, dtype: torch.dtype, limit: int | None
) -> None:
    entry = make("sample", dtype, limit=limit)
    entry.verify()
    loaded = again(entry).load()
    wanted = {n: v.to(dtype).float() if v.is_floating_point() else v for n, v in net.state_dict().items()}
    assert loaded.state_dict().keys() == wanted.keys()
    assert all(torch.equal(value, wanted[name]) for name, value in loaded.state_dict().items())
    assert {value.dtype for value in loaded.state_dict().values()} == {torch.float32, torch.int64}
    stored = again(entry).tensors()
    assert {value.dtype for value in stored.values()} == {dtype, torch.int64}
    assert len(entry.weights) == 1 if limit is None else len(entry.weights) > 1


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_fp32_stays_mapped_and_other_types_do_not(make: Callable[..., Entry], limit: int | None) -> None:
    full, half = make("full", torch.float32, limit=limit), make("half", torch.float16, limit=limit)
    nets = [full.load(), half.load()]
    files = {str(full.folder / file) for file in full.weights}
    assert files == {path for path in mapped_files() if "model" in path and str(full.folder.parent) in path}
    del nets
    gc.collect()
    assert not files & mapped_files()


def test_changing_a_network_leaves_its_file_alone(make: Callable[..., Entry]) -> None:
    entry = make("sample", torch.float32)
    before = (entry.folder / "model.safetensors").read_bytes()
    net, other = entry.load(), again(entry).load()
    with torch.no_grad():
        for value in net.state_dict().values():
            value.zero_()
    assert (entry.folder / "model.safetensors").read_bytes() == before
    assert not same(other, net)
    assert same(again(entry).load(), other)


def test_a_loaded_network_can_be_trained(make: Callable[..., Entry]) -> None:
    net = make("sample", torch.float32).load().train()
    before = net.state_dict()["head.weight"].clone()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.1)
    net(torch.randn(4, 3, 32, 32)).square().mean().backward()
    optimizer.step()
    assert not torch.equal(net.state_dict()["head.weight"], before)


def test_a_loaded_network_outlives_its_folder(make: Callable[..., Entry], net: torch.nn.Module) -> None:
    entry = make("sample", torch.float32)
    loaded = entry.load()
    shutil.rmtree(entry.folder)
    assert same(loaded, net)


def test_what_was_hashed_is_what_is_mapped(make: Callable[..., Entry], net: torch.nn.Module) -> None:
    entry = make("sample", torch.float32)
    path = entry.folder / "model.safetensors"
    with open_weights(entry.folder, entry.weights) as files:
        marks = files.marks({})
        path.with_name("other").write_bytes(save({"a": torch.zeros(1)}))
        path.with_name("other").replace(path)
        tensors = files.tensors(files.headers())
    assert marks["model.safetensors"].sha256 == entry.weights_digest
    assert tensors.keys() == net.state_dict().keys()


def test_tensors_that_are_not_aligned_and_empty_ones(tmp_path: Path) -> None:
    tensors = {"a": torch.arange(5.0), "b": torch.arange(3), "c": torch.zeros(0, 4), "d": torch.tensor(True)}
    content = save(tensors)
    length = int.from_bytes(content[:8], "little")
    for shift in range(9):
        text = content[8 : 8 + length].ljust(length + shift)
        (tmp_path / "file").write_bytes(len(text).to_bytes(8, "little") + text + content[8 + length :])
        with open_weights(tmp_path, ["file"]) as files:
            found = files.tensors(files.headers())
        assert found.keys() == tensors.keys()
        for name, value in tensors.items():
            assert torch.equal(found[name], value)
            assert found[name].shape == value.shape
            assert found[name].data_ptr() % value.itemsize == 0


@pytest.mark.parametrize("limit", [None, LIMIT])
def test_files_are_hashed_once(make: Callable[..., Entry], hashed: list[int], limit: int | None) -> None:
    entry = make("sample", torch.float32, limit=limit)
    sizes = [(entry.folder / file).stat().st_size for file in entry.weights]
    hashed.clear()  # of writing it
    entry.load()
    assert hashed == sizes
    again(entry).load()
    entry.load()
    assert hashed == sizes
    hashed.clear()
    again(entry).verify()
    assert sorted(size for size in hashed if size in sizes) == sorted(sizes), "verify always hashes"


def test_a_file_that_is_new_is_hashed_every_time(make: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    entry = make("sample", torch.float32)
    path = entry.folder / "model.safetensors"
    entry.load()
    look = verified.look(path.stat())
    flip_bit(path, -3)
    monkeypatch.setattr("zoo.weights.look", lambda _: look)  # as within the same tick of the clock
    with pytest.raises(CorruptError, match="is damaged"):
        again(entry).load()


def in_place(path: Path, content: bytes) -> None:
    path.write_bytes(content)


def in_place_and_set_back(path: Path, content: bytes) -> None:
    before = path.stat()
    time.sleep(0.02)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def by_another_file(path: Path, content: bytes) -> None:
    before = path.stat()
    path.with_name("new").write_bytes(content)
    path.with_name("new").replace(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_mtime_ns == before.st_mtime_ns


@pytest.mark.parametrize("change", [in_place, in_place_and_set_back, by_another_file])
@pytest.mark.parametrize("limit", [None, LIMIT])
@pytest.mark.usefixtures("hashed")
def test_a_corruption_of_the_same_size_is_caught(
    make: Callable[..., Entry], change: Callable[[Path, bytes], None], limit: int | None
) -> None:
    entry = make("sample", torch.float32, limit=limit)
    entry.load()
    path = entry.folder / entry.weights[-1]
    good = path.read_bytes()
    time.sleep(0.02)  # the kernel's clock ticks every few milliseconds
    change(path, good[:-9] + bytes([good[-9] ^ 1]) + good[-8:])
    with pytest.raises(CorruptError, match=f"{path} is damaged"):
        again(entry).load()
    change(path, good)
    again(entry).load()


@pytest.mark.usefixtures("hashed")
def test_what_the_disk_lost_is_found_by_verify_and_not_loaded_afterwards(
    make: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    entry = make("sample", torch.float32)
    entry.load()
    path = entry.folder / "model.safetensors"
    look = verified.look(path.stat())
    flip_bit(path, -3)
    with monkeypatch.context() as patched:
        patched.setattr("zoo.weights.look", lambda _: look)  # as if no time showed the change
        again(entry).load()  # which is why there is `zoo verify`
        with pytest.raises(CorruptError, match="is damaged"):
            again(entry).verify()
        with pytest.raises(CorruptError, match="is damaged"):
            again(entry).load()


@pytest.mark.usefixtures("hashed")
def test_other_sums_make_the_record_void(make: Callable[..., Entry]) -> None:
    entry = make("sample", torch.float32)
    entry.load()
    sums = entry.folder / "SHA256SUMS"
    text = sums.read_text()
    sums.write_text(text.replace(entry.weights_digest, "0" * 64))
    with pytest.raises(CorruptError, match="is damaged"):
        again(entry).load()
    sums.write_text(text)
    again(entry).load()


@pytest.mark.parametrize(
    "names", [{}, {"model.pt": b""}, {"model.safetensors": b"", "more": b""}, {"model-00001-of-00001.safetensors": b""}]
)
def test_files_that_are_no_weights_are_not_written(tmp_path: Path, names: dict[str, bytes]) -> None:
    card = file_entry(tmp_path, "sample").card
    with pytest.raises((ValueError, CorruptError)):
        write_entry(tmp_path / "other", dataclasses.replace(card, name="other"), names, None)
    assert not (tmp_path / "other").exists()


def test_a_header_that_lies_under_good_sums(tmp_path: Path) -> None:
    content = save({"a": torch.zeros(4)})
    entry = file_entry(tmp_path, "sample", weights=content.replace(b'"shape":[4]', b'"shape":[5]'))
    for use in (Entry.load, Entry.verify, Entry.tensors):
        with pytest.raises(CorruptError, match=r"model\.safetensors is not a readable safetensors file"):
            use(again(entry))


def test_the_librarys_own_reader_agrees(make: Callable[..., Entry]) -> None:
    entry = make("sample", torch.bfloat16)
    found: dict[str, Tensor] = entry.tensors()
    theirs = safetensors.torch.load_file(entry.folder / "model.safetensors")
    assert found.keys() == theirs.keys()
    assert all(torch.equal(value, theirs[name]) for name, value in found.items())
