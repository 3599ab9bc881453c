"""Compressed bodies, against the standard library's own."""

import gzip
import zlib
from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from export.serve.encoding import accepted_encoding, pack, unpack
from export.serve.problem import Problem

DECODE: dict[str, Callable[[bytes], bytes]] = {"gzip": gzip.decompress, "deflate": zlib.decompress}
ENCODE: dict[str, Callable[[bytes], bytes]] = {
    "gzip": gzip.compress,
    "x-gzip": gzip.compress,
    "deflate": zlib.compress,
}


@pytest.mark.parametrize("encoding", ["gzip", "deflate"])
@given(body=st.binary(max_size=3000))
def test_what_is_packed_is_unpacked_by_others_and_by_us(encoding: str, body: bytes) -> None:
    assert DECODE[encoding](pack(body, encoding)) == body
    assert unpack(pack(body, encoding), encoding, 3000) == body


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "deflate", "GZIP "])
def test_what_others_pack(encoding: str) -> None:
    assert unpack(ENCODE[encoding.strip().lower()](b"hello"), encoding, 5) == b"hello"


@pytest.mark.parametrize("encoding", ["", "identity"])
def test_no_encoding(encoding: str) -> None:
    assert unpack(b"hello", encoding, 1) == b"hello"


def test_a_bomb_is_refused_before_it_goes_off() -> None:
    bomb = zlib.compress(bytes(50_000_000), 9)
    with pytest.raises(Problem, match="larger than 1,000 bytes when it is unpacked") as caught:
        unpack(bomb, "deflate", 1000)
    assert caught.value.status == 413


@pytest.mark.parametrize(
    "body",
    [b"", b"nix", gzip.compress(b"hello")[:-1], gzip.compress(b"hello") + b"x", b"\x1f\x8b" + bytes(20)],
    ids=["empty", "words", "cut", "longer", "nothing in it"],
)
def test_damaged(body: bytes) -> None:
    with pytest.raises(Problem, match="gzip") as caught:
        unpack(body, "gzip", 100)
    assert caught.value.status == 400


def test_an_unknown_encoding() -> None:
    with pytest.raises(Problem, match="'br' is unknown: send gzip, deflate or none") as caught:
        unpack(b"", "br", 100)
    assert caught.value.status == 415


@pytest.mark.parametrize(
    ("header", "best"),
    [
        ("", ""),
        ("gzip", "gzip"),
        ("deflate", "deflate"),
        ("gzip, deflate, br", "gzip"),
        ("gzip;q=0.5, deflate", "deflate"),
        ("GZIP ; q=1.0", "gzip"),
        ("gzip;q=0", ""),
        ("gzip;q=x", ""),
        ("br, *", ""),
        ("identity", ""),
    ],
)
def test_what_a_client_accepts(header: str, best: str) -> None:
    assert accepted_encoding(header) == best
