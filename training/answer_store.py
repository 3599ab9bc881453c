"""A teacher's answers on disk: to a fixed set of crops of every training image, for students of all seeds."""

import hashlib
import io
import json
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from filelock import FileLock, Timeout
from torch import Tensor

from training.augment.fixed import Answers, check_fixed, draw_crops
from training.augment.pixels import PaddedImages
from training.distill import Teacher
from training.job import Job
from training.run import in_order
from zoo.errors import CorruptError, InterruptedRun, MenagerieError
from zoo.files import atomic_write, storage_errors

__all__ = ["AnswerStore"]

_BATCH = 500
"""Images asked at a time. Answers are kept by whole batches, so that those of a run that goes on are the same bits."""

_FORMAT = "menagerie.answers/1"
"""Another one when answers come to mean something else, so that those on disk are not taken for them."""

_POLL = 0.1
"""Seconds between looks at whether to stop, while another process asks."""

_Saved = npt.NDArray[np.float16]


class AnswerStore:
    """A folder with a teacher's answers to crops of a job's training images.

    File `KKK.npz` has the answers to crop K, fp16 `[O, n, C]`, for the first n of the N images (see `Answers`), with a
    checksum; it is complete when n = N, and what is damaged is asked again. `about.json` says who was asked what. Seeds
    and the number of crops are no part of it: fewer crops are the first ones of more. Several processes may ask at
    once: each crop is one's at a time.

    Args:
        root: where such folders are; this one is named after what is asked of whom.
        job: the training images, their crops, mean and std.
        about: which teacher it is, as JSON can say it: everything that its answers depend on.
        both_sides: ask about mirror images too: the teacher's answers to them are others, and the recipe has flips.

    Attributes:
        path: the folder.

    Raises:
        UsageError: the recipe does more to images than crops and flips.
        StorageError: the folder cannot be written.
    """

    def __init__(self, root: Path, job: Job, about: Mapping[str, Any], *, both_sides: bool) -> None:
        augment = job.recipe.augment
        check_fixed(augment)
        self._job, self._sides = job, 2 if both_sides and augment.flip != "none" else 1
        asked = {
            "format": _FORMAT,
            "teacher": about,
            "images": in_order(job.part),
            "stats": job.stats,
            "crop_padding": augment.crop_padding,
            "crop_fill": augment.crop_fill,
            "sides": self._sides,
        }
        text = (json.dumps(asked, indent=1, sort_keys=True) + "\n").encode()
        self.path = root / hashlib.sha256(text).hexdigest()[:16]
        with storage_errors(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
        atomic_write(self.path / "about.json", text)

    def done(self, crops: int) -> int:
        """Return how many of the answers to `crops` crops of each image there are; a crop with its mirror is one."""
        return sum(self._read(crop).shape[1] for crop in range(crops))

    def fill(
        self,
        teacher: Teacher,
        crops: Sequence[int],
        *,
        device: torch.device,
        progress: Callable[[int], None] = lambda _images: None,
        stop: Callable[[], bool] = lambda: False,
        save_every: float = 30.0,
    ) -> None:
        """Ask the teacher what is not answered yet.

        Args:
            teacher: takes images as the student sees them.
            crops: which of each image's, counted from 0.
            device: where the teacher is.
            progress: called after each batch with the number of images in it.
            stop: asked after each batch; once it says yes, what is answered is saved and this ends.
            save_every: seconds between saved files; a kill loses no more.

        Raises:
            InterruptedRun: `stop` said so.
            MenagerieError: an answer is not a number.
            UsageError: there are fewer crops of an image.
        """
        job, count = self._job, len(self._job.part)
        if all(self._read(crop).shape[1] == count for crop in crops):
            return
        offsets = draw_crops(count, job.recipe.augment, max(crops) + 1)
        images = PaddedImages(job.part.images, job.recipe.augment, *job.stats, device)

        def ask(crop: int, rows: Tensor) -> _Saved:
            shown = images.normalize(images.crop(rows.to(device), offsets[crop, rows].to(device)))
            shown = shown.contiguous(memory_format=torch.channels_last)
            with torch.inference_mode():
                said = torch.stack([teacher(side).float() for side in (shown, shown.flip(3))[: self._sides]])
            if said.isnan().any():
                raise MenagerieError(f"the teacher's answers to crop {crop} are not all numbers")
            return said.to("cpu", torch.float16).numpy()

        for crop in crops:
            before = self._read(crop).shape[1]
            with self._turn(crop, stop):
                parts, saved = [self._read(crop)], time.monotonic()
                progress(parts[0].shape[1] - before)  # by another process
                for start in range(parts[0].shape[1], count, _BATCH):
                    rows = torch.arange(start, min(start + _BATCH, count))
                    parts.append(ask(crop, rows))
                    progress(len(rows))
                    ends, stopping = start + len(rows) == count, stop()
                    if ends or stopping or time.monotonic() - saved > save_every:
                        parts, saved = [np.concatenate(parts, 1)], time.monotonic()
                        self._write(crop, parts[0])
                    if stopping and not (ends and crop == crops[-1]):
                        raise InterruptedRun(f"stopped; the answers so far are in {self.path}")

    @contextmanager
    def _turn(self, crop: int, stop: Callable[[], bool]) -> Iterator[None]:
        """Wait until no other process asks about a crop, and keep others from it."""
        path = self._file(crop).with_suffix(".lock")
        lock = FileLock(path)
        with storage_errors(path):
            while not lock.is_locked:
                try:
                    lock.acquire(timeout=_POLL)
                except Timeout:
                    if stop():
                        raise InterruptedRun(f"stopped; the answers so far are in {self.path}") from None
        try:
            yield
        finally:
            lock.release()

    def load(self, crops: int, device: torch.device) -> Answers:
        """Return the answers to the first `crops` crops, on `device`; all of them must be there.

        Raises:
            CorruptError: some are missing.
        """
        read = [self._read(crop) for crop in range(crops)]
        for crop, answers in enumerate(read):
            if answers.shape[1] != len(self._job.part):
                raise CorruptError(f"{self._file(crop)} is not complete")
        offsets = draw_crops(len(self._job.part), self._job.recipe.augment, crops)
        logits = np.stack(read)
        digest = hashlib.sha256(offsets.numpy().tobytes() + logits.tobytes()).hexdigest()
        return Answers(offsets, torch.from_numpy(logits).to(device), digest)

    def _file(self, crop: int) -> Path:
        return self.path / f"{crop:03}.npz"

    def _read(self, crop: int) -> _Saved:
        """Return the answers to a crop so far, `[O, n, C]`; none if the file is not what was written."""
        job, path = self._job, self._file(crop)
        whole = (self._sides, len(job.part), len(job.part.classes))
        none = np.empty((whole[0], 0, whole[2]), np.float16)
        if not path.exists():
            return none
        with storage_errors(path):
            content = path.read_bytes()
        try:
            found = np.load(io.BytesIO(content), allow_pickle=False)["answers"]
        except (OSError, ValueError, EOFError, LookupError, RuntimeError, zipfile.BadZipFile):
            return none
        shape = found.shape
        fits = len(shape) == len(whole) and (shape[0], shape[2]) == (whole[0], whole[2]) and shape[1] <= whole[1]
        return found if fits and found.dtype == np.float16 else none

    def _write(self, crop: int, answers: _Saved) -> None:
        buffer = io.BytesIO()
        np.savez(buffer, answers=answers)
        atomic_write(self._file(crop), buffer.getvalue())
