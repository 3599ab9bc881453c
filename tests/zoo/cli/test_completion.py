"""`zoo completion`: the scripts that shells read."""

import shutil
import subprocess

import pytest
from click.testing import CliRunner

from zoo.cli.completion import command


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_script_is_for_both_programs(shell: str) -> None:
    shown = CliRunner().invoke(command, [shell])
    assert shown.exit_code == 0
    for program in ("zoo", "ensemble"):
        assert f"_{program.upper()}_COMPLETE={shell}_complete" in shown.stdout
        assert f"_{program}_completion" in shown.stdout
    checker = shutil.which(shell)
    if checker:
        subprocess.run([checker, "-n"], input=shown.stdout, text=True, check=True)


@pytest.mark.parametrize("words", [[], ["tcsh"]])
def test_another_shell(words: list[str]) -> None:
    shown = CliRunner().invoke(command, words)
    assert shown.exit_code == 2
    assert "zsh" in shown.stderr
