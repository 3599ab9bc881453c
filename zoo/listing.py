"""What a list says of an entry: a row of `zoo list`, and of the index of a source."""

from dataclasses import asdict, dataclass
from typing import Any, Literal

from zoo.entry import Entry
from zoo.errors import MenagerieError

__all__ = ["Listed", "Row", "State", "listed", "row"]

State = Literal["whole", "predictions only", "damaged"]


@dataclass(frozen=True)
class Listed:
    """What is said of an entry, wherever it lies.

    Attributes:
        name: the entry's name.
        architecture: a key of `zoo.archs.ARCHS`.
        dataset: what it classifies.
        accuracy: top-1 on the test split with the view set `flip`, a fraction, if the card states it.
        parameters: number of parameters.
        multiply_adds: for one image.
        bytes: of all files that are there, without `SHA256SUMS`.
    """

    name: str
    architecture: str
    dataset: str
    accuracy: float | None
    parameters: int
    multiply_adds: int
    bytes: int


@dataclass(frozen=True)
class Row:
    """A row of `zoo list`.

    Attributes:
        name: the entry's name.
        source: label of the source that has it, e.g. `cache`.
        where: the folder, or the address, for scripts.
        state: `predictions only` if the weights are not there; `damaged` if nothing of it can be trusted.
        listed: what is said of it; None if it is damaged.
        problem: what is wrong with a damaged one, in one line.
    """

    name: str
    source: str
    where: str
    state: State = "whole"
    listed: Listed | None = None
    problem: str = ""

    def table(self) -> dict[str, Any]:
        """Return the row as `zoo list --json` has it; `damaged` says what is wrong, where something is."""
        about: dict[str, Any] = {"name": self.name, "source": self.source, "folder": self.where}
        if self.listed is None:
            return about | {"damaged": self.problem}
        return about | asdict(self.listed) | {"state": self.state}


def listed(entry: Entry) -> Listed:
    """Return what a list says of an entry on disk.

    Raises:
        CorruptError: its sums or its card cannot be trusted.
    """
    card = entry.card
    return Listed(
        name=entry.name,
        architecture=card.architecture,
        dataset=card.dataset,
        accuracy=card.accuracy(),
        parameters=card.parameters,
        multiply_adds=card.multiply_adds,
        bytes=entry.size,
    )


def row(entry: Entry) -> Row:
    """Return the row of an entry on disk; one that cannot be read is `damaged`."""
    about = (entry.name, entry.source, str(entry.folder))
    try:
        said, missing, partial = listed(entry), entry.missing, entry.partial
    except (MenagerieError, OSError) as error:
        return Row(*about, "damaged", problem=str(error))
    if missing and not partial:
        return Row(*about, "damaged", problem=f"{entry.folder / missing[0]} is missing")
    return Row(*about, "predictions only" if partial else "whole", said)
