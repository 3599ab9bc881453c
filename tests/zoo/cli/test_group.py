"""What both commands share: errors as one line, exit codes, and sub-commands that are imported late."""

import errno
import importlib.metadata
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import click
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.zoo.conftest import Outcome, file_entry
from zoo.cli import group as zoo_group
from zoo.cli.group import LazyGroup, complain, one_line, run
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError, StorageError, UsageError

COMMANDS = [
    "list",
    "info",
    "pull",
    "push",
    "index",
    "verify",
    "import",
    "import-predictions",
    "convert",
    "export",
    "soup",
    "rm",
    "train",
    "sweep",
    "compare",
    "completion",
]


def group_that(act: Callable[[], object]) -> click.Group:
    """Return a group whose one command, `go`, does `act`."""
    group = click.Group("tool")
    group.command("go")(lambda: act())  # noqa: PLW0108  # click names the command after it
    group.commands["go"] = group.commands.popitem()[1]
    return group


def raising(error: BaseException) -> Callable[[], object]:
    def act() -> object:
        raise error

    return act


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (MenagerieError("no"), 1, "error: no\n"),
        (UsageError("no"), 2, "error: no\n"),
        (NotFoundError("no"), 1, "error: no\n"),
        (CorruptError("no"), 1, "error: no\n"),
        (DataError("no"), 1, "error: no\n"),
        (StorageError("no"), 1, "error: no\n"),
        (MenagerieError("one\ntwo\r\nthree"), 1, "error: one two three\n"),
        (MenagerieError("a\x1b]0;owned\x07b\u202ec"), 1, "error: a\ufffd]0;owned\ufffdb\ufffdc\n"),
        (MenagerieError("a\x0bb\x85c\u2028d"), 1, "error: a b c d\n"),
        (
            OSError(errno.ENOENT, "No such file or directory", "a\nb\x1b[2J"),
            1,
            "error: a b\ufffd[2J: No such file or directory\n",
        ),
        (click.ClickException("\x9b2J"), 1, "error: \ufffd2J\n"),
        (click.ClickException("no"), 1, "error: no\n"),
        (click.UsageError("one\ntwo"), 2, "error: one two\n"),
        (OSError(errno.ENOSPC, "No space left on device", "there"), 1, "error: there: No space left on device\n"),
        (OSError("refused"), 1, "error: output: refused\n"),
    ],
    ids=repr,
)
def test_an_error_is_one_line_and_an_exit_code(
    capsys: pytest.CaptureFixture[str], error: Exception, code: int, line: str
) -> None:
    assert run(group_that(raising(error)), ["go"]) == code
    assert capsys.readouterr() == ("", line)
    for words in (["--debug", "go"], ["go", "--debug"]):
        with pytest.raises(type(error)) as caught:
            run(group_that(raising(error)), words)
        assert caught.value is error


@given(st.text())
def test_whatever_is_said_is_one_line_that_a_terminal_prints_as_it_is(text: str) -> None:
    said = one_line(text)
    assert said.isprintable()
    assert one_line(said) == said
    if text.isprintable():
        assert said == text


def test_a_complaint_is_on_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    complain("warning: one\ntwo\x1b[2J")
    assert capsys.readouterr() == ("", "warning: one two\ufffd[2J\n")


def test_what_the_library_warns_of_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    log = logging.getLogger("zoo.somewhere")
    for _ in range(2):
        assert run(group_that(lambda: log.warning("%s cannot be\nreached", "\x1b[2Jthere")), ["go"]) == 0
        assert capsys.readouterr() == ("", "warning: \ufffd[2Jthere cannot be reached\n")


def test_an_error_nobody_meant_is_not_hidden() -> None:
    with pytest.raises(ZeroDivisionError):
        run(group_that(raising(ZeroDivisionError())), ["go"])


@pytest.mark.parametrize("error", [KeyboardInterrupt(), click.Abort()], ids=repr)
def test_interrupted(capsys: pytest.CaptureFixture[str], error: BaseException) -> None:
    assert run(group_that(raising(error)), ["go"]) == 130
    assert capsys.readouterr().err.strip() == "error: interrupted"


@pytest.mark.parametrize(("result", "code"), [(None, 0), (0, 0), (1, 1), ("text", 0)])
def test_what_a_command_returns(result: object, code: int) -> None:
    assert run(group_that(lambda: result), ["go"]) == code


def test_without_arguments_the_help_is_shown_as_it_is(command: Callable[..., Outcome]) -> None:
    shown = command()
    assert (shown.code, shown.out) == (2, "")
    assert shown.err == command("--help").out
    assert not shown.err.startswith("error")


@pytest.mark.parametrize("flag", ["-h", "--help"])
def test_help_lists_every_command(command: Callable[..., Outcome], flag: str) -> None:
    shown = command(flag)
    assert (shown.code, shown.err) == (0, "")
    listed = [line.split()[0] for line in shown.out.partition("Commands:\n")[2].splitlines()]
    assert listed == COMMANDS


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_has_help_with_an_example(command: Callable[..., Outcome], name: str) -> None:
    shown = command(name, "--help")
    assert (shown.code, shown.err) == (0, "")
    assert f"\n    zoo {name} " in shown.out


def test_a_misspelled_command(command: Callable[..., Outcome]) -> None:
    shown = command("lsit", "--json")
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: no command 'lsit'")
    assert "did you mean 'list'?" in shown.err
    assert shown.err.endswith(f"; there are {', '.join(COMMANDS)}\n")


@pytest.mark.parametrize(
    "words", [["list", "--jsn"], ["--jsn"], ["info"], ["list", "a", "b"], ["verify", "--limit", "0"]]
)
def test_wrong_usage_is_one_line(command: Callable[..., Outcome], words: list[str]) -> None:
    shown = command(*words)
    assert (shown.code, shown.out) == (2, "")
    assert shown.err.startswith("error: ")
    assert shown.err.count("\n") == 1


def test_version(command: Callable[..., Outcome], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", {"menagerie": "1.2.3"}.__getitem__)
    shown = command("--version")
    assert (shown.code, shown.err) == (0, "")
    assert "version 1.2.3" in shown.out


def test_completion_of_commands_imports_none_of_them() -> None:
    lazy = LazyGroup("tool", commands_in={"missing": ("zoo.cli.no_such_module", "Not there."), "other": ("x", "")})
    context = click.Context(lazy, resilient_parsing=True)
    assert [(item.value, item.help) for item in lazy.shell_complete(context, "mi")] == [("missing", "Not there.")]
    assert [item.value for item in lazy.shell_complete(context, "")] == ["missing", "other"]
    assert [item.value for item in lazy.shell_complete(context, "--h")] == ["--help"]
    assert lazy.get_command(context, "misspelled") is None, "completion must not print an error"
    with pytest.raises(UsageError, match="no command 'misspelled'"):
        lazy.get_command(click.Context(lazy), "misspelled")


def test_a_command_is_imported_when_it_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    lazy = LazyGroup("tool", commands_in={"missing": ("zoo.cli.no_such_module", "Not there.")})
    context = click.Context(lazy)
    assert lazy.list_commands(context) == ["missing"]
    assert "missing  Not there." in lazy.get_help(context)
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        lazy.get_command(context, "missing")
    monkeypatch.setattr(sys, "argv", ["tool", "missing", "--debug"])
    with pytest.raises(ModuleNotFoundError, match="no_such_module"):
        run(lazy)
    assert isinstance(zoo_group, LazyGroup)


def console(*words: str, **options: object) -> "subprocess.CompletedProcess[str]":
    """Run `zoo` as its console script does; the last line of stderr says whether something slow was imported."""
    code = (
        "import atexit, sys; from zoo.cli import main; sys.argv[0] = 'zoo';"
        "slow = {'torch', 'huggingface_hub', 'fsspec', 'matplotlib'};"
        "atexit.register(lambda: print(bool(slow & sys.modules.keys()), file=sys.stderr)); main()"
    )
    return subprocess.run(  # type: ignore[call-overload,no-any-return]
        [sys.executable, "-W", "error", "-c", code, *words], text=True, check=False, **options
    )


@pytest.mark.parametrize(
    "words", [["--help"], ["list"], ["list", "--json"], ["list", "--help"], ["info", "listed"], ["info", "--help"]]
)
def test_the_console_script_imports_nothing_slow(
    words: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file_entry(tmp_path / "shelf", "listed")
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    done = console(*words, capture_output=True)
    assert (done.returncode, done.stderr) == (0, "False\n")
    assert "listed" in done.stdout or "--help" in words


def test_the_console_script_fails_with_one_line_and_its_code() -> None:
    done = console("info", "no-such-entry", capture_output=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("error: no entry 'no-such-entry' in ")
    assert done.stderr.endswith("\nFalse\n")
    assert done.stderr.count("\n") == 2


def test_nobody_reads_the_output() -> None:
    reader, writer = os.pipe()
    os.close(reader)
    done = console("list", "--json", stdout=writer, stderr=subprocess.PIPE)
    os.close(writer)
    assert (done.returncode, done.stderr) == (1, "False\n")
