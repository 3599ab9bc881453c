"""A source that is not on this machine: its index, and its entries."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from zoo.card import Card
from zoo.entry import CONFIG, Entry
from zoo.errors import CorruptError, NotFoundError, SourceError
from zoo.files import LONGEST_SUMS, SUMS, parse_sums
from zoo.listing import Row
from zoo.names import check_name
from zoo.sources.folder import FolderTransport
from zoo.sources.index import INDEX, LONGEST_INDEX, Indexed, decode_index, indexed
from zoo.sources.transport import Transport

__all__ = ["RemoteEntry", "RemoteSource"]

_LONGEST_SMALL = 1 << 20


class RemoteSource:
    """Entries behind a transport.

    Args:
        label: what to call it.
        transport: opens what brings its files.
    """

    def __init__(self, label: str, transport: Callable[[], Transport]) -> None:
        self.label = label
        self._open = transport

    @cached_property
    def transport(self) -> Transport:
        """Brings files; opened when it is first needed."""
        return self._open()

    @cached_property
    def index(self) -> dict[str, Indexed]:
        """The source's index, read once.

        Raises:
            NotFoundError: the source has none.
            CorruptError: it is not one.
            SourceError: the source cannot be reached.
        """
        content = self.transport.read(INDEX, LONGEST_INDEX)
        if content is None:
            raise NotFoundError(
                f"{self.label} has no {INDEX}: is it a zoo? (`zoo push` makes one, so does `zoo index`)"
            )
        return decode_index(content, self.label)

    def names(self) -> list[str]:
        """Return the names of the entries, sorted; errors as in `index`."""
        return sorted(self.index)

    def get(self, name: str) -> "RemoteEntry | None":
        """Return the entry, or None if the source has no such name; errors as in `index`."""
        about = self.index.get(check_name(name))
        return RemoteEntry(name, self.transport, about) if about else None


@dataclass(frozen=True)
class RemoteEntry:
    """An entry as a source has it. Every byte is checked against its `SHA256SUMS`, and that against the index.

    Attributes:
        name: the entry's name.
        transport: of its source.
        indexed: what the source's index says of it.
    """

    name: str
    transport: Transport
    indexed: Indexed

    @classmethod
    def of(cls, entry: Entry) -> "RemoteEntry":
        """Return an entry in a folder as one to be copied; `CorruptError` if its sums or card are damaged."""
        return cls(entry.name, FolderTransport(entry.folder.parent, entry.source), indexed(entry, entry.folder.name))

    @property
    def source(self) -> str:
        """Label of the source."""
        return self.transport.label

    @property
    def place(self) -> str:
        """The source, for a note of where the entry came from: its label, or the absolute path of a folder."""
        return str(self.transport.folder.absolute()) if isinstance(self.transport, FolderTransport) else self.source

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(self.indexed.files.values())

    def row(self) -> Row:
        """Return its row of a list."""
        return Row(
            self.name,
            self.source,
            f"{self.source.rstrip('/')}/{self.indexed.path}".rstrip("/"),
            "whole",
            self.indexed.listed,
        )

    @cached_property
    def sums_text(self) -> bytes:
        """The bytes of its `SHA256SUMS`; `CorruptError` if they are not those that the index names."""
        content = self.transport.read(self._path(SUMS), LONGEST_SUMS)
        if content is None:
            raise SourceError(f"{self.source} lists {self.name!r} but has no {self._path(SUMS)}")
        if hashlib.sha256(content).hexdigest() != self.indexed.sums:
            raise CorruptError(
                f"{self._path(SUMS)} of {self.source} is not the one that its {INDEX} names: it is damaged, or is "
                "being replaced just now (nothing was kept; try again)"
            )
        return content

    @cached_property
    def sums(self) -> dict[str, str]:
        """File name -> sha256; `CorruptError` if the index has other files."""
        sums = parse_sums(self.sums_text, f"{self._path(SUMS)} of {self.source}")
        if sums.keys() != self.indexed.files.keys():
            raise CorruptError(f"the {INDEX} of {self.source} has other files of {self.name!r} than its {SUMS}")
        return sums

    @cached_property
    def card(self) -> Card:
        """Its card; errors as in `read` and `Card.from_json`."""
        return Card.of(self.name, self.read(CONFIG), f"{self._path(CONFIG)} of {self.source}")

    def read(self, file: str) -> bytes:
        """Return a small file, of at most 1 MiB, after checking its sha256.

        Raises:
            NotFoundError: the entry has no such file.
            CorruptError: its bytes are not those it was published with.
            SourceError: the source cannot be reached, or does not have what it lists.
        """
        if file not in self.sums:
            raise NotFoundError(f"{self.name} has no {file}")
        content = self.transport.read(self._path(file), _LONGEST_SMALL)
        if content is None:
            raise SourceError(f"{self.source} lists {self.name!r} but has no {self._path(file)}")
        if hashlib.sha256(content).hexdigest() != self.sums[file]:
            raise CorruptError(f"{self._path(file)} of {self.source} is damaged: its sha256 is not the one in {SUMS}")
        return content

    def fetch(self, file: str, part: Path, progress: Callable[[int], None]) -> str:
        """Bring a file to `part` and return the sha256 of what arrived; see `Transport.fetch`."""
        return self.transport.fetch(self._path(file), self.indexed.files[file], part, progress)

    def _path(self, file: str) -> str:
        return f"{self.indexed.path}/{file}" if self.indexed.path else file
