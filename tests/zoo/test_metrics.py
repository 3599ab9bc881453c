"""The training curve of an entry: a round trip, what run folders write, and everything that is not one."""

import csv
import math
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from zoo.errors import CorruptError
from zoo.metrics import METRICS, decode_metrics, encode_metrics

ROWS = [{"epoch": 1, "train_loss": 1.5, "val_accuracy": 0.25}, {"epoch": 2, "train_loss": 1e-05, "val_accuracy": 0.5}]


def test_the_text() -> None:
    assert METRICS == "metrics.csv"
    assert encode_metrics(ROWS) == b"epoch,train_loss,val_accuracy\n1,1.5,0.25\n2,1e-05,0.5\n"


def test_it_is_read_as_csv_is(tmp_path: Path) -> None:
    path = tmp_path / METRICS
    path.write_bytes(encode_metrics(ROWS))
    with path.open(newline="") as file:
        assert [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)] == ROWS
    assert decode_metrics(path.read_bytes(), "here") == ROWS


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_round_trip(values: list[float]) -> None:
    rows = [{"epoch": float(i), "train_loss": value} for i, value in enumerate(values)]
    assert decode_metrics(encode_metrics(rows), "here") == rows


def test_what_is_not_finite_is_a_gap() -> None:
    rows = decode_metrics(b"epoch,train_loss\n1,nan\n2,inf\n3,-inf\n4,1\n", "here")
    assert [math.isnan(row["train_loss"]) for row in rows] == [True, True, True, False]


def test_a_run_of_no_epochs() -> None:
    assert decode_metrics(b"epoch,train_loss\n", "here") == []


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\n",
        b"train_loss\n1\n",
        b"epoch,epoch\n1,2\n",
        b"epoch,train_loss\n1\n",
        b"epoch,train_loss\n1,2,3\n",
        b"epoch,train_loss\n1,high\n",
        b'epoch,"train\n1,2\n',
        b"epoch\n1\x00\n",
        b"\xff\xfe",
        b"epoch\n" + b"1\n" * (1 << 23),
        b"epoch," + b"x" * 200_000 + b"\n",
    ],
    ids=lambda content: repr(content[:20]),
)
def test_not_a_curve(content: bytes) -> None:
    with pytest.raises(CorruptError, match=r"^there/metrics\.csv is not the training curve of an entry$"):
        decode_metrics(content, "there/metrics.csv")


@given(st.binary(max_size=60))
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    try:
        rows = decode_metrics(b"epoch,a\n" + content, "here")
    except CorruptError:
        return
    assert all(row.keys() == {"epoch", "a"} for row in rows)
