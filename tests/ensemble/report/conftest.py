"""Records of made-up answers, for what draws and shows them."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from ensemble.comparison import Answers
from ensemble.report.closeup import closeup, scores
from ensemble.report.front import MILLISECONDS, cost, front, ranking
from ensemble.report.record import (
    Agreement,
    Budget,
    Kind,
    MemberDiversity,
    MemberRow,
    Point,
    Record,
    Timing,
    UsedStage,
)
from tests.conftest import CLASSES, random_split

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

HOSTILE = "<script>alert(1)</script>&\"'$x_2$"

STAGES = (UsedStage(("a",), "none", 1.2, 0.9, 0.7), UsedStage(("a", "b"), "flip", 1.0, 0.0, 0.3))


def answers(labels: "np.ndarray[tuple[int], np.dtype[np.int64]]", classes: int, strength: float, seed: int) -> Answers:
    """Noise with a hint at the label."""
    logits = np.random.default_rng(seed).standard_normal((len(labels), classes))
    logits[np.arange(len(labels)), labels] += strength
    probs = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    return Answers(probs, probs.argmax(1))


def timing(median: float, batch: int = 1) -> Timing:
    quantiles = tuple(float(median * (0.9 + 0.2 * q / 100)) for q in range(101))
    return Timing(batch, 200, median, quantiles[90], quantiles[99], median, 1e3 * batch / median, quantiles, "now")


def make_record(
    *,
    classes: tuple[str, ...] = CLASSES,
    images: int = 200,
    points: int = 12,
    timed: bool = True,
    members: int = 4,
    name: str = "net",
    budget: float | None = 5.0,
) -> Record:
    """Return a record of made-up numbers; every kind of point occurs."""
    split = random_split(images, len(classes))
    labels = split.labels[split.order]
    kinds: tuple[Kind, ...] = ("member", "student", "committee", "ensemble", "cascade")
    made = []
    for i in range(points):
        said = answers(labels, len(classes), 2 + 0.2 * i, seed=i)
        kind = kinds[i % len(kinds)]
        median = 1.3 ** (i % 12) * (1 + 0.01 * i)
        made.append(
            Point(
                name=f"{name}{i}",
                kind=kind,
                members=(f"{name}{i}",),
                views="flip" if i % 2 else "none",
                precision="bf16" if i % 3 == 0 else "fp32",
                runtime="ONNX Runtime" if i % 4 == 3 else "PyTorch",
                scores=scores(said, labels),
                source="stored",
                val_accuracy=0.5 + 0.01 * i,
                val_nll=1.0,
                val_precision="fp32",
                multiply_adds=0.1 * (i + 1),
                latency=timing(median) if timed else None,
                throughput=timing(40 * median, 64) if timed else None,
                teacher="a <committee>" if kind == "student" else None,
                stages=STAGES if kind == "cascade" else (),
            )
        )
    made = [made[i] for i in ranking(made, MILLISECONDS)]
    kept = front([(cost(p, MILLISECONDS), p.scores.accuracy) for p in made])
    found = tuple(Point(**{**vars(p), "front": on}) for p, on in zip(made, kept, strict=True))
    names = tuple(f"{name}{i}" for i in range(members))
    same = np.full((members, members), 0.9) + 0.1 * np.eye(members)
    shown = next((i for i, p in enumerate(found) if p.kind == "cascade"), 0)
    square = tuple(map(tuple, same.tolist()))
    return Record(
        dataset="cifar10",
        split="test",
        images=images,
        fingerprint="f" * 64,
        classes=classes,
        points=found,
        closeup=closeup(
            answers(labels, len(classes), 3, seed=99),
            labels,
            classes,
            point=shown,
            why="because",
            split=split,
            mistakes=6,
            diversity=MemberDiversity("flip", ("a", "b"), 0.1, 0.2, 0.3, 0.4, 0.5, 0.6) if members > 1 else None,
        ),
        members=tuple(
            MemberRow(n, "fastnet", scores(answers(labels, len(classes), 2, seed=i), labels), 100, 0.1)
            for i, n in enumerate(names)
        ),
        agreement=Agreement("flip", names, square, square) if members > 1 else None,
        budget=None if budget is None else Budget(budget, MILLISECONDS),
        chosen=None if budget is None else shown,
        device="cpu" if timed else None,
        hardware={"hardware": "a machine", "torch": "2"},
        notes=("something was left out",),
        command="ensemble report --pool 'x*' -o report.html",
        made="2026-01-01T00:00:00+00:00",
    )


@pytest.fixture
def record() -> Callable[..., Record]:
    """A function that returns a record of made-up numbers; see `make_record`."""
    return make_record


@pytest.fixture
def knowing(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with cards that say what was held out, and what an image costs."""
    for number, name in enumerate(("tiny-a", "tiny-b", "tiny-c")):
        entry, folder = zoo.entry(name), zoo.source / name
        mark = entry.predictions().splits["val"].fingerprint
        about = {"images": 90, "fingerprint": "1" * 64, "held_out": mark}
        teacher = {"teacher": "tiny-a"} if name == "tiny-c" else {}
        card = replace(entry.card, trained_on=about, multiply_adds=(number + 1) * 10**6, training=teacher)
        (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
        reseal(folder)
    return zoo
