"""docs/ensembles.md shows what its commands print: they run in its order, and every number is compared.

Percentages are equal; other numbers may differ by one in their last digit, as fits do between machines.
"""

import re
import shlex
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path

import pytest

from ensemble.cli import group
from zoo.cli.group import run

PAGE = Path(__file__).parent.parent / "docs" / "ensembles.md"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*(?: %)?")
SECONDS = re.compile(r"\d+\.\d+ s\b")


def sessions() -> Iterator[tuple[str, list[str]]]:
    """Yield each command that is shown with a `$`, and the lines shown below it."""
    blocks = re.findall(r"^ {4}\$ (.+)\n((?: {4}.*\n)*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    for command, output in blocks:
        yield command, [line[4:].rstrip() for line in output.splitlines()]


def words_and_numbers(lines: list[str]) -> tuple[list[str], list[str]]:
    """Part lines into what must be equal and what must be near; how long something took counts for neither."""
    text = SECONDS.sub("s", "\n".join(lines))
    return NUMBER.sub("#", text).split(), NUMBER.findall(text)


def near(printed: str, shown: str) -> bool:
    """Say whether two numbers are the same, or, if they are no percentages, one apart in their last digit."""
    if shown.endswith("%"):
        return printed == shown
    value, expected = (Decimal(number.replace(",", "")) for number in (printed, shown))
    return abs(value - expected) <= Decimal(1).scaleb(-len(shown.partition(".")[2]))


def test_numbers_that_are_near() -> None:
    assert near("1,234", "1,235")
    assert near("0.4701", "0.4702")
    assert not near("0.4701", "0.4703")
    assert near("94.71 %", "94.71 %")
    assert not near("94.72 %", "94.71 %")


def test_the_page_shows_what_its_commands_print(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    shown = list(sessions())
    assert len(shown) == 5
    for command, expected in shown:
        assert run(group, shlex.split(command)[1:]) == 0, command
        printed = [line.rstrip() for line in capsys.readouterr().out.rstrip().splitlines()]
        words, numbers = words_and_numbers(printed)
        expected_words, expected_numbers = words_and_numbers(expected)
        assert words == expected_words, command
        pairs = zip(numbers, expected_numbers, strict=True)
        assert [pair for pair in pairs if not near(*pair)] == [], command
