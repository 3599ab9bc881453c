"""A zoo entry on disk: a folder whose every file is covered by `SHA256SUMS`."""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from zoo import verified
from zoo.card import EXTERNAL, Card
from zoo.errors import CorruptError, NotFoundError
from zoo.files import LONGEST_SUMS, SUMS, atomic_write, new_folder, parse_sums, write_sums
from zoo.home import cache_folder
from zoo.model_card import model_card
from zoo.origins import forget_origin, read_origin
from zoo.regular import SMALL, open_regular, read_regular
from zoo.shards import INDEX, WEIGHTS, Index, is_weights, read_index, weight_files
from zoo.weights import WeightFiles, open_weights

if TYPE_CHECKING:
    import torch
    from torch import nn

    from zoo.header import Header
    from zoo.predictions import Predictions
    from zoo.verified import Mark

__all__ = ["CONFIG", "INDEX", "PREDICTIONS", "README", "WEIGHTS", "Entry", "write_entry", "write_files"]

_MEND = {"builtin": "reinstall the package", "cache": "`zoo pull --replace` it, or `zoo rm` it and train it again"}
_ASK = "ask whoever keeps this folder for a good copy"

CONFIG, PREDICTIONS, README = "config.json", "predictions.safetensors", "README.md"
_SMALL = {CONFIG, README, INDEX}


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
        return parse_sums(self._sums_text, str(self.folder / SUMS))

    @cached_property
    def _sums_text(self) -> bytes:
        try:
            return read_regular(self.folder / SUMS, LONGEST_SUMS)
        except CorruptError as error:
            raise CorruptError(f"{error}, so nothing in this entry can be trusted") from error

    def sum_of(self, file: str) -> str:
        """Return the sha256 that a file was published with; `CorruptError` if an entry without it is none."""
        if file not in self.sums:
            raise CorruptError(f"{self.folder} has no {file}, so it is no zoo entry")
        return self.sums[file]

    @cached_property
    def weights(self) -> tuple[str, ...]:
        """The files with the weights, `model.safetensors` or its shards, whether they are here or not.

        None if it is `external`; `CorruptError` if another entry has none.
        """
        return () if self.external else weight_files(self.sums, str(self.folder))

    @cached_property
    def external(self) -> bool:
        """Whether it was made of someone else's predictions, so that there are no weights; errors as in `card`."""
        none = not any(is_weights(file) for file in self.sums) and INDEX not in self.sums
        return none and PREDICTIONS in self.sums and self.card.architecture == EXTERNAL

    @property
    def weights_digest(self) -> str:
        """The sha256 of the weights as one canonical file: the same however they are cut, another for another dtype.

        It needs no weights. Of shards it is what their index says, which `load` and `verify` hold to be true. Of an
        external entry it is the sha256 of the predictions, which are all there is.
        """
        if self.external:
            return self.sums[PREDICTIONS]
        return self.sums[WEIGHTS] if self.weights == (WEIGHTS,) else self._index.sha256

    @property
    def missing(self) -> tuple[str, ...]:
        """The files of `SHA256SUMS` that are not here."""
        return tuple(file for file in self.sums if not os.path.lexists(self.folder / file))

    @property
    def partial(self) -> bool:
        """Whether it is here without (some of) its weights because only the rest was pulled, so that nothing is wrong.

        Such entries are in the cache: `zoo pull --predictions-only` brings them.
        """
        missing = set(self.missing)
        if not missing or not missing <= set(self.weights) or self.folder.parent != cache_folder():
            return False
        origin = read_origin(self.name)
        return origin is not None and (origin.share, origin.sums) == ("predictions", self.publication)

    @property
    def publication(self) -> str:
        """The sha256 of `SHA256SUMS`, and so of all that was published; errors as in `sums`."""
        return hashlib.sha256(self._sums_text).hexdigest()

    def read(self, file: str) -> bytes:
        """Return the bytes of a file after checking their sha256.

        Raises:
            NotFoundError: the entry has no such file.
            CorruptError: the file is missing, a link or absurdly long, or its bytes are not those the entry was
                published with.
        """
        if file not in self.sums:
            raise NotFoundError(f"{self.name} has no {file}")
        content = read_regular(self.folder / file, SMALL if file in _SMALL else None)
        if hashlib.sha256(content).hexdigest() != self.sums[file]:
            raise self._damaged(file)
        return content

    def _damaged(self, file: str) -> CorruptError:
        path, advice = self.folder / file, _MEND.get(self.source, _ASK)
        return CorruptError(f"{path} is damaged: its sha256 is not the one in {SUMS} (nothing was loaded; {advice})")

    @cached_property
    def card(self) -> Card:
        """The entry's card; `CorruptError` if it is another entry's."""
        return Card.of(self.name, self.read(CONFIG), str(self.folder / CONFIG))

    @property
    def size(self) -> int:
        """Bytes of all files that are here."""
        return sum((self.folder / file).lstat().st_size for file in self.sums.keys() - set(self.missing))

    def predictions(self) -> "Predictions":
        """Return the stored predictions; errors as in `read` and `Predictions.decode`."""
        from zoo.predictions import Predictions  # noqa: PLC0415  # numpy, which `zoo list` does without

        return Predictions.decode(self.read(PREDICTIONS), str(self.folder / PREDICTIONS))

    def load(self) -> "nn.Module":
        """Return the network in eval mode, in fp32, on the CPU; errors as in `tensors` and `checkpoint.build`.

        Weights stored in fp32 stay mapped: they are read from the disk as they are used, and shared with other
        processes until they are changed.
        """
        from zoo import checkpoint  # noqa: PLC0415

        tensors = checkpoint.as_float32(self.tensors())
        return checkpoint.build(self.card, tensors, str(self.folder / self.weights[0]))

    def tensors(self) -> "dict[str, torch.Tensor]":
        """Return the weights as they are stored, mapped into memory (see `WeightFiles.tensors`).

        Their sha256 is checked, unless the files look as they did when that was last done.

        Raises:
            NotFoundError: the weights are not here, only the predictions; or there are none.
            CorruptError: they are not the weights that the entry was published with.
        """
        self.need_weights()
        known = verified.recall(self.folder, self.weights_digest)
        with open_weights(self.folder, self.weights) as files:
            marks, headers = self._check_weights(files, known)
            tensors = files.tensors(headers)
        if marks != known:
            verified.remember(self.folder, self.weights_digest, marks)
        return tensors

    def need_weights(self) -> None:
        """Raise `NotFoundError` if only the predictions are here, or there are no weights anywhere."""
        if self.external:
            raise NotFoundError(f"{self.name!r} was made of predictions alone: there is no network to run")
        if self.partial:
            raise NotFoundError(
                f"the weights of {self.name!r} are not here, only its predictions: `zoo pull {self.name}`"
            )

    def verify(self, *, hashed: bool = False, weightless: bool = False) -> None:
        """Read every file: sums, card, and the form of weights and predictions.

        Weights may be missing from a `partial` entry. Files whose names begin with a dot are the system's.

        Args:
            hashed: the weights were just found to have their sha256, while they arrived: only their form is checked.
            weightless: weights may be missing.

        Raises:
            CorruptError: something is wrong, or a file lies there that the sums do not cover.
        """
        self.sum_of(CONFIG)
        weights = self.weights
        extra = sorted(p.name for p in self.folder.iterdir() if p.name not in {SUMS, *self.sums} and p.name[0] != ".")
        if extra:
            raise CorruptError(f"{self.folder / extra[0]} is not covered by {SUMS}")
        missing = self.missing if weightless or self.partial else ()
        for file in sorted(self.sums.keys() - set(weights)):
            with open_regular(self.folder / file) as opened:
                if hashlib.file_digest(opened, "sha256").hexdigest() != self.sums[file]:
                    raise self._damaged(file)
        _ = self.card
        if PREDICTIONS in self.sums:
            self.predictions()
        try:
            with open_weights(self.folder, [file for file in weights if file not in missing]) as files:
                if hashed:
                    self._check_headers(files)
                else:
                    self._check_weights(files, {})
        except CorruptError:
            verified.forget(self.folder)  # what looks as it did, and is not as it was, must not be loaded again
            raise

    @cached_property
    def _index(self) -> Index:
        return read_index(self.read(INDEX), self.weights, str(self.folder / INDEX))

    def _check_weights(
        self, files: WeightFiles, known: "Mapping[str, Mark]"
    ) -> "tuple[dict[str, Mark], dict[str, Header]]":
        """Check the sums and the form of open weight files; return what they were found to be, and their headers."""
        marks = files.marks(known)
        for file, mark in marks.items():
            if mark.sha256 != self.sums[file]:
                raise self._damaged(file)
        headers = self._check_headers(files)
        # The identity of shards is a claim of their index, until it is computed.
        unproven = INDEX in self.sums and marks != known and len(marks) == len(self.weights)
        if unproven and files.joined_digest(headers) != self._index.sha256:
            where = str(self.folder / INDEX)
            raise CorruptError(f"{where} states another sha256 of the weights than the shards together have")
        return marks, headers

    def _check_headers(self, files: WeightFiles) -> "dict[str, Header]":
        """Check the form of open weight files, and return their headers."""
        headers = files.headers()
        if INDEX in self.sums:
            self._index.check(headers, str(self.folder / INDEX))
        return headers


def write_entry(
    target: Path,
    card: Card,
    weights: bytes | Mapping[str, bytes],
    predictions: "Predictions | None",
    *,
    extra: Mapping[str, bytes] | None = None,
    replace: bool = False,
) -> Entry:
    """Write an entry to the folder `target`, whole or not at all.

    Args:
        target: the folder; its name must be the card's.
        card: written as `config.json` and `README.md`.
        weights: safetensors bytes, see `zoo.checkpoint.encode`; or shards and their index, see
            `zoo.shards.cut_to_files`: file name -> content.
        predictions: of these weights.
        extra: other files, such as the training curve: file name -> content.
        replace: whether an existing folder may be replaced.

    Raises:
        StorageError: the disk refuses, or `target` exists and `replace` is false.
        CorruptError, ValueError: `weights` are not the files of an entry's weights.
    """
    files = {WEIGHTS: weights} if isinstance(weights, bytes) else weights
    if set(files) - {INDEX} != set(weight_files(files, card.name)):
        raise ValueError(f"not the weight files of one entry: {', '.join(files)}")
    if predictions is not None:
        files = {**files, PREDICTIONS: predictions.encode()}
    return write_files(target, card, {**(extra or {}), **files}, replace=replace)


def write_files(target: Path, card: Card, files: Mapping[str, bytes], *, replace: bool = False) -> Entry:
    """Write a card, its model card, files (name -> content) and the sums of all; see `write_entry`."""
    with new_folder(target, replace=replace) as folder:
        atomic_write(folder / CONFIG, card.to_json().encode())
        atomic_write(folder / README, model_card(card).encode())
        for file, content in files.items():
            atomic_write(folder / file, content)
        write_sums(folder)
    if target.parent == cache_folder():
        forget_origin(card.name)
    return Entry(card.name, target, str(target.parent))
