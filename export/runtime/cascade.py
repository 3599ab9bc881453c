"""A cascade over stage graphs: each runs on the images that are left, and computes only what no stage before has."""

import hashlib
from collections.abc import Iterable
from functools import cached_property
from pathlib import Path
from typing import Unpack

import numpy as np
import numpy.typing as npt

from ensemble.cascade.stages import Stage, Step, check_stages, steps
from ensemble.merge import Vote, merge
from export.runtime.answer import Answer, Floats, check_images
from export.runtime.base import AnySession, Options
from export.runtime.session import Session
from zoo.errors import CorruptError, NotFoundError

__all__ = ["CascadeSession", "stage_files"]

_Known = dict[tuple[int, int], Floats]
"""(member, view) -> log-probabilities `[n, C]` of the images that are left."""


class CascadeSession(AnySession):
    """The stage graphs of a cascade, loaded and ready to run on the provider that was asked for.

    It answers as `ensemble.cascade.run.Cascade` does, and always with each member's probabilities, which are computed
    anyway.

    Args:
        path: of a folder that `ensemble export` wrote.
        options: how the graphs are run.

    Raises:
        NotFoundError: the folder has no stage graph.
        CorruptError: its graphs are not the stages of one cascade.
        MenagerieError: others, as in `Session`.
    """

    has_members = True

    def __init__(self, path: Path | str, **options: Unpack[Options]) -> None:
        self.path = Path(path)
        files = stage_files(self.path)
        if not files:
            raise NotFoundError(f"{self.path} has no stage1.onnx: give a folder that `ensemble export` wrote")
        self.sessions = [Session(file, **options) for file in files]
        self.about = self.sessions[0].about
        self.provider, self.input_size = self.sessions[0].provider, self.sessions[0].input_size
        self.steps = _steps(self.sessions, self.path)

    @cached_property
    def sha256(self) -> str:
        """Of the digests of all stage graphs."""
        return hashlib.sha256("".join(session.sha256 for session in self.sessions).encode()).hexdigest()

    def run(self, images: npt.NDArray[np.uint8]) -> Floats:
        return self.answer(images).probs

    def answer(self, images: npt.NDArray[np.uint8]) -> Answer:
        left = check_images(images, self.input_size)
        rows = np.arange(len(left))
        stage = np.zeros(len(rows), np.intp)
        probs = np.zeros((len(rows), len(self.classes)), np.float32)
        member_probs = np.full((len(rows), len(self.members), len(self.classes)), np.nan, np.float32)
        known: _Known = {}
        for number, (step, session) in enumerate(zip(self.steps, self.sessions, strict=True)):
            (logs,) = session.outputs(left, ["log_probs"])
            known |= {pair: logs[:, column] for column, pair in enumerate(step.pairs)}
            merged, own = self._merge(step, known)
            # Whoever stays is written over by a later stage.
            probs[rows], stage[rows] = merged, number
            member_probs[np.ix_(rows, np.asarray(step.members))] = own
            stays = ~(merged.max(1, initial=0) >= step.threshold)  # what is not finite is not sure
            if not stays.any():
                break
            rows, left = rows[stays], left[stays]
            known = {pair: values[stays] for pair, values in known.items()}
        return Answer(probs, member_probs, stage)

    def warm_up(self, batches: Iterable[int] = (1, 64)) -> None:
        sizes = list(batches)
        for session in self.sessions:
            for batch in sizes:
                session.outputs(self.black(batch), ["log_probs"])

    def _merge(self, step: Step, known: _Known) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Return a stage's probabilities `[n, C]` and its members' own `[n, m, C]`."""
        table = self.lockfile["members"]
        votes = [
            Vote(np.stack([known[m, v] for v in step.views]), step.view_weights, table[m]["weight"])
            for m in step.members
        ]
        how = self.lockfile["merge"]
        own = [merge([vote], how)[0] for vote in votes]
        return merge(votes, how, step.temperature)[0], np.stack(own, 1)


def stage_files(folder: Path) -> list[Path]:
    """Return the stage graphs of a folder, in the order of the stages; none if it has none."""
    found: list[Path] = []
    while (file := folder / f"stage{len(found) + 1}.onnx").is_file():
        found.append(file)
    return found


def _steps(sessions: list[Session], path: Path) -> list[Step]:
    """Return the steps of a cascade; `CorruptError` unless its graphs are the stages of one export."""
    about = sessions[0].about
    stages = about.lockfile.get("cascade") or []
    numbers = [session.about.stage for session in sessions]
    same = all((s.lockfile, s.precision) == (about.lockfile, about.precision) for s in sessions)
    if not same or numbers != list(range(1, len(stages) + 1)):
        raise CorruptError(f"{path} does not have the stage graphs of one cascade: export it again")
    table = about.lockfile
    try:
        # As in `ensemble.lockfile`: where a stage has no temperature, it is 1, and the ensemble's of the last.
        usual = [1.0] * (len(stages) - 1) + [table["temperature"]]
        parsed = [
            Stage(tuple(s["members"]), s["views"], s.get("temperature", t), s["threshold"])
            for s, t in zip(stages, usual, strict=True)
        ]
        check_stages(parsed, about.members, table["views"], table["merge"], table["temperature"])
        weights = [float(member["weight"]) for member in table["members"]]
    except (AttributeError, KeyError, TypeError, ValueError) as error:
        raise CorruptError(f"{path} does not say how its stages are merged ({error}): export it again") from error
    if min(weights) <= 0:
        raise CorruptError(f"{path} has a member of weight {min(weights):g}: export it again")
    return steps(parsed, about.members, table["views"])
