"""The predictions file, read and written with safetensors itself."""

import json
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import load, save

from zoo.errors import CorruptError
from zoo.predictions import PUBLISHED_VIEWS, Predictions, SplitPredictions

KEY = "menagerie.predictions"
LABELS = np.array([0, 2, 1, 2], np.uint8)
LOGITS = np.arange(12, dtype=np.float16).reshape(4, 3) - 6
Array = npt.NDArray[Any]


def split_predictions(rows: int = 4, classes: int = 3, seed: int = 0) -> SplitPredictions:
    rng = np.random.default_rng(seed)
    views = {view: rng.normal(size=(rows, classes)).astype(np.float16) for view in PUBLISHED_VIEWS}
    return SplitPredictions(views, rng.integers(0, classes, rows), f"{seed:064x}")


def handmade(fingerprints: object = None, metadata: str | None = None, **changes: Array | None) -> bytes:
    """Return a file of one split, `test`, with some tensors changed (`labels=...`, `none=None`)."""
    tensors: dict[str, Array | None] = {"labels": LABELS, "none": LOGITS, "flip": LOGITS + 1, **changes}
    about = json.dumps({"fingerprints": {"test": "ab"} if fingerprints is None else fingerprints})
    return save(
        {f"test.{name}": np.ascontiguousarray(value) for name, value in tensors.items() if value is not None},
        metadata={KEY: about if metadata is None else metadata},
    )


def header_of(content: bytes) -> dict[str, Any]:
    header: dict[str, Any] = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return header


def test_the_published_views() -> None:
    assert PUBLISHED_VIEWS == ("none", "flip")


def test_what_is_written_is_what_the_format_says() -> None:
    test, val = split_predictions(seed=1), split_predictions(rows=2, seed=2)
    content = Predictions({"val": val, "test": test}).encode()
    stored = load(content)
    assert stored.keys() == {f"{split}.{what}" for split in ("test", "val") for what in ("none", "flip", "labels")}
    for name, split in (("test", test), ("val", val)):
        assert stored[f"{name}.labels"].dtype == np.uint8
        assert stored[f"{name}.labels"].tolist() == split.labels.tolist()
        for view in ("none", "flip"):
            assert stored[f"{name}.{view}"].dtype == np.float16
            assert np.array_equal(stored[f"{name}.{view}"], split.views[view])
    metadata = header_of(content)["__metadata__"]
    assert {key: json.loads(value) for key, value in metadata.items()} == {
        KEY: {"fingerprints": {"test": test.fingerprint, "val": val.fingerprint}}
    }


@pytest.mark.parametrize("classes", [3, 256, 257, 1000])
def test_round_trip(classes: int) -> None:
    given = {"test": split_predictions(50, classes), "val": split_predictions(7, classes, seed=1)}
    given["val"].labels[0] = classes - 1
    found = Predictions.decode(Predictions(given).encode(), "file").splits
    assert found.keys() == given.keys()
    for name, split in given.items():
        assert found[name].fingerprint == split.fingerprint
        assert found[name].labels.dtype == np.int64
        assert np.array_equal(found[name].labels, split.labels)
        assert found[name].views.keys() == split.views.keys()
        assert all(np.array_equal(found[name].views[view], split.views[view]) for view in split.views)


def test_no_splits() -> None:
    assert dict(Predictions.decode(Predictions({}).encode(), "file").splits) == {}


def test_equal_predictions_are_equal_bytes() -> None:
    one, two = split_predictions(seed=1), split_predictions(seed=2)
    turned = SplitPredictions({view: one.views[view] for view in ("flip", "none")}, one.labels, one.fingerprint)
    strided = SplitPredictions({k: np.asfortranarray(v) for k, v in one.views.items()}, one.labels, one.fingerprint)
    content = Predictions({"test": one, "val": two}).encode()
    assert Predictions({"val": two, "test": turned}).encode() == content
    assert Predictions({"val": two, "test": strided}).encode() == content
    assert Predictions({"val": one, "test": two}).encode() != content


def test_decode_reads_a_file_made_by_hand() -> None:
    split = Predictions.decode(handmade(), "file").splits["test"]
    assert (split.fingerprint, split.labels.tolist()) == ("ab", [0, 2, 1, 2])
    assert split.views["none"][0].tolist() == [-6, -5, -4]
    assert split.views["flip"][3].tolist() == [4, 5, 6]


@pytest.mark.parametrize(
    "content",
    [
        handmade(labels=None),
        handmade(none=None, flip=None),
        handmade(none=LOGITS[:, :2]),
        handmade(none=LOGITS[:3]),
        handmade(none=LOGITS[..., None], flip=LOGITS[..., None]),
        handmade(none=LOGITS[0], flip=LOGITS[0]),
        handmade(none=LOGITS.astype(np.float32)),
        handmade(none=LOGITS.astype(np.int8), flip=LOGITS.astype(np.int8)),
        handmade(none=LOGITS * np.float16(np.nan)),
        handmade(flip=np.where(LOGITS == 0, np.float16(np.inf), LOGITS)),
        handmade(labels=LABELS[:3]),
        handmade(labels=LABELS[:, None]),
        handmade(labels=np.array(4, np.uint8)),
        handmade(labels=LABELS + 1),
        handmade(labels=LABELS.astype(np.int32) - 1),
        handmade(labels=LABELS.astype(np.float32)),
        handmade(labels=LABELS.astype(bool)),
        handmade(fingerprints={"val": "ab"}),
        handmade(fingerprints=["test"]),
        handmade(fingerprints="test"),
        handmade(metadata=""),
        handmade(metadata="null"),
        handmade(metadata="{}"),
        handmade(metadata="[" * 100_000),
        handmade(metadata='{"fingerprints":' * 100_000),
        save({"test.none": LOGITS}),
        save({"test.none": LOGITS}, metadata={"format": "pt"}),
    ],
)
def test_malformed_files(content: bytes) -> None:
    with pytest.raises(CorruptError, match="there/predictions is not a predictions file"):
        Predictions.decode(content, "there/predictions")


@pytest.mark.parametrize("content", [b"", b"\x80\x04K\x01.", b"PK\x03\x04" + bytes(40), b"{" * 40, bytes(40)])
def test_other_formats(content: bytes) -> None:
    with pytest.raises(CorruptError, match="there/predictions is "):
        Predictions.decode(content, "there/predictions")


def test_every_truncation_is_corrupt() -> None:
    content = handmade()
    for end in range(len(content)):
        with pytest.raises(CorruptError):
            Predictions.decode(content[:end], "file")


def test_a_flipped_bit_is_corrupt_or_leaves_well_formed_predictions() -> None:
    content = handmade()
    data = 8 + int.from_bytes(content[:8], "little")
    refused = 0
    for position in range(len(content)):
        flipped = bytearray(content)
        flipped[position] ^= 1 << position % 8
        try:
            split = Predictions.decode(bytes(flipped), "file").splits["test"]
        except CorruptError:
            refused += position < data
        else:
            assert split.labels.shape == (4,)
            assert set(split.labels.tolist()) <= {0, 1, 2}
            assert all(v.shape == (4, 3) and np.isfinite(v).all() for v in split.views.values())
    assert refused > 0.9 * data
