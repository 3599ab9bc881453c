"""Copies of what is served: files on disk may change while replicas start, and other machines have none."""

import shutil
from collections.abc import Callable
from pathlib import Path

from export.metadata import read_metadata
from zoo.errors import CorruptError, NotFoundError, StorageError

__all__ = ["CHUNK", "check_model", "copy_model", "fetch_model", "model_files", "read_chunk"]

CHUNK = 8 << 20
"""Bytes that travel between machines at once."""


def check_model(path: Path) -> None:
    """Look at what is to be served, quickly.

    Raises:
        NotFoundError: there is no such file, or folder of a cascade.
        CorruptError: it is not a graph of `ensemble export`.
    """
    if path.is_dir():
        if not model_files(path):
            raise NotFoundError(f"{str(path)!r} is an empty folder: give a graph, or a cascade's folder")
        return
    if not path.is_file():
        raise NotFoundError(f"{str(path)!r} does not exist: give a graph that `ensemble export` wrote")
    import onnx  # noqa: PLC0415  # for this only

    try:
        model = onnx.load(str(path), load_external_data=False)
    except Exception as error:  # protobuf's error is of a package without types
        raise CorruptError(f"{path} is not an ONNX graph") from error
    read_metadata({prop.key: prop.value for prop in model.metadata_props}, path)


def model_files(path: Path) -> list[Path]:
    """Return the files of a graph (itself, and its external data if it has some) or of a cascade's folder."""
    if path.is_dir():
        return sorted(file for file in path.rglob("*") if file.is_file())
    beside = path.with_name(path.name + ".data")
    return [path, beside] if beside.is_file() else [path]


def copy_model(path: Path, folder: Path) -> Path:
    """Copy a graph or a cascade's folder into a new folder, and return where it is now.

    Raises:
        NotFoundError, StorageError: it cannot be read, or not be written.
    """
    target = folder / path.name
    try:
        folder.mkdir(parents=True)
        if path.is_dir():
            shutil.copytree(path, target)
        else:
            for file in model_files(path):
                shutil.copyfile(file, folder / file.name)
    except FileNotFoundError as error:
        raise NotFoundError(f"{error.filename} does not exist") from error
    except shutil.Error as error:  # of `copytree`, a list
        raise StorageError(f"{path} cannot be copied to {folder}: {error.args[0][0][2]}") from error
    except OSError as error:
        raise StorageError(f"{path} cannot be copied to {folder}: {error.strerror}") from error
    return target


def read_chunk(path: Path, name: str, offset: int) -> bytes:
    """Return a part of one of a model's files, empty at its end.

    Args:
        path: of the model.
        name: of a file, relative to the model's parent.
        offset: where the part begins.
    """
    if path.parent / name not in model_files(path):
        raise NotFoundError(f"{path} has no file {name!r}")
    with (path.parent / name).open("rb") as file:
        file.seek(offset)
        return file.read(CHUNK)


def fetch_model(names: list[str], read: Callable[[str, int], bytes], folder: Path) -> Path:
    """Write a model that another machine has into a folder, and return where it is.

    Args:
        names: of its files, relative to the model's parent; the first part of each is the model's own or its data's.
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
    return folder / Path(names[0]).parts[0]
