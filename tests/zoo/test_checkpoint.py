"""Weights: canonical bytes, exact values, and no file that is loaded when it should not be."""

import io
import json
import os
import pickle
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import safetensors.torch
import torch
from torch import Tensor, nn

from tests.zoo.conftest import sample_card
from zoo.archs.fastnet import FastNet
from zoo.card import Card
from zoo.checkpoint import build, check_format, decode, encode
from zoo.errors import CorruptError, UsageError

CARD = sample_card(architecture_args={"widths": [4, 4, 4]})


def network(seed: int = 0) -> FastNet:
    torch.manual_seed(seed)
    net = FastNet(widths=(4, 4, 4))
    for norm in (m for m in net.modules() if isinstance(m, nn.BatchNorm2d)):
        assert norm.running_mean is not None
        assert norm.num_batches_tracked is not None
        nn.init.normal_(norm.running_mean)
        norm.num_batches_tracked.fill_(7)
    return net


@pytest.fixture(scope="module")
def content() -> bytes:
    return encode(network())


def parts(content: bytes) -> tuple[dict[str, object], bytes]:
    """Take a file apart as the format's description says: length, JSON, data."""
    end = 8 + int.from_bytes(content[:8], "little")
    return json.loads(content[8:end]), content[end:]


def joined(header: object, data: bytes = b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return len(text).to_bytes(8, "little") + text + data


def test_encode_stores_the_state_as_fp16_and_integers_as_they_are(content: bytes) -> None:
    stored = safetensors.torch.load(content)
    state = network().state_dict()
    assert stored.keys() == state.keys()
    for name, value in state.items():
        wanted = value.half() if value.is_floating_point() else value
        assert stored[name].dtype == wanted.dtype
        assert torch.equal(stored[name], wanted)


def test_encode_to_another_type() -> None:
    state = network().state_dict()
    stored = safetensors.torch.load(encode(network(), torch.float32))
    assert all(torch.equal(stored[name], value) for name, value in state.items())


def test_equal_weights_are_equal_bytes(content: bytes) -> None:
    assert encode(network()) == content
    assert encode(network().to(memory_format=torch.channels_last)) == content
    assert encode(network(seed=1)) != content


class Backwards(nn.Module):
    """Two parameters, registered in either order."""

    def __init__(self, names: str) -> None:
        super().__init__()
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.full((2,), float(ord(name)))))


def test_the_header_does_not_depend_on_the_order_and_says_only_pt(content: bytes) -> None:
    assert encode(Backwards("abc")) == encode(Backwards("cab"))
    assert parts(content)[0]["__metadata__"] == {"format": "pt"}


def test_decode_gives_float32(content: bytes) -> None:
    stored = safetensors.torch.load(content)
    for name, value in decode(content, "file").items():
        assert value.dtype == (torch.float32 if stored[name].is_floating_point() else torch.int64)
        assert torch.equal(value, stored[name].to(value.dtype))


def test_build_gives_the_published_network_in_eval_mode(content: bytes) -> None:
    net = build(CARD, decode(content, "file"), "file")
    twin = network().half().float().eval()
    assert not any(m.training for m in net.modules())
    assert {p.dtype for p in net.parameters()} == {torch.float32}
    assert {p.device.type for p in net.parameters()} == {"cpu"}
    images = torch.randn(3, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(net(images), twin(images))
    assert encode(net) == content


def without(weights: dict[str, Tensor]) -> str:
    del weights["head.weight"]
    return "head.weight"


def with_more(weights: dict[str, Tensor]) -> str:
    weights["extra"] = torch.zeros(1)
    return "extra"


def of_other_shape(weights: dict[str, Tensor]) -> str:
    weights["whiten.bias"] = torch.zeros(25)
    return "whiten.bias"


def of_integers(weights: dict[str, Tensor]) -> str:
    weights["whiten.weight"] = weights["whiten.weight"].to(torch.int16)
    return "whiten.weight"


@pytest.mark.parametrize("change", [without, with_more, of_other_shape, of_integers])
def test_weights_of_something_else(content: bytes, change: Callable[[dict[str, Tensor]], str]) -> None:
    weights = decode(content, "file")
    name = change(weights)
    with pytest.raises(CorruptError, match=f"file does not hold a fastnet: 1 tensors differ, the first is '{name}'"):
        build(CARD, weights, "file")


@pytest.mark.parametrize(
    "card",
    [
        replace(CARD, architecture="fastnett"),
        replace(CARD, architecture_args={"width": 3}),
        replace(CARD, architecture_args={"arch": "resnet20"}),
        replace(CARD, architecture_args={"classes": 10}),
        replace(CARD, architecture_args={"widths": [-1, 4, 4]}),
        replace(CARD, architecture_args={"widths": [10**12, 10**12, 10**12]}),
    ],
    ids=lambda card: f"{card.architecture}-{card.architecture_args}",
)
def test_an_architecture_that_cannot_be_built(content: bytes, card: Card) -> None:
    with pytest.raises(UsageError, match="architecture"):
        build(card, decode(content, "file"), "file")


class Payload:
    """Makes a folder when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.marker),)


def zipped(payload: object) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps(payload))
    return file.getvalue()


def by_torch(payload: object, *, new: bool) -> bytes:
    file = io.BytesIO()
    torch.save(payload, file, _use_new_zipfile_serialization=new)
    return file.getvalue()


@pytest.mark.parametrize(
    "make",
    [
        *(lambda payload, p=protocol: pickle.dumps(payload, p) for protocol in range(2, pickle.HIGHEST_PROTOCOL + 1)),
        zipped,
        lambda payload: by_torch(payload, new=True),
        lambda payload: by_torch(payload, new=False),
    ],
)
def test_pickles_are_named_and_never_run(tmp_path: Path, make: Callable[[object], bytes]) -> None:
    marker = tmp_path / "marker"
    content = make(Payload(marker))
    with pytest.raises(CorruptError, match="model is a pickle, not a safetensors file"):
        decode(content, "model")
    assert not marker.exists()
    pickle.loads(pickle.dumps(Payload(marker)))  # noqa: S301  # what would have happened
    assert marker.exists()


@pytest.mark.parametrize("protocol", [0, 1])
def test_old_pickles_are_not_safetensors(protocol: int) -> None:
    with pytest.raises(CorruptError, match="model is not a safetensors file"):
        check_format(pickle.dumps({"a": [1.0]}, protocol), "model")


def test_a_header_whose_length_looks_like_a_pickle_is_read() -> None:
    text = json.dumps({"a": {"dtype": "F16", "shape": [1], "data_offsets": [0, 2]}}).encode().ljust(0x80)
    content = joined(text, b"\x00\x3c")
    assert content[0] == pickle.dumps(None)[0]
    assert decode(content, "model") == {"a": torch.ones(1)}


def test_every_truncation_is_corrupt() -> None:
    content = safetensors.torch.save({"a": torch.ones(3), "b": torch.zeros(2, 2)})
    for end in range(len(content)):
        with pytest.raises(CorruptError, match=r"^model is not a"):
            decode(content[:end], "model")
    with pytest.raises(CorruptError):
        decode(content + b"\0", "model")


ONE = {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}


@pytest.mark.parametrize(
    "content",
    [
        joined({}, b"more"),
        joined(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
        joined(b"[" * 100_000),
        joined(b'{"a": '),
        joined(b"{\xff}"),
        (2**63).to_bytes(8, "little") + b"{}",
        (100_000_001).to_bytes(8, "little") + b"{}",
        (1).to_bytes(8, "little") + b"{}",
        joined({"a": ONE | {"shape": [2]}}, bytes(4)),
        joined({"a": ONE | {"shape": [-1]}}, bytes(4)),
        joined({"a": ONE | {"shape": [2**62, 2**62]}}, bytes(4)),
        joined({"a": ONE | {"dtype": "OBJECT"}}, bytes(4)),
        joined({"a": ONE | {"dtype": "F4", "shape": [8]}}, bytes(4)),
        joined({"a": ONE | {"data_offsets": [4, 0]}}, bytes(4)),
        joined({"a": ONE | {"data_offsets": [0, 2**60]}}, bytes(4)),
        joined({"a": ONE, "b": ONE}, bytes(4)),
        joined({"a": None}, bytes(4)),
    ],
    ids=lambda content: repr(content[8:40]),
)
def test_malformed_headers(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^model is not a"):
        decode(content, "model")


def test_a_flipped_bit_of_the_header_never_gives_other_weights(content: bytes) -> None:
    good = decode(content, "model")
    end = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    positions = [*range(72), *range(72, end, 11)]
    for position in positions:
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 7
        try:
            weights = decode(bytes(flipped), "model")
            build(CARD, weights, "model")
        except CorruptError:
            refused += 1
        else:
            # What metadata says and how a header is padded changes nothing.
            assert all(torch.equal(weights[name], good[name]) for name in good), position
    assert len(positions) > refused > 0.9 * len(positions)


def test_a_flipped_bit_of_the_data_changes_one_number() -> None:
    good = {"a": torch.arange(1, 9).half().reshape(2, 4), "b": torch.arange(1, 5)}
    content = safetensors.torch.save(good)
    start = 8 + int.from_bytes(content[:8], "little")
    for position in range(start, len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        found = decode(bytes(flipped), "model")
        assert sum(int((found[name] != good[name]).sum()) for name in good) == 1


def test_the_form_is_checked_up_to_the_end_of_the_header(content: bytes) -> None:
    end = 8 + int.from_bytes(content[:8], "little")
    for size in (*range(12), end - 1):
        with pytest.raises(CorruptError, match="model is not a safetensors file, or it is truncated"):
            check_format(content[:size], "model")
    check_format(content[:end], "model")
    check_format(content, "model")
