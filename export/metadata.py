"""What an exported graph says of itself, in the metadata of its file: its lockfile, and how it was exported.

metadata_props["menagerie.ensemble"]  the text of an `ensemble.json`
metadata_props["menagerie.export"]    {"format", "precision", "opset", "stage", "calibration", "parity", "versions"}
"""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from zoo.errors import CorruptError

__all__ = ["ENSEMBLE_KEY", "EXPORT_KEY", "FORMAT", "PRECISIONS", "About", "metadata_props", "read_metadata"]

ENSEMBLE_KEY, EXPORT_KEY = "menagerie.ensemble", "menagerie.export"
FORMAT = "menagerie.export/1"
PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class About:
    """How a graph was exported.

    Attributes:
        lockfile: of the ensemble that it is, or whose stage it is, as JSON has it.
        precision: of its networks, one of `PRECISIONS`.
        opset: version of ONNX's own operators.
        stage: of a cascade, from 1; None for a graph that is a whole ensemble.
        calibration: of an int8 graph: on which images, by which method, and which layers are in fp32; else None.
        parity: what the gate measured, as `export.parity.Parity.to_dict` gives it; None if it did not run.
        versions: of the packages that made it.
    """

    lockfile: dict[str, Any]
    precision: str
    opset: int
    stage: int | None = None
    calibration: dict[str, Any] | None = None
    parity: dict[str, Any] | None = None
    versions: dict[str, str] | None = None

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names, in the order of the columns."""
        return tuple(self.lockfile["classes"])

    @property
    def members(self) -> tuple[str, ...]:
        """The members' names, in the lockfile's order."""
        return tuple(member["name"] for member in self.lockfile["members"])


def metadata_props(about: About) -> dict[str, str]:
    """Return the metadata of a graph's file; equal abouts are equal bytes."""
    table = {"format": FORMAT, **asdict(about)}
    lockfile = table.pop("lockfile")
    return {ENSEMBLE_KEY: json.dumps(lockfile, indent=1) + "\n", EXPORT_KEY: json.dumps(table, indent=1) + "\n"}


def read_metadata(props: Mapping[str, str], path: Path) -> About:
    """Read what `metadata_props` wrote.

    Args:
        props: of a graph's file.
        path: of the file, for messages.

    Raises:
        CorruptError: it was not exported by this project, or what it says cannot be.
    """
    try:
        lockfile, table = json.loads(props[ENSEMBLE_KEY]), json.loads(props[EXPORT_KEY])
        names = [member["name"] for member in lockfile["members"]]
        texts = [*names, *lockfile["classes"], lockfile["views"], lockfile["merge"]]
        fields = {key: table.get(key) for key in ("precision", "opset", "stage", "calibration", "parity", "versions")}
        about = About(lockfile, **fields)
        sound = names and lockfile["classes"] and all(isinstance(text, str) for text in texts)
        sound = sound and isinstance(lockfile["classes"], list)
        sound = sound and table["format"] == FORMAT and about.precision in PRECISIONS
    except (AttributeError, KeyError, TypeError, ValueError, RecursionError) as error:
        raise CorruptError(
            f"{path} was not exported by `ensemble export`: its metadata lacks what that writes"
        ) from error
    if not sound:
        raise CorruptError(f"{path} was exported in a format other than {FORMAT!r}: export it again")
    return about
