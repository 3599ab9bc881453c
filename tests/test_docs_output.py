"""docs/ensembles.md shows what its commands print: they run in its order, and every number is compared."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from ensemble.cli import group
from zoo.cli.group import run

PAGE = Path(__file__).parent.parent / "docs" / "ensembles.md"
NUMBER = re.compile(r"-?\d[\d,]*\.?\d*")
SECONDS = re.compile(r"\d+\.\d+ s\b")


def sessions() -> Iterator[tuple[str, list[str]]]:
    """Yield each command that is shown with a `$`, and the lines shown below it."""
    blocks = re.findall(r"^ {4}\$ (.+)\n((?: {4}.*\n)*)", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    for command, output in blocks:
        yield command, [line[4:].rstrip() for line in output.splitlines()]


def words_and_numbers(lines: list[str]) -> tuple[list[str], list[float]]:
    """Part lines into what must be equal and what must be near; how long something took counts for neither."""
    text = SECONDS.sub("s", "\n".join(lines))
    numbers = [float(found.replace(",", "")) for found in NUMBER.findall(text)]
    return NUMBER.sub("#", text).split(), numbers


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
        assert numbers == pytest.approx(expected_numbers, rel=2e-3, abs=2e-4), command
