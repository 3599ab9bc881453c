"""A zoo entry on disk: a folder whose every file is covered by `SHA256SUMS`."""

import hashlib
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from zoo.card import Card
from zoo.errors import CorruptError, NotFoundError
from zoo.files import SUMS, atomic_write, new_folder, read_sums, write_sums
from zoo.model_card import model_card
from zoo.predictions import Predictions

if TYPE_CHECKING:
    from torch import nn

__all__ = ["CONFIG", "PREDICTIONS", "WEIGHTS", "Entry", "write_entry"]

_MEND = {"builtin": "reinstall the package", "cache": "`zoo pull --replace` it, or `zoo rm` it and train it again"}
_ASK = "ask whoever keeps this folder for a good copy"

CONFIG, WEIGHTS, PREDICTIONS, README = "config.json", "model.safetensors", "predictions.safetensors", "README.md"


@dataclass(frozen=True)
class Entry:
    """A folder that holds a zoo entry; every read is checked against its sums.

    Attributes:
        name: the entry's name, as its folder and card have it.
        folder: where it lies.
        source: where it was found, for people: `builtin`, `cache`, `checkpoints` or a folder.
    """

    name: str
    folder: Path
    source: str

    @cached_property
    def sums(self) -> dict[str, str]:
        """File name -> sha256, from `SHA256SUMS`."""
        return read_sums(self.folder)

    def sum_of(self, file: str) -> str:
        """Return the sha256 that a file was published with; `CorruptError` if an entry without it is none."""
        if file not in self.sums:
            raise CorruptError(f"{self.folder} has no {file}, so it is no zoo entry")
        return self.sums[file]

    def read(self, file: str) -> bytes:
        """Return the bytes of a file after checking their sha256.

        Raises:
            NotFoundError: the entry has no such file.
            CorruptError: the file is missing, or its bytes are not those the entry was published with.
        """
        if file not in self.sums:
            raise NotFoundError(f"{self.name} has no {file}")
        path = self.folder / file
        try:
            content = path.read_bytes()
        except OSError as error:
            raise CorruptError(f"{path} cannot be read: {error.strerror}") from error
        if hashlib.sha256(content).hexdigest() != self.sums[file]:
            advice = _MEND.get(self.source, _ASK)
            raise CorruptError(f"{path} is damaged: its sha256 is not the one in {SUMS} (nothing was loaded; {advice})")
        return content

    @cached_property
    def card(self) -> Card:
        """The entry's card; `CorruptError` if it is another entry's."""
        where = str(self.folder / CONFIG)
        try:
            card = Card.from_json(self.read(CONFIG).decode("utf-8"), where)
        except UnicodeDecodeError as error:
            raise CorruptError(f"{where} is not the card of a zoo entry") from error
        if card.name != self.name:
            raise CorruptError(f"{where} is the card of {card.name!r}, not of {self.name!r}")
        return card

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum((self.folder / file).stat().st_size for file in self.sums)

    def predictions(self) -> Predictions:
        """Return the stored predictions; errors as in `read` and `Predictions.decode`."""
        return Predictions.decode(self.read(PREDICTIONS), str(self.folder / PREDICTIONS))

    def load(self) -> "nn.Module":
        """Return the network in eval mode, in fp32, on the CPU; errors as in `read` and `checkpoint.build`."""
        from zoo import checkpoint  # noqa: PLC0415

        where = str(self.folder / WEIGHTS)
        return checkpoint.build(self.card, checkpoint.decode(self.read(WEIGHTS), where), where)

    def verify(self) -> None:
        """Read every file: sums, card, and the form of weights and predictions.

        Raises:
            CorruptError: something is wrong, or a file lies there that the sums do not cover.
        """
        from zoo.checkpoint import check_format  # noqa: PLC0415

        for file in (CONFIG, WEIGHTS):
            self.sum_of(file)
        extra = sorted({p.name for p in self.folder.iterdir()} - {SUMS, *self.sums})
        if extra:
            raise CorruptError(f"{self.folder / extra[0]} is not covered by {SUMS}")
        for file in self.sums:
            content = self.read(file)
            if file.endswith(".safetensors"):
                check_format(content, str(self.folder / file))
        _ = self.card
        if PREDICTIONS in self.sums:
            self.predictions()


def write_entry(
    target: Path, card: Card, weights: bytes, predictions: Predictions | None, *, replace: bool = False
) -> Entry:
    """Write an entry to the folder `target`, whole or not at all.

    Args:
        target: the folder; its name must be the card's.
        card: written as `config.json` and `README.md`.
        weights: safetensors bytes, see `zoo.checkpoint.encode`.
        predictions: of these weights.
        replace: whether an existing folder may be replaced.

    Raises:
        StorageError: the disk refuses, or `target` exists and `replace` is false.
    """
    with new_folder(target, replace=replace) as folder:
        atomic_write(folder / CONFIG, card.to_json().encode())
        atomic_write(folder / README, model_card(card).encode())
        atomic_write(folder / WEIGHTS, weights)
        if predictions is not None:
            atomic_write(folder / PREDICTIONS, predictions.encode())
        write_sums(folder)
    return Entry(card.name, target, str(target.parent))
