"""Checkpoint files: both formats of torch.save and safetensors; hostile ones are one clear line, and nothing runs."""

import io
import os
import pickle
import tarfile
import warnings
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from tests.conftest import files_up_to
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError
from zoo.importing.nested import find_state
from zoo.importing.reading import check_archive, read_checkpoint

STATE = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "bn.num_batches_tracked": torch.tensor(7)}


class Runs:
    """Something that leaves a file behind when it is unpickled."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return os.system, (f"touch {self.mark}",)


def read(path: Path) -> dict[str, torch.Tensor]:
    return find_state(read_checkpoint(path).tree, str(path), (), path.stat().st_size)


def refusal(path: Path) -> MenagerieError:
    with pytest.raises(MenagerieError) as caught:
        read(path)
    assert "\n" not in str(caught.value)
    return caught.value


@pytest.mark.parametrize("name", ["model.pth", "model.bin", "checkpoint.pth.tar", "noending"])
@pytest.mark.parametrize("zipped", [True, False])
def test_both_formats_of_torch_save_under_any_name(tmp_path: Path, name: str, zipped: bool) -> None:
    torch.save(STATE, tmp_path / name, _use_new_zipfile_serialization=zipped)
    content = read_checkpoint(tmp_path / name)
    assert content.ordered
    assert list(content.tree) == list(STATE)
    assert all(torch.equal(content.tree[key], value) for key, value in STATE.items())


def test_safetensors_under_any_name(tmp_path: Path) -> None:
    save_file(STATE, tmp_path / "model.bin")
    content = read_checkpoint(tmp_path / "model.bin")
    assert not content.ordered
    assert all(torch.equal(content.tree[key], value) for key, value in STATE.items())


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("where", ["beside", "at the top"])
def test_nothing_in_a_file_runs(tmp_path: Path, zipped: bool, where: str) -> None:
    mark = tmp_path / "it ran"
    tree = {"state_dict": STATE, "hook": Runs(mark)} if where == "beside" else Runs(mark)
    torch.save(tree, tmp_path / "evil.pth", _use_new_zipfile_serialization=zipped)
    error = refusal(tmp_path / "evil.pth")
    assert isinstance(error, DataError)
    assert "(posix.system)" in str(error)
    assert not mark.exists()


@pytest.mark.parametrize("protocol", [0, 2, 4])
def test_a_bare_pickle_is_not_even_opened(tmp_path: Path, protocol: int) -> None:
    mark = tmp_path / "it ran"
    (tmp_path / "evil.pkl").write_bytes(pickle.dumps(Runs(mark), protocol))
    refusal(tmp_path / "evil.pkl")
    assert not mark.exists()


def test_a_whole_network_is_named_and_not_loaded(tmp_path: Path) -> None:
    torch.save(torch.nn.Linear(2, 2), tmp_path / "net.pth")
    assert "torch.nn.modules.linear.Linear" in str(refusal(tmp_path / "net.pth"))


@pytest.mark.parametrize("zipped", [True, False])
@pytest.mark.parametrize("keep", [0.0, 0.01, 0.3, 0.7, 0.99])
def test_truncated(tmp_path: Path, keep: float, zipped: bool) -> None:
    torch.save(STATE, tmp_path / "whole.pth", _use_new_zipfile_serialization=zipped)
    content = (tmp_path / "whole.pth").read_bytes()
    (tmp_path / "cut.pth").write_bytes(content[: int(keep * len(content))])
    assert isinstance(refusal(tmp_path / "cut.pth"), CorruptError | DataError)


@pytest.mark.parametrize("content", [b"", b"hello", b"\x00" * 600, b"{}" * 300, b"\x80", b"PK\x03\x04" + b"\xff" * 600])
def test_not_a_checkpoint_at_all(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file.pth").write_bytes(content)
    assert str(tmp_path / "file.pth") in str(refusal(tmp_path / "file.pth"))


def test_what_is_in_neither_format_is_called_that(tmp_path: Path) -> None:
    path = tmp_path / "file.pth"
    for content, end in ((b"", ": it is empty"), (b"\x8b\x01 random" * 99, ""), (b"<!doctype html>", "")):
        path.write_bytes(content)
        error = refusal(path)
        assert isinstance(error, CorruptError)
        assert str(error) == f"{path} is neither a checkpoint of torch.save nor a safetensors file{end}"
    path.write_bytes((99).to_bytes(8, "little") + b'{"a": ')
    assert "not a safetensors file, or it is truncated" in str(refusal(path))


def test_what_is_no_file(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for name in ("pipe", ".", "missing.pth"):
        with pytest.raises(NotFoundError, match=r"is no file|does not exist"):
            read_checkpoint(tmp_path / name)


def test_other_archives(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pth")
    with tarfile.open(tmp_path / "real.tar", "w") as tar:
        tar.add(tmp_path / "whole.pth", "whole.pth")
    assert "is a tar archive" in str(refusal(tmp_path / "real.tar"))
    with zipfile.ZipFile(tmp_path / "program.pt", "w") as archive:
        archive.writestr("net/constants.pkl", b"")
    assert "TorchScript" in str(refusal(tmp_path / "program.pt"))
    with zipfile.ZipFile(tmp_path / "other.zip", "w") as archive:
        archive.writestr("readme.txt", b"hello")
    assert "truncated or damaged" in str(refusal(tmp_path / "other.zip"))


def test_a_zip_bomb_is_not_unpacked(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "bomb.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("bomb/data.pkl", b"\x80\x02}.")
        archive.writestr("bomb/data/0", bytes(50_000_000))
    assert (tmp_path / "bomb.pth").stat().st_size < 100_000
    assert "claims to unpack to 50,000," in str(refusal(tmp_path / "bomb.pth"))
    assert len(check_archive(tmp_path / "bomb.pth", 10**9)) == 2


def test_compressed_parts_are_refused_even_if_small(tmp_path: Path) -> None:
    with zipfile.ZipFile(tmp_path / "again.pth", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("again/data.pkl", os.urandom(1000))
    assert "compressed parts" in str(refusal(tmp_path / "again.pth"))


def test_a_long_pickle_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.importing.reading._LONGEST_PICKLE", 100)
    torch.save(STATE, tmp_path / "whole.pth")
    assert "has a pickle of" in str(refusal(tmp_path / "whole.pth"))


class Claims:
    """A tensor that states a size of its own."""

    def __init__(self, storage: Any, size: tuple[int, ...], stride: tuple[int, ...]) -> None:  # noqa: ANN401
        self.arguments: tuple[Any, ...] = (storage, 0, size, stride, False, {})

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return torch._utils._rebuild_tensor_v2, self.arguments


@pytest.mark.parametrize(("size", "stride"), [((10**6, 10**6), (10**6, 1)), ((9, 10**9), (0, 0)), ((64, 64), (64, 1))])
@pytest.mark.parametrize("zipped", [True, False])
def test_tensors_that_claim_more_than_there_is(
    tmp_path: Path, size: tuple[int, ...], stride: tuple[int, ...], zipped: bool
) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # storages with a type are old, as are files that have them
        storage = torch.ones(4).storage()  # type: ignore[no-untyped-call]
    tree = {"a.weight": Claims(storage, size, stride)}
    torch.save(tree, tmp_path / "huge.pth", _use_new_zipfile_serialization=zipped)
    assert isinstance(refusal(tmp_path / "huge.pth"), CorruptError)


def test_the_disk_is_not_written_to(tmp_path: Path) -> None:
    torch.save(STATE, tmp_path / "whole.pth")
    with files_up_to(0):
        assert set(read(tmp_path / "whole.pth")) == set(STATE)


def saved(kind: str) -> bytes:
    file = io.BytesIO()
    if kind == "safetensors":
        from safetensors.torch import save

        return save(STATE)
    torch.save({"epoch": 3, "state_dict": STATE}, file, _use_new_zipfile_serialization=kind == "zip")
    return file.getvalue()


WHOLE = {kind: saved(kind) for kind in ("zip", "legacy", "safetensors")}


@pytest.mark.parametrize("kind", WHOLE)
@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_or_refused_in_one_line(tmp_path: Path, kind: str, data: st.DataObject) -> None:
    content = bytearray(WHOLE[kind])
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content) - 1))
        content[at : at + data.draw(st.integers(0, 3))] = data.draw(st.binary(max_size=4))
    (tmp_path / "mutant").write_bytes(content)
    said = ""
    try:
        read(tmp_path / "mutant")
    except MenagerieError as error:
        said = str(error)
    assert "\n" not in said
