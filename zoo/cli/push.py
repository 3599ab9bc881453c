"""`zoo push`: publish entries."""

import click

from zoo import store
from zoo.cli.complete import entry_names
from zoo.push import plan_push, push

__all__ = ["command"]


@click.command("push")
@click.argument("patterns", metavar="NAME...", nargs=-1, required=True, shell_complete=entry_names)
@click.option("--to", "target", required=True, help="Folder, hf://org/repo[@branch][/sub] or s3://bucket[/sub].")
@click.option("--from", "source", help="Source that has them [default: all sources].")
@click.option("--message", help="Of the commit, on the Hub.")
@click.option("--replace", is_flag=True, help="Replace entries of these names in the target.")
@click.option("--dry-run", is_flag=True, help="Only say what would be pushed.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(
    *,
    patterns: tuple[str, ...],
    target: str,
    source: str | None,
    message: str | None,
    replace: bool,
    dry_run: bool,
    quiet: bool,
) -> None:
    """Write whole, verified entries to a source, each in the folder of its name, and the source's index.

    An only entry whose name is the last part of the URL goes to the root: its card is then the repository's.

    \b
      zoo push 'mine-seed*' --to /mnt/team-zoo
      zoo push 'mine-seed*' --to hf://team/zoo
      zoo push mine-seed1 --to hf://team/mine-seed1 --message 'First seed'
    """
    entries = list({e.name: e for p in patterns for e in store.resolve(p, store.asked(source))}.values())
    plan = (
        plan_push(entries, target, replace=replace)
        if dry_run
        else push(entries, target, replace=replace, message=message)
    )
    for name in plan.same:
        if not quiet:
            click.echo(f"{name}: there already, the same")
    for name, about in plan.new.items():
        if dry_run or not quiet:
            where = "/".join(part for part in (target.rstrip("/"), about.path) if part)
            click.echo(
                f"{name}: {'would push' if dry_run else 'pushed'} {sum(about.files.values()) / 1e6:.1f} MB to {where}"
            )
