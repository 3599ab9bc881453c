"""Options and arguments that are empty: an unset variable of the shell means nothing, least of all everything."""

from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.zoo.conftest import Outcome, listing
from zoo.cli.types import PATH, TEXT, FiniteRange

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]


@pytest.mark.parametrize("text", ["", " ", "\t\n"])
def test_what_is_empty_is_refused(text: str) -> None:
    for kind in (TEXT, PATH):
        with pytest.raises(click.BadParameter, match="nothing is in it"):
            kind.convert(text, None, None)


def test_what_is_not_is_kept() -> None:
    assert TEXT.convert(" a b ", None, None) == " a b "
    assert PATH.convert("a b/c", None, None) == Path("a b/c")
    assert PATH.convert(Path("a"), None, None) == Path("a")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("nan", "'nan' is not a finite number"),
        ("inf", "'inf' is not a finite number"),
        ("-1", "not in the range"),
        ("much", "not a valid float"),
    ],
)
def test_numbers_that_are_none(text: str, says: str) -> None:
    with pytest.raises(click.BadParameter, match=says):
        FiniteRange(0).convert(text, None, None)
    assert FiniteRange(0).convert("2.5", None, None) == 2.5


@pytest.mark.parametrize(
    ("words", "option"),
    [
        (["list", "--from", ""], "--from"),
        (["list", "--revision", "", "--from", "hf://team/zoo"], "--revision"),
        (["list", ""], "[PATTERN]"),
        (["info", ""], "NAME..."),
        (["info", "a-seed1", "--from", ""], "--from"),
        (["pull", ""], "NAME..."),
        (["pull", "a-seed1", ""], "NAME..."),
        (["pull", "a-seed1", "--from", " "], "--from"),
        (["push", "", "--to", "team"], "NAME..."),
        (["push", "a-seed1", "--to", ""], "--to"),
        (["push", "a-seed1", "--to", "team", "--from", ""], "--from"),
        (["verify", ""], "[NAME...]"),
        (["verify", "--all", "--from", ""], "--from"),
        (["verify", "--all", "--predictions", "--data", ""], "--data"),
        (["rm", ""], "NAME..."),
        (["index", ""], "FOLDER"),
        (["convert", "", "--to-name", "new"], "NAME"),
        (["convert", "a-seed1", "--to-name", ""], "--to-name"),
        (["convert", "a-seed1", "--to-name", "new", "--to", ""], "--to"),
        (["import", "", "--arch", "resnet20", "--name", "new"], "FILE"),
        (["import", "net.pth", "--arch", "resnet20", "--name", ""], "--name"),
        (["import", "net.pth", "--arch", "resnet20", "--name", "new", "--to", ""], "--to"),
        (["import-predictions", "theirs.npz", "--name", "new", "--to", ""], "--to"),
        (["soup", "", "--name", "new", "--uniform"], "NAME..."),
        (["soup", "a-*", "--name", "new", "--uniform", "--to", ""], "--to"),
        (["train", "", "--seed", "1"], "RECIPE"),
        (["train", "fastnet", "--seed", "1", "--to", ""], "--to"),
    ],
)
def test_every_command_refuses_what_is_empty(
    command: Command, shelf: Path, zoo_home: Path, words: list[str], option: str
) -> None:
    before = listing(shelf)
    shown = command(*words)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == f"error: Invalid value for '{option}': nothing is in it\n"
    assert not zoo_home.exists()
    assert listing(shelf) == before
