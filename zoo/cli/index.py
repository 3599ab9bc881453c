"""`zoo index`: make a folder of entries one that can be served."""

import json
from pathlib import Path

import click

from zoo.cli.group import complain
from zoo.cli.types import PATH
from zoo.errors import NotFoundError
from zoo.sources.folder import write_index

__all__ = ["command"]


@click.command("index")
@click.argument("folder", type=PATH)
@click.option("--json", "as_json", is_flag=True, help="JSON on stdout: index, the file, and entries, their names.")
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, folder: Path, as_json: bool, quiet: bool) -> int:
    """Write FOLDER/index.json, so that FOLDER can be a source over https:// or s3://; `zoo push` does it by itself.

    \b
      zoo index /srv/www/zoo
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    (found, wrong), path = write_index(folder), folder / "index.json"
    if as_json:
        click.echo(json.dumps({"index": str(path), "entries": list(found), "left_out": wrong}, indent=1))
    elif not quiet:
        click.echo(f"{path}: {len(found)} entries")
    for name, why in wrong.items():
        complain(f"error: {name} is left out: {why}")
    return 1 if wrong else 0
