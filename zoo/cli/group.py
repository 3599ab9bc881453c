"""What both commands share: sub-commands that are imported when they run, and messages as one line of stderr."""

import importlib
import logging
import sys
from collections.abc import Mapping
from typing import Any

import click
from click.shell_completion import CompletionItem

from zoo.cli.table import printable
from zoo.errors import MenagerieError, UsageError
from zoo.names import suggestion

__all__ = ["LazyGroup", "complain", "one_line", "run"]

_LOGS = [logging.getLogger(package) for package in ("zoo", "tta", "training", "ensemble", "export")]


class LazyGroup(click.Group):
    """A group whose sub-commands live in modules of their own: `module.command`, imported when needed.

    Args:
        commands_in: sub-command name -> (module, one line of help).
    """

    def __init__(self, *args: Any, commands_in: Mapping[str, tuple[str, str]], **kwargs: Any) -> None:  # noqa: ANN401
        super().__init__(*args, **kwargs)
        self._modules = commands_in

    def list_commands(self, ctx: click.Context) -> list[str]:
        """Return the names of the sub-commands."""
        del ctx
        return list(self._modules)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        """Import and return a sub-command."""
        if cmd_name not in self._modules:
            if ctx.resilient_parsing:  # for the shell's completion, which must print nothing but what it offers
                return None
            raise UsageError(
                f"no command {cmd_name!r}{suggestion(cmd_name, self._modules)}; there are {', '.join(self._modules)}"
            )
        command: click.Command = importlib.import_module(self._modules[cmd_name][0]).command
        return command

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """Offer sub-commands, without importing them, and the group's own options."""
        names = [CompletionItem(n, help=text) for n, (_, text) in self._modules.items() if n.startswith(incomplete)]
        return names + click.Command.shell_complete(self, ctx, incomplete)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """List the sub-commands without importing them."""
        del ctx
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in self._modules.items()])


def run(group: click.Group, arguments: list[str] | None = None) -> int:
    """Run a command and return its exit code: 0 done, 1 failed, 2 usage, 130 interrupted.

    Errors are one line on stderr; `--debug` anywhere on the command line shows the traceback instead.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    debug = "--debug" in words
    for log in _LOGS:
        if not any(isinstance(handler, _Complain) for handler in log.handlers):
            log.addHandler(_Complain(logging.WARNING))
    try:
        result = group.main([w for w in words if w != "--debug"], standalone_mode=False)
    except (MenagerieError, click.ClickException, OSError) as error:
        if debug:
            raise
        return _report(error)
    except (click.Abort, KeyboardInterrupt):
        complain("error: interrupted")
        return 130
    return result if isinstance(result, int) else 0


def _report(error: MenagerieError | click.ClickException | OSError) -> int:
    """Print an error as one line on stderr and return the exit code it stands for."""
    if isinstance(error, click.exceptions.NoArgsIsHelpError):
        error.show()  # the help text, as it is
        return error.exit_code
    if isinstance(error, MenagerieError):
        code, message = error.exit_code, str(error)
    elif isinstance(error, click.ClickException):
        code, message = error.exit_code, error.format_message()
    else:
        code, message = 1, f"{error.filename or 'output'}: {error.strerror or error}"
    complain(f"error: {message}")
    return code


def one_line(text: str) -> str:
    """Return text as one line that a terminal prints as it is: servers and cards may have written parts of it."""
    return printable(" ".join(text.splitlines()))


class _Complain(logging.Handler):
    """Prints what the library warns of."""

    def emit(self, record: logging.LogRecord) -> None:
        complain(f"{record.levelname.lower()}: {record.getMessage()}")


def complain(text: str) -> None:
    """Print an error, a warning or a note on stderr, as one line."""
    click.echo(one_line(text), err=True)
