"""Copies of what is served: files on disk may change while replicas start, and other machines have none."""

import shutil
from collections.abc import Callable
from pathlib import Path

from zoo.errors import NotFoundError, StorageError, UsageError

__all__ = ["CHUNK", "check_model", "copied_files", "copy_model", "fetch_model", "model_files", "read_chunk"]

CHUNK = 8 << 20
"""Bytes that travel between machines at once."""


def check_model(path: Path) -> None:
    """Look at what is to be served, quickly.

    Raises:
        NotFoundError: there is no such file, or no stage in a folder.
        CorruptError: it is not a graph of `ensemble export`, or lacks its weights.
        UsageError: it is one stage of a cascade.
    """
    model_files(path)


def model_files(path: Path) -> list[Path]:
    """Return the graphs of a model (one, or the stages of a cascade's folder), and the files of their weights.

    Errors are those of `check_model`.
    """
    from export.runtime.cascade import stage_files  # noqa: PLC0415  # the board has no use for ONNX Runtime
    from export.runtime.session import look  # noqa: PLC0415

    graphs = stage_files(path) if path.is_dir() else [path]
    if not graphs:
        raise NotFoundError(f"{str(path)!r} has no stage1.onnx: give a graph, or a cascade's folder")
    found: list[Path] = []
    for graph in graphs:
        if not graph.is_file():
            raise NotFoundError(f"{str(graph)!r} does not exist: give a graph that `ensemble export` wrote")
        about, _, weights = look(graph)
        if about.stage is not None and graph == path:
            raise UsageError(f"{path} is stage {about.stage} of a cascade: give its folder")
        found += [graph, *weights]
    return list(dict.fromkeys(found))


def copy_model(path: Path, folder: Path) -> Path:
    """Copy the files of a model into a new folder, and return where it is now.

    Args:
        path: of a graph, or of a cascade's folder: of that, nothing but its stages is copied.
        folder: which will have nothing else.

    Raises:
        CorruptError, NotFoundError, UsageError: as in `check_model`.
        StorageError: it cannot be read, or not be written.
    """
    files = model_files(path)
    target = folder / (path.resolve().name if path.is_dir() else path.name)
    try:
        place = target if path.is_dir() else folder
        place.mkdir(parents=True)
        for file in files:
            shutil.copyfile(file, place / file.name)
    except FileNotFoundError as error:
        raise NotFoundError(f"{error.filename} does not exist") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be copied to {folder}: {error.strerror}") from error
    return target


def copied_files(folder: Path) -> list[str]:
    """Return what `copy_model` wrote into a folder, relative to it."""
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def read_chunk(folder: Path, name: str, offset: int) -> bytes:
    """Return a part of one of a copied model's files, empty at its end.

    Args:
        folder: that `copy_model` wrote.
        name: of a file, relative to the folder.
        offset: where the part begins.
    """
    if name not in copied_files(folder):
        raise NotFoundError(f"the model has no file {name!r}")
    with (folder / name).open("rb") as file:
        file.seek(offset)
        return file.read(CHUNK)


def fetch_model(names: list[str], read: Callable[[str, int], bytes], folder: Path) -> None:
    """Write a model that another machine has into a folder.

    Args:
        names: of its files, relative to the folder that they are in.
        read: file and offset -> the bytes there, empty at its end.
        folder: for the files.

    Raises:
        StorageError: the disk refuses.
    """
    try:
        for name in names:
            target = folder / name
            target.parent.mkdir(parents=True, exist_ok=True)
            with target.open("wb") as file:
                while part := read(name, file.tell()):
                    file.write(part)
    except OSError as error:
        raise StorageError(f"the model cannot be copied to {folder}: {error.strerror}") from error
