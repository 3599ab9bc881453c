"""Notes of where entries came from."""

import json
from pathlib import Path

import pytest

from zoo.origins import Origin, forget_origin, read_origin, write_origin

NOTE = Origin("hf://team/zoo", "0" * 64, "predictions")


def test_there_and_back(zoo_home: Path) -> None:
    assert read_origin("a-seed1") is None
    write_origin("a-seed1", NOTE)
    assert read_origin("a-seed1") == NOTE
    assert read_origin("a-seed2") is None
    assert [str(p.relative_to(zoo_home)) for p in zoo_home.rglob("*.json")] == ["origins/a-seed1.json"]
    forget_origin("a-seed1")
    forget_origin("a-seed1")
    assert read_origin("a-seed1") is None


GOOD = {"source": "s3://x", "sums": "0" * 64, "share": "all"}


@pytest.mark.parametrize(
    "note",
    ["", "{", "[]", "null", '{"source": "x"}']
    + [json.dumps({**GOOD, **wrong}) for wrong in ({"source": 3}, {"sums": "x"}, {"share": "half"}, {"more": 1})],
)
def test_a_note_that_cannot_be_read_is_none(zoo_home: Path, note: str) -> None:
    write_origin("a-seed1", NOTE)
    (zoo_home / "origins" / "a-seed1.json").write_text(note)
    assert read_origin("a-seed1") is None
