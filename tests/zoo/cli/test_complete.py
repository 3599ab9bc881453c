"""Completion on the Tab key, by the protocol that the shells speak, and in a real bash."""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest

from tests.zoo.conftest import file_entry
from zoo.cli import complete

ROOT = Path(__file__).parents[3]
pytestmark = pytest.mark.usefixtures("package")


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """Return a folder with `zoo` and `ensemble` as they are when installed, which also say whether torch was loaded."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("zoo", "ensemble"):
        code = (
            f"#!{sys.executable}\nimport sys\nsys.path.insert(0, {str(ROOT)!r})\nfrom {name}.cli import main\n"
            "try:\n    main()\nfinally:\n    slow = {'torch', 'huggingface_hub', 'fsspec'} & set(sys.modules)\n"
            "    if slow:\n        print('imported', slow)\n"
        )
        (folder / name).write_text(code)
        (folder / name).chmod(0o755)
    return folder


@pytest.fixture
def shelf(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "shelf"
    for name in ("tiny-seed1", "tiny-seed2", "other"):
        file_entry(folder, name)
    monkeypatch.setenv("ZOO_SOURCE", str(folder))
    return folder


@pytest.fixture
def offered(programs: Path) -> Callable[..., list[str]]:
    """Return a function that gives the words of a line, and gets what is offered for the last one."""

    def ask(*words: str) -> list[str]:
        variable = f"_{words[0].upper()}_COMPLETE"
        environment = {
            **os.environ,
            variable: "bash_complete",
            "COMP_WORDS": " ".join(words[:-1]) + " " + words[-1],
            "COMP_CWORD": str(len(words) - 1),
        }
        done = subprocess.run(
            [programs / words[0]], env=environment, text=True, capture_output=True, check=True, timeout=60
        )
        assert done.stderr == "", "it would be printed into the line that is being typed"
        lines = [line.partition(",") for line in done.stdout.splitlines() if line]
        assert all(kind in {"plain", "file", "dir"} for kind, *_ in lines), done.stdout
        return [value for kind, _, value in lines if kind == "plain"]

    return ask


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (("zoo", "inf"), ["info"]),
        (("zoo", "list", "--js"), ["--json"]),
        (("zoo", "info", "tiny-"), ["tiny-seed1", "tiny-seed2"]),
        (("zoo", "info", "tiny-seed1", "tiny-"), ["tiny-seed2"]),
        (("zoo", "info", "--json", "oth"), ["other"]),
        (("zoo", "no-such-command", "tiny-"), []),
        (("ensemble", "ev"), ["eval"]),
        (("ensemble", "eval", "--memb"), ["--members"]),
    ],
)
@pytest.mark.usefixtures("shelf")
def test_what_is_offered(offered: Callable[..., list[str]], words: tuple[str, ...], wanted: list[str]) -> None:
    assert offered(*words) == wanted


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.usefixtures("shelf")
def test_in_a_real_bash(programs: Path) -> None:
    source = f"{sys.executable} -c \"from zoo.cli.completion import command; command(['bash'], standalone_mode=False)\""
    script = (
        f'eval "$({source})"; complete -p zoo ensemble; COMP_WORDS=(zoo info tiny-); COMP_CWORD=2; '
        "_zoo_completion zoo tiny- info; echo ${COMPREPLY[@]}"
    )
    environment = {**os.environ, "PATH": f"{programs}{os.pathsep}{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(["bash", "-c", script], env=environment, text=True, capture_output=True, check=True)
    assert done.stdout.splitlines()[-1] == "tiny-seed1 tiny-seed2"
    assert "_ensemble_completion" in done.stdout
    assert done.stderr == ""


def values(
    function: Callable[[click.Context, click.Parameter, str], list[click.shell_completion.CompletionItem]],
    incomplete: str,
    **given: object,
) -> list[str]:
    """Return what a function of the module offers for a word."""
    context = click.Context(click.Command("x"))
    context.params.update(given)
    return [item.value for item in function(context, click.Argument(["patterns"]), incomplete)]


@pytest.mark.usefixtures("shelf")
def test_names(tmp_path: Path) -> None:
    file_entry(tmp_path / "team", "theirs")
    assert values(complete.entry_names, "") == ["other", "tiny-seed1", "tiny-seed2"]
    assert values(complete.entry_names, "t", source=str(tmp_path / "team")) == ["theirs"]
    assert values(complete.entry_names, "t", patterns=("tiny-seed2",)) == ["tiny-seed1"]
    assert values(complete.entry_names, "x") == []


def test_only_the_cache_can_be_deleted(zoo_home: Path, shelf: Path) -> None:
    assert values(complete.cached_names, "") == []
    shutil.copytree(shelf / "tiny-seed1", zoo_home / "entries" / "tiny-seed1")
    assert values(complete.cached_names, "") == ["tiny-seed1"]


@pytest.mark.usefixtures("shelf")
@pytest.mark.parametrize(
    ("word", "wanted"),
    [
        ("o", ["other"]),
        ("tiny-seed1,o", ["tiny-seed1,other"]),
        ("tiny-seed1=1.5,tiny", ["tiny-seed1=1.5,tiny-seed2"]),
        ("other,", ["other,tiny-seed1", "other,tiny-seed2"]),
    ],
)
def test_members(word: str, wanted: list[str]) -> None:
    assert values(complete.member_names, word) == wanted


def test_recipes_and_files() -> None:
    names = [path.stem for path in sorted((ROOT / "training" / "recipes").glob("resnet*.toml"))]
    assert len(names) > 1
    assert values(complete.recipe_names, "resnet") == names
    (item,) = complete.recipe_names(click.Context(click.Command("x")), click.Argument(["recipe"]), "./mine")
    assert (item.value, item.type) == ("./mine", "file")


def test_sources() -> None:
    items = complete.source_names(click.Context(click.Command("x")), click.Option(["--from"]), "h")
    assert [(item.value, item.type) for item in items] == [("hf://", "plain"), ("https://", "plain"), ("h", "dir")]


@pytest.mark.parametrize("source", ["/no/such/folder", "ftp://there", "hf://"])
def test_nothing_is_offered_rather_than_an_error(source: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert values(complete.entry_names, "", source=source) == []
    monkeypatch.setenv("ZOO_SOURCE", source)
    assert values(complete.entry_names, "") == []
