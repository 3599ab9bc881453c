"""Gathering a report: every candidate in every precision and runtime, scored and timed; then the choice."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TYPE_CHECKING

from ensemble.comparison import Answers
from ensemble.evaluate import Ballots, SplitSource, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.metrics import accuracy, nll
from ensemble.report.agreement import how_diverse, look_at_members
from ensemble.report.answers import fingerprint_of, images_of, say, unanswered
from ensemble.report.candidates import Candidate, alone, best_of_pool, from_files, runnable
from ensemble.report.closeup import closeup, scores
from ensemble.report.front import MILLISECONDS, MULTIPLY_ADDS, choose, cost, front, missed, ranking
from ensemble.report.provenance import Provenance, held_out, is_fitted_on, said_of_fits, unseen
from ensemble.report.record import RUNTIMES, Budget, MemberDiversity, Point, Record, Timing
from zoo.data.split import Labels
from zoo.entry import Entry
from zoo.errors import DataError, MenagerieError, NotFoundError

if TYPE_CHECKING:
    from ensemble.report.bench import Bench
    from ensemble.report.graphs import Graph

__all__ = ["Plan", "gather"]

_Times = tuple[Timing | None, Timing | None]


@dataclass(frozen=True, eq=False)
class Plan:
    """What a report is to be about.

    Attributes:
        members: the pool.
        files: ensemble files, by the names they were given with.
        sets: names of view sets.
        most: members of the largest committee of the pool.
        budget: of the chosen point, if there is one.
        mistakes: how many are shown.
        fits: name of an ensemble file -> what it says it was fitted on, if it does.
        precisions: that networks run in; `fp32` is what stored predictions are of.
        runtimes: `frozen`, `compiled`.
        graphs: exported ones.
    """

    members: Sequence[Member]
    files: Mapping[str, Committee] = field(default_factory=dict)
    sets: Sequence[str] = ("none", "flip")
    most: int = 6
    budget: Budget | None = None
    mistakes: int = 24
    fits: Mapping[str, Provenance] = field(default_factory=dict)
    precisions: Sequence[str] = ("fp32",)
    runtimes: Sequence[str] = ("frozen",)
    graphs: "Sequence[Graph]" = ()


@dataclass(frozen=True, eq=False)
class _Row:
    """A point, how to ask it again, and how to ask how its members differ."""

    point: Point
    ask: Callable[[], Answers]
    diverse: Callable[[], MemberDiversity | None]


def gather(
    plan: Plan,
    source: SplitSource,
    validation: SplitSource,
    *,
    bench: "Bench | None" = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Record:
    """Gather a report's record; `hardware`, `command` and `made` are the caller's to add.

    Scores in fp32 are those of stored predictions; in other precisions, of a run over the split in that precision.

    Args:
        plan: what it is about.
        source: the split that is reported on.
        validation: the split by which points are chosen.
        bench: times candidates and runs them; without one, nothing runs, and cost is counted in multiply-adds.
        tell: called with a few words before anything slow.

    Raises:
        NotFoundError, DataError: predictions are missing, or for different images.
    """
    named = [*plan.members, *(m for committee in plan.files.values() for m in committee.members)]
    fingerprint = fingerprint_of(named, source)
    if bench is not None and source.split.fingerprint != fingerprint:
        raise DataError(
            f"the {source.name} images at hand are not those of the stored predictions: give --data DIR, "
            "or --no-measure to run nothing"
        )
    mark = held_out(named, validation)
    candidates = alone(plan.members, plan.sets)
    tell(f"choosing committees, the largest of {plan.most}")
    best, notes = best_of_pool(plan.members, plan.sets, plan.most)
    rows: list[_Row] = []
    labels: Labels | None = None
    failed: list[tuple[Committee, MenagerieError]] = []
    files = from_files(plan.files)
    shown = {_who(candidate.committee) for candidate in files}
    for candidate in [*candidates, *(one for one in best if _who(one.committee) not in shown), *files]:
        try:
            ballots = stored_ballots(candidate.committee, source)
        except (NotFoundError, DataError) as error:
            if candidate.kind in {"ensemble", "cascade"}:
                raise
            failed.append((candidate.committee, error))
            continue
        labels = ballots.labels
        rows += _rows(candidate, ballots, plan, _validated(candidate, validation, mark), source, bench)
    left_out = unanswered(failed, source)
    if labels is None:
        raise NotFoundError("; ".join(left_out))
    notes += [f"left out: {why}" for why in left_out]
    classes = _classes(plan.members, source)
    fits = {name: plan.fits.get(name) for name in plan.files}
    if bench is not None:
        for graph in plan.graphs:
            made_for = graph.lockfile.get("dataset"), tuple(graph.lockfile.get("classes") or ())
            if made_for != (source.dataset, classes):
                data = f"{source.dataset} and its classes"
                notes.append(f"left out: {graph.path.name} is for {made_for[0]}, not for {data}")
                continue
            tell(f"running {graph.path.name}")
            rows.append(_graph_row(graph, source, bench, labels, mark))
            fits[graph.path.name] = _fitted_on(graph)
    unit = MILLISECONDS if bench is not None else MULTIPLY_ADDS
    rows = [rows[i] for i in ranking([row.point for row in rows], unit)]
    on = front([(cost(row.point, unit), row.point.scores.accuracy) for row in rows])
    points = tuple(replace(row.point, front=kept) for row, kept in zip(rows, on, strict=True))
    chosen = None if plan.budget is None else choose(points, plan.budget)
    looked_at, why = _to_look_at(points, plan, chosen)
    split, problem = images_of(source, fingerprint)
    members, agreement, missing = look_at_members(plan.members, plan.sets[-1], source)
    notes += [*missing, *([problem] if problem else []), *_unsteady(points)]
    return Record(
        dataset=source.dataset,
        split=source.name,
        images=len(labels),
        fingerprint=fingerprint,
        classes=classes,
        points=points,
        closeup=closeup(
            rows[looked_at].ask(),
            labels,
            classes,
            point=looked_at,
            why=why,
            split=split,
            mistakes=plan.mistakes,
            diversity=rows[looked_at].diverse(),
        ),
        members=members,
        agreement=agreement,
        budget=plan.budget,
        chosen=chosen,
        missed=None if plan.budget is None or chosen is not None else missed(points, plan.budget),
        fitted=said_of_fits(fits, mark, source.name),
        device=None if bench is None else bench.device.type,
        notes=tuple(dict.fromkeys(notes)),
    )


def _who(committee: Committee) -> tuple[object, ...]:
    """Return what tells two committees apart, but for cascades and the order of the members."""
    members = frozenset((m.name, m.weight, m.temperature) for m in committee.members)
    return members, committee.views, committee.merge, committee.temperature


def _rows(
    candidate: Candidate,
    kept: Ballots,
    plan: Plan,
    validated: tuple[float | None, float | None],
    source: SplitSource,
    bench: "Bench | None",
) -> list[_Row]:
    """Return a candidate's points: one for each precision and runtime, if it can run; else one."""
    committee = candidate.committee

    def row(precision: str, runtime: str, ballots: Ballots, again: Callable[[], Ballots], times: _Times) -> _Row:
        said = say(committee, ballots.votes)
        point = Point(
            name=candidate.name,
            kind=candidate.kind,
            members=tuple(m.name for m in committee.members),
            views=committee.views,
            precision=precision,
            runtime=runtime,
            scores=scores(said.answers, ballots.labels),
            source="stored" if ballots is kept else "fresh",
            val_accuracy=validated[0],
            val_nll=validated[1],
            val_precision="fp32" if validated[0] is not None else None,
            multiply_adds=said.multiply_adds,
            latency=times[0],
            throughput=times[1],
            teacher=candidate.teacher,
            stages=said.stages,
        )
        return _Row(point, lambda: say(committee, again().votes).answers, lambda: how_diverse(committee, again()))

    stored = partial(stored_ballots, committee, source)
    if not runnable(committee):
        return [row("as given", "predictions only", kept, stored, (None, None))]
    if bench is None:
        return [row("fp32", "PyTorch", kept, stored, (None, None))]
    found = []
    for precision in plan.precisions:
        ballots = kept if precision == "fp32" else bench.ballots(committee, precision)
        again = stored if precision == "fp32" else partial(bench.ballots, committee, precision)
        for runtime in plan.runtimes:
            times = bench.times(committee, precision, runtime)
            found.append(row(precision, RUNTIMES[runtime], ballots, again, times))
    return found


def _fitted_on(graph: "Graph") -> Provenance:
    found = graph.lockfile.get("fitted_on")
    return found if isinstance(found, dict) else None


def _graph_row(graph: "Graph", source: SplitSource, bench: "Bench", labels: Labels, mark: str | None) -> _Row:
    """Return the point of an exported graph; what it states of another validation split than `mark` does not count."""
    ask = partial(graph.answers, source.split, source.name)
    accuracy_there, loss_there = graph.validation if is_fitted_on(_fitted_on(graph), mark) else (None, None)
    small, large = bench.graph_times(graph)
    point = Point(
        name=graph.path.stem,
        kind="cascade" if graph.lockfile.get("cascade") else "ensemble",
        members=graph.members,
        views=str(graph.lockfile.get("views", "none")),
        precision=graph.precision,
        runtime=RUNTIMES["onnx"],
        scores=scores(ask(), labels),
        source="fresh",
        val_accuracy=accuracy_there,
        val_nll=loss_there,
        val_precision="fp32" if accuracy_there is not None else None,
        latency=small,
        throughput=large,
    )
    return _Row(point, ask, lambda: None)


def _validated(candidate: Candidate, validation: SplitSource, mark: str | None) -> tuple[float | None, float | None]:
    """Return accuracy and log-loss on the validation split; None if it cannot be told, or a member may have seen it.

    Args:
        candidate: who answers.
        validation: the split.
        mark: its fingerprint; points are not chosen by accuracies on different images.
    """
    if mark is None or any(unseen(member, validation) != mark for member in candidate.committee.members):
        return None, None
    try:
        ballots = stored_ballots(candidate.committee, validation)
    except (NotFoundError, DataError):
        return None, None
    said = say(candidate.committee, ballots.votes).answers
    loss = nll(said.probs, ballots.labels) if said.likelihood else None
    return accuracy(said.top, ballots.labels), loss


def _to_look_at(points: Sequence[Point], plan: Plan, chosen: int | None) -> tuple[int, str]:
    """Return the number of the point to look at closely, and why it is this one; scores shown here do not decide."""
    if chosen is not None and plan.budget is not None:
        best = points[chosen]
        how = "" if best.val_precision == best.precision else f" in {best.val_precision}"
        limit = f"{plan.budget.limit:g} {plan.budget.unit}"
        limit += " in the median" if plan.budget.unit == MILLISECONDS else ""
        return chosen, f"chosen for the budget of {limit}, by its validation accuracy{how}"
    some = [i for i, point in enumerate(points) if point.source == "stored"] or [*range(len(points))]
    files = [i for i in some if points[i].name in plan.files]
    some = files or some
    number = choose([replace(points[i], multiply_adds=0.0) for i in some], Budget(0.0, MULTIPLY_ADDS))
    if number is not None:
        why = "the best of the ensemble files on the validation split" if files else "the best on the validation split"
        return some[number], why if len(plan.files) != 1 else "the ensemble file"
    first = next(iter(plan.files), plan.members[0].name)
    number = next((i for i in some if points[i].name == first), some[0])
    return number, "the first that was given, as none has a validation accuracy"


def _classes(members: Sequence[Member], source: SplitSource) -> tuple[str, ...]:
    card = next((m.origin.card for m in members if isinstance(m.origin, Entry)), None)
    return card.classes if card is not None else source.split.classes


def _unsteady(points: Sequence[Point]) -> list[str]:
    """Say how many of the measured times are to be taken with care."""
    times = [t for p in points for t in (p.latency, p.throughput) if t is not None]
    doubtful = [t for t in times if t.note]
    if not doubtful:
        return []
    return [f"{len(doubtful)} of {len(times)} measurements are to be taken with care, e.g.: {doubtful[0].note}"]
