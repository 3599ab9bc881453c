"""Everything that a report says, as plain typed data: no page, no pictures of plots, nothing that needs a network.

Fractions, not percent; milliseconds; NLL in nats; multiply-adds in units of 10^9 for an image. Tuples of tuples stand
for matrices, so that a record is equal to one that says the same.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

from ensemble.cascade.stages import Stage

__all__ = [
    "FORMAT",
    "RUNTIMES",
    "Agreement",
    "Budget",
    "ClassRow",
    "Closeup",
    "Kind",
    "MemberDiversity",
    "MemberRow",
    "Mistake",
    "Point",
    "Record",
    "ReliabilityBin",
    "Scores",
    "Timing",
    "UsedStage",
]

FORMAT = "menagerie.report/1"

RUNTIMES = {"frozen": "PyTorch", "compiled": "PyTorch compiled", "onnx": "ONNX Runtime"}
"""A runtime in one word -> what people call it."""

Kind = Literal["member", "student", "committee", "ensemble", "cascade"]
"""A network alone; one that was distilled; the best k of the pool; an `ensemble.json`; one with early exits."""


@dataclass(frozen=True)
class Timing:
    """How long batches of one size take, warm, on the hardware that the record names.

    Attributes:
        batch: images in each.
        runs: how many were timed.
        median_ms: of a batch.
        p90_ms: likewise.
        p99_ms: likewise.
        mean_ms: likewise.
        images_per_second: throughput.
        quantiles: of the milliseconds, at 0, 1, ..., 100 %.
        measured: when, in UTC, ISO 8601.
        note: what to know before relying on it, e.g. that the machine was busy; None if there is nothing.
    """

    batch: int
    runs: int
    median_ms: float
    p90_ms: float
    p99_ms: float
    mean_ms: float
    images_per_second: float
    quantiles: tuple[float, ...] = ()
    measured: str = ""
    note: str | None = None


@dataclass(frozen=True)
class Scores:
    """How good a point's answers are on the reported split.

    Attributes:
        accuracy: share of right answers.
        accuracy_ci95: Wilson's 95 % interval of it.
        nll: negative log-likelihood in nats; None of a vote.
        brier: summed over classes, in [0, 2].
        ece: expected calibration error over 15 equal bins of confidence, in [0, 1].
        adaptive_ece: likewise, over 15 bins of equally many images.
        aurc: area under the risk-coverage curve, in [0, 1]: the error rate among the most confident images, mean over
            how many these are.
    """

    accuracy: float
    accuracy_ci95: tuple[float, float]
    nll: float | None
    brier: float
    ece: float
    adaptive_ece: float
    aurc: float


@dataclass(frozen=True)
class UsedStage(Stage):
    """A stage of a cascade, and the share of the images that it answers."""

    share: float


@dataclass(frozen=True)
class Point:
    """Something that could be deployed.

    Attributes:
        name: what people call it.
        kind: what it is.
        members: names.
        views: name of the view set, as `--tta` takes it.
        precision: of the networks: fp32, bf16, fp16, int8.
        runtime: `PyTorch`, `PyTorch compiled`, `ONNX Runtime`.
        scores: on the reported split.
        source: whether the scores are of `stored` predictions, which were computed in fp32, or of a `fresh` run of just
            precision (compilation is taken to change no answer).
        val_accuracy: on the validation split, by which points are chosen; None if it is not known.
        val_nll: likewise.
        val_precision: of the networks that the two are of: they are read from stored predictions, which are in fp32
            whatever `precision` is; None without them.
        multiply_adds: for an image, all views; of a cascade, the mean over images. None if a card does not say.
        latency: at the small batch; None if nothing was measured, as of somebody's predictions.
        throughput: at the large batch.
        teacher: of a student.
        stages: of a cascade.
        front: whether no other point is at least as accurate and at least as fast, and better in one of the two.
    """

    name: str
    kind: Kind
    members: tuple[str, ...]
    views: str
    precision: str
    runtime: str
    scores: Scores
    source: str
    val_accuracy: float | None = None
    val_nll: float | None = None
    val_precision: str | None = None
    multiply_adds: float | None = None
    latency: Timing | None = None
    throughput: Timing | None = None
    teacher: str | None = None
    stages: tuple[UsedStage, ...] = ()
    front: bool = False

    @property
    def label(self) -> str:
        """Name, views, precision and runtime in a few words."""
        views = "" if self.views == "none" else f" + {self.views}"
        return f"{self.name}{views}, {self.runtime} {self.precision}"


@dataclass(frozen=True)
class Budget:
    """What the chosen point may cost: `limit` in `unit`, which is `ms` or `G multiply-adds`."""

    limit: float
    unit: str


@dataclass(frozen=True)
class ReliabilityBin:
    """Images whose confidence is in (low, high]; without images, accuracy and confidence are None."""

    low: float
    high: float
    images: int
    confidence: float | None
    accuracy: float | None


@dataclass(frozen=True)
class ClassRow:
    """How a class fares, and what its images are most often taken for (None if all are right)."""

    name: str
    images: int
    precision: float
    recall: float
    f1: float
    taken_for: str | None
    taken_for_images: int


@dataclass(frozen=True)
class Mistake:
    """A confident wrong answer.

    Attributes:
        image: number in the split's own order; None if the images are not at hand.
        label: name of the right class.
        prediction: name of the class given instead.
        confidence: its probability.
        label_probability: that of the right class.
        picture: the image as the data URI of a PNG; None if it is not at hand.
    """

    image: int | None
    label: str
    prediction: str
    confidence: float
    label_probability: float
    picture: str | None


@dataclass(frozen=True)
class MemberDiversity:
    """How differently the members of an ensemble answer: means over their pairs, of the measures in `diversity`.

    Attributes:
        views: name of the view set.
        names: of the members, two or more.
        disagreement: share of the images to which two give different classes.
        error_correlation: of being right, in [-1, 1].
        q_statistic: Yule's Q of being right, in [-1, 1].
        double_fault: share of the images that both get wrong.
        pairwise_information: mutual information of the answer and which of two members gives it, in [0, log 2] nats.
        mutual_information: likewise of all members together, in nats: no mean over pairs.
    """

    views: str
    names: tuple[str, ...]
    disagreement: float
    error_correlation: float
    q_statistic: float
    double_fault: float
    pairwise_information: float
    mutual_information: float


@dataclass(frozen=True)
class Closeup:
    """How one point errs.

    Attributes:
        point: number in `Record.points`.
        why: why it is this one, for people.
        reliability: 15 equal bins of confidence.
        confusion: images by label (row) and prediction (column).
        classes: one row a class.
        mistakes: the most confident first.
        wrong: how many wrong answers there are.
        diversity: of the point's members; None of a single one, and of an exported graph, which does not show them.
    """

    point: int
    why: str
    reliability: tuple[ReliabilityBin, ...]
    confusion: tuple[tuple[int, ...], ...]
    classes: tuple[ClassRow, ...]
    mistakes: tuple[Mistake, ...]
    wrong: int
    diversity: MemberDiversity | None = None


@dataclass(frozen=True)
class MemberRow:
    """A member of the pool, alone, under the views `Agreement.views`."""

    name: str
    architecture: str
    scores: Scores
    parameters: int | None
    multiply_adds: float | None
    teacher: str | None = None
    note: str = ""


@dataclass(frozen=True)
class Agreement:
    """How alike members answer, under one view set.

    Attributes:
        views: name of the view set.
        names: of M members.
        same: share of the images on which two give the same class, `[M, M]`.
        error_correlation: of being right, `[M, M]`.
        left_out: members of the pool that are not shown, as there are too many.
    """

    views: str
    names: tuple[str, ...]
    same: tuple[tuple[float, ...], ...]
    error_correlation: tuple[tuple[float, ...], ...]
    left_out: int = 0


@dataclass(frozen=True)
class Record:
    """A report.

    Attributes:
        dataset: name of the data.
        split: that scores are of.
        images: N.
        fingerprint: of the split.
        classes: names.
        points: all, the fastest first.
        budget: that was given.
        chosen: number of the point chosen for the budget, by its validation accuracy.
        missed: why nothing was chosen for the budget; None if something was, or without a budget.
        closeup: of the chosen point, or of the most telling one.
        members: the pool.
        agreement: None of a single member.
        fitted: on what weights, temperatures and thresholds were fitted, and points chosen; a sentence.
        device: that was measured on: `cpu` or `cuda`; None if nothing was measured.
        hardware: what it is and which versions ran, label -> value.
        notes: what a reader has to know, e.g. what was left out and why.
        command: that made the report.
        made: when, ISO 8601, UTC.
    """

    dataset: str
    split: str
    images: int
    fingerprint: str
    classes: tuple[str, ...]
    points: tuple[Point, ...]
    closeup: Closeup
    members: tuple[MemberRow, ...]
    agreement: Agreement | None
    budget: Budget | None = None
    chosen: int | None = None
    missed: str | None = None
    fitted: str = ""
    device: str | None = None
    hardware: Mapping[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    command: str = ""
    made: str = ""

    def to_dict(self) -> dict[str, Any]:
        """Return the record as plain JSON types, `format` first."""
        return {"format": FORMAT, **asdict(self)}
