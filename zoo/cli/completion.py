"""`zoo completion`: what a shell needs to complete commands, options and names."""

import click
from click.shell_completion import get_completion_class

from zoo.errors import UsageError

__all__ = ["command"]

_PROGRAMS = ("zoo", "ensemble")


@click.command("completion")
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def command(*, shell: str) -> None:
    """Print the script that makes a shell complete what is typed after `zoo` and `ensemble`, on the Tab key.

    \b
      zoo completion bash                         # for this one, put the next line into ~/.bashrc
      eval "$(zoo completion bash)"
      eval "$(zoo completion zsh)"                # ~/.zshrc
      zoo completion fish > ~/.config/fish/conf.d/menagerie.fish
    """
    script = get_completion_class(shell)
    if script is None:
        raise UsageError(f"this version of click knows no completion for {shell}")
    for program in _PROGRAMS:
        variable = f"_{program.upper()}_COMPLETE"
        click.echo(script(click.Group(program), {}, program, variable).source())
