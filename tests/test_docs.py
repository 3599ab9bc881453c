"""The commands that the documentation shows are ones that the command line takes."""

import re
import shlex
from pathlib import Path

import click
import pytest

from ensemble.cli import group as ensemble
from training.recipe_file import load_recipe, recipe_names
from zoo.cli import group as zoo
from zoo.places import builtin

ROOT = Path(__file__).parent.parent
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").glob("*.md"))]
GROUPS = {"zoo": zoo, "ensemble": ensemble}
STAND_INS = {"RECIPE": "fastnet", "RECIPE_A": "fastnet", "RECIPE_B": "resnet9", "N": "9"}
"""What a reader puts in the place of a word in capitals."""


def shown() -> list[tuple[str, str]]:
    """Return (page, command) for every indented line that calls one of ours."""
    found = []
    for page in PAGES:
        for line in page.read_text(encoding="utf-8").splitlines():
            command = re.fullmatch(r" {4}(?:\$ |torchrun .*--no-python )?((?:zoo|ensemble) [a-z].*?)(?:\s+#.*)?", line)
            if command:
                found.append((page.name, command[1]))
    return found


@pytest.mark.parametrize(("page", "text"), shown())
def test_the_command_line_takes_it(page: str, text: str) -> None:
    name, sub, *arguments = shlex.split(text)
    words = [STAND_INS.get(word, word) for word in arguments]
    command = GROUPS[name].get_command(click.Context(GROUPS[name]), sub)
    assert command is not None, page
    context = command.make_context(sub, words)  # raises for what it does not know
    if sub == "train":
        load_recipe(context.params["recipe"], context.params["overrides"])
    if sub in {"train", "distill"} and not any(context.params[o] for o in ("name", "to", "dry_run")):
        recipe = context.params["recipe"] if sub == "train" else f"{context.params['student']}-distilled"
        assert builtin().get(f"{recipe}-seed{context.params['seed']}") is None  # it would be refused


def test_nothing_is_left_to_fill_in() -> None:
    for page in PAGES:
        assert not re.findall(r"\b[A-Z]+_MEASURED\b|\bTODO\b|\bTBD\b", page.read_text(encoding="utf-8")), page.name


def test_there_are_commands_to_look_at() -> None:
    assert len(shown()) > 12


def test_every_recipe_is_in_the_table() -> None:
    table = (ROOT / "docs" / "recipes.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `([a-z0-9-]+)` \|", table, re.MULTILINE)
    assert sorted(rows) == recipe_names()
