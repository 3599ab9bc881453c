"""Errors of a replica, as lines of the log."""

import json
import logging
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest

from export.serve import faults
from export.serve.faults import Faults


@pytest.fixture
def found() -> Iterator[Faults]:
    handler = Faults()
    yield handler
    handler.close()


def taken(handler: Faults) -> list[dict[str, Any]]:
    lines = handler.take()
    assert not any("\n" in line for line in lines)
    return [json.loads(line) for line in lines]


def test_an_error_is_a_line_with_its_traceback(found: Faults) -> None:
    try:
        raise ZeroDivisionError("nothing to divide by")
    except ZeroDivisionError:
        logging.getLogger("export.serve.app").exception("a request %s", "failed")
    (record,) = taken(found)
    written = datetime.fromisoformat(record.pop("time"))
    assert abs(written.astimezone(UTC).timestamp() - time.time()) < 5
    traceback = record.pop("traceback")
    assert record == {
        "level": "error",
        "message": "a request failed",
        "error": "ZeroDivisionError: nothing to divide by",
    }
    assert traceback.startswith("Traceback")
    assert __file__ in traceback
    assert taken(found) == []


@pytest.mark.parametrize("name", ["asyncio", "export.serve.replica", "uvicorn.error"])
def test_errors_only_and_of_the_server_only(found: Faults, name: str) -> None:
    logging.getLogger(name).warning("a warning")
    logging.getLogger("elsewhere").error("not ours")
    assert taken(found) == []
    logging.getLogger(name).error("an error")
    (record,) = taken(found)
    assert (record["message"], set(record)) == ("an error", {"time", "level", "message"})


def test_what_is_too_much_is_counted(found: Faults, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(faults, "_MOST", 3)
    for number in range(10):
        logging.getLogger("export").error("x%d%s", number, 10 * faults._LONGEST * "x")
    *records, last = taken(found)
    assert [record["message"][:2] for record in records] == ["x0", "x1", "x2"]
    assert {len(record["message"]) for record in records} == {faults._LONGEST}
    assert last["left_out"] == 7
    logging.getLogger("export").error("again")
    assert [record.get("message") for record in taken(found)] == ["again"]


def test_the_last_of_a_long_traceback_is_kept(found: Faults) -> None:
    try:
        raise ValueError(10 * faults._LONGEST * "x" + "the end")
    except ValueError:
        logging.getLogger("export").exception("failed")
    (record,) = taken(found)
    assert len(record["traceback"]) == faults._LONGEST
    assert record["traceback"].endswith("the end")


def test_what_is_closed_hears_nothing(found: Faults) -> None:
    found.close()
    logging.getLogger("export").error("an error")
    assert taken(found) == []
