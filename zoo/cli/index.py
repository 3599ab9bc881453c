"""`zoo index`: make a folder of entries one that can be served."""

from pathlib import Path

import click

from zoo.errors import NotFoundError
from zoo.sources.folder import write_index

__all__ = ["command"]


@click.command("index")
@click.argument("folder", type=click.Path(path_type=Path))
@click.option("-q", "--quiet", is_flag=True, help="Print nothing but errors.")
def command(*, folder: Path, quiet: bool) -> None:
    """Write FOLDER/index.json, so that FOLDER can be a source over https:// or s3://; `zoo push` does it by itself.

    \b
      zoo index /srv/www/zoo
    """
    if not folder.is_dir():
        raise NotFoundError(f"{folder} is not a folder")
    names = write_index(folder)
    if not quiet:
        click.echo(f"{folder / 'index.json'}: {len(names)} entries")
