"""Headers of safetensors files: what ours accepts the library reads alike, and canonical ones are the library's own."""

import hashlib
import io
import json
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors import SafetensorError

from zoo.errors import CorruptError
from zoo.header import DTYPES, Stored, canonical_header, check_format, joined_digest, read_header

TORCH = {
    "I64": torch.int64,
    "F64": torch.float64,
    "F32": torch.float32,
    "I32": torch.int32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
    "I16": torch.int16,
    "I8": torch.int8,
    "U8": torch.uint8,
    "BOOL": torch.bool,
}
ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


def joined(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def saved(tensors: dict[str, torch.Tensor]) -> bytes:
    return safetensors.torch.save(tensors, metadata={"format": "pt"})


SHAPES = st.lists(st.integers(0, 3), max_size=3)
NAMES = st.text(st.characters(codec="utf-8"), max_size=8).filter(lambda name: name != "__metadata__")
TENSORS = st.dictionaries(NAMES, st.tuples(st.sampled_from(sorted(DTYPES)), SHAPES), max_size=6)


def filled(table: dict[str, tuple[str, list[int]]]) -> dict[str, torch.Tensor]:
    """Return tensors of these types and shapes, with numbers that differ."""
    generator = torch.Generator().manual_seed(len(table))
    return {
        name: torch.randint(0, 100, shape, generator=generator).to(TORCH[dtype])
        for name, (dtype, shape) in table.items()
    }


@given(table=TENSORS)
def test_a_file_of_the_library_is_read_and_its_header_is_the_canonical_one(
    table: dict[str, tuple[str, list[int]]],
) -> None:
    tensors = filled(table)
    content = saved(tensors)
    header = read_header(io.BytesIO(content), "file")
    assert {name: (t.dtype, list(t.shape)) for name, t in header.tensors.items()} == table
    for name, stored in header.tensors.items():
        data = content[header.start + stored.begin : header.start + stored.end]
        assert data == bytes(tensors[name].reshape(-1).view(torch.uint8).tolist() if tensors[name].numel() else b"")
    assert canonical_header(header.tensors) == content[: header.start]
    assert joined_digest([(io.BytesIO(content), header)]) == hashlib.sha256(content).hexdigest()


@given(table=TENSORS, into=st.integers(1, 3))
def test_the_digest_does_not_depend_on_how_tensors_are_cut(table: dict[str, tuple[str, list[int]]], into: int) -> None:
    tensors = filled(table)
    names = sorted(tensors)
    files = [io.BytesIO(saved({name: tensors[name] for name in names[part::into]})) for part in range(into)]
    digest = joined_digest([(file, read_header(file, "file")) for file in files])
    assert digest == hashlib.sha256(saved(tensors)).hexdigest()


def test_the_digest_of_tensors_longer_than_a_piece() -> None:
    tensors = {"a": torch.arange(1_000_003, dtype=torch.int32), "b": torch.arange(7.0)}
    content = saved(tensors)
    header = read_header(io.BytesIO(content), "file")
    assert joined_digest([(io.BytesIO(content), header)]) == hashlib.sha256(content).hexdigest()


def test_the_order_of_the_table_is_that_of_the_library() -> None:
    content = saved({f"{number}": torch.zeros(1, dtype=dtype) for number, dtype in enumerate(TORCH.values())})
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    del header["__metadata__"]
    assert [tensor["dtype"] for tensor in header.values()] == list(DTYPES)
    assert {name: dtype.itemsize for name, dtype in TORCH.items()} == DTYPES


GOOD = saved({"a": torch.arange(3.0), "b": torch.ones(2, 2, dtype=torch.int64)})


@given(data=st.data())
def test_whatever_is_accepted_the_library_reads_alike(data: st.DataObject) -> None:
    content = bytearray(GOOD)
    for _ in range(data.draw(st.integers(1, 3))):
        position = data.draw(st.integers(0, len(content) - 1))
        how = data.draw(st.sampled_from(["flip", "cut", "insert", "digit"]))
        if how == "flip":
            content[position] ^= 1 << data.draw(st.integers(0, 7))
        elif how == "cut":
            del content[position : position + data.draw(st.integers(1, 9))]
        elif how == "insert":
            content[position:position] = data.draw(st.binary(min_size=1, max_size=9))
        else:
            content[position] = data.draw(st.sampled_from(b'0123456789"{}[],: '))
        if not content:
            break
    try:
        header = read_header(io.BytesIO(content), "file")
    except CorruptError as error:
        assert "\n" not in str(error)  # noqa: PT017
        return
    theirs = safetensors.torch.load(bytes(content))
    ours = {name: (TORCH[t.dtype], t.shape) for name, t in header.tensors.items()}
    assert ours == {name: (tensor.dtype, tuple(tensor.shape)) for name, tensor in theirs.items()}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "not a safetensors file, or it is truncated"),
        ((2**24 + 1).to_bytes(8, "little") + b"{}" + bytes(2**24), "not a safetensors file"),
        (joined(b'{"a": '), "not a readable safetensors file"),
        (joined('{"é": 1}'.encode("utf-16")), "not a safetensors file"),
        (joined(b"{\0" + "}".encode("utf-16-le")), "not a readable"),
        (joined(b'{"a":' * 100_000 + b"1" + b"}" * 100_000), "not a readable"),
        (joined(b'{"a": %b, "a": %b}' % ((json.dumps(ONE).encode(),) * 2), bytes(4)), "a name is given twice"),
        (joined({"a": ONE, "b": ONE}, bytes(4)), "the bytes of 'b' are not where they should be"),
        (joined({"a": ONE}, bytes(5)), "5 bytes of tensors, not 4"),
        (joined({"a": ONE}, bytes(3)), "3 bytes of tensors, not 4"),
        (joined({"a": ONE | {"shape": [2]}}, bytes(4)), "the bytes of 'a'"),
        (joined({"a": ONE | {"data_offsets": [4, 8]}}, bytes(8)), "the bytes of 'a'"),
        (joined({"a": ONE | {"data_offsets": [4, 0]}}, bytes(4)), "the bytes of 'a'"),
        (joined({"a": ONE | {"data_offsets": [0, 4, 8]}}, bytes(4)), "not a readable"),
        (joined({"a": ONE | {"shape": [-1]}}, bytes(4)), "no number of things"),
        (joined({"a": ONE | {"shape": [True]}}, bytes(4)), "no number of things"),
        (joined({"a": ONE | {"shape": [1.0]}}, bytes(4)), "no number of things"),
        (joined({"a": ONE | {"shape": "1"}}, bytes(4)), "no number of things"),
        (joined({"a": ONE | {"shape": [2**40, 2**40, 0], "data_offsets": [0, 0]}}), "more numbers than fit"),
        (joined({"a": ONE | {"shape": [1] * 65}}, bytes(4)), "more numbers than fit"),
        (joined({"a": ONE | {"dtype": "F8_E4M3", "shape": [4]}}, bytes(4)), "type 'F8_E4M3' is not among I64, F64"),
        (joined({"a": ONE | {"dtype": ["F32"]}}, bytes(4)), "not a readable"),
        (joined({"a": ONE | {"more": 1}}, bytes(4)), "described by"),
        (joined({"a": None}), "not a readable"),
        (joined({"__metadata__": {"a": 1}}), "its metadata is not text"),
        (joined({"__metadata__": [1]}), "not a readable"),
    ],
)
def test_hostile_headers(content: bytes, message: str) -> None:
    with pytest.raises(CorruptError, match=f"^file is .*{message}"):
        read_header(io.BytesIO(content), "file")


def test_a_header_of_more_than_16_mib_is_not_read() -> None:
    class Counting(io.BytesIO):
        taken = 0

        def read(self, size: int | None = -1, /) -> bytes:
            content = super().read(size)
            self.taken += len(content)
            return content

    text = json.dumps({"__metadata__": {"a": "x" * 2**24}}).encode()
    file = Counting(joined(text))
    safetensors.torch.load(joined(text))  # well-formed, but for its length
    with pytest.raises(CorruptError, match="not a safetensors file"):
        read_header(file, "file")
    assert file.taken < 100
    with pytest.raises(CorruptError, match="not a safetensors file"):
        check_format(joined(text), "file")


def test_a_file_that_the_library_refuses_is_refused() -> None:
    content: Any = joined({"a": ONE | {"shape": [3]}}, bytes(4))
    with pytest.raises(SafetensorError):
        safetensors.torch.load(content)
    with pytest.raises(CorruptError):
        read_header(io.BytesIO(content), "file")


def test_canonical_headers_ignore_where_the_bytes_were() -> None:
    here, there = (Stored("F16", (2, 3), begin, begin + 12) for begin in (0, 100))
    assert canonical_header({"a": here}) == canonical_header({"a": there})
    content = safetensors.torch.save({"a": torch.zeros(2, 3, dtype=torch.float16)}, metadata={"format": "pt"})
    assert content == canonical_header({"a": there}) + np.zeros(6, np.float16).tobytes()
