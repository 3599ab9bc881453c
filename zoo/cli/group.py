"""What both commands share: sub-commands that are imported when they run, and errors as one line."""

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import click

from zoo.errors import MenagerieError, UsageError
from zoo.names import suggestion

__all__ = ["LazyGroup", "run"]


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
        del ctx
        if cmd_name not in self._modules:
            raise UsageError(
                f"no command {cmd_name!r}{suggestion(cmd_name, self._modules)}; there are {', '.join(self._modules)}"
            )
        command: click.Command = importlib.import_module(self._modules[cmd_name][0]).command
        return command

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
    words = [w for w in words if w != "--debug"]
    try:
        result = group.main(words, standalone_mode=False)
    except MenagerieError as error:
        code, message = error.exit_code, str(error)
        if debug:
            raise
    except click.ClickException as error:
        code, message = error.exit_code, error.format_message().replace("\n", " ")
        if debug:
            raise
    except (click.Abort, KeyboardInterrupt):
        code, message = 130, "interrupted"
    except OSError as error:
        if isinstance(error, BrokenPipeError):
            sys.stderr.close()
            return 1
        if debug:
            raise
        code, message = 1, f"{error.filename or 'file'}: {error.strerror or error}"
    else:
        return result if isinstance(result, int) else 0
    click.echo(f"error: {message}", err=True)
    return code
