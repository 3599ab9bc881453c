"""Every schedule against torch's own scheduler of that kind, over a whole run, and what holds for all of them."""

import math
from collections.abc import Callable
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.optim import SGD, Optimizer
from torch.optim.lr_scheduler import (
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    MultiStepLR,
    OneCycleLR,
    SequentialLR,
    StepLR,
)

from training.recipe import Schedule
from training.schedules import cycle_ends, factor, plateau
from zoo.errors import UsageError

N = 60
"""Steps, or epochs, of the runs that torch's schedulers are compared over."""
PER_EPOCH = 5

Make = Callable[[Optimizer], LRScheduler]


def some_optimizer(lr: float = 1.0) -> Optimizer:
    return SGD([nn.Parameter(torch.zeros(()))], lr)


def torch_factors(make: Make, units: int = N) -> list[float]:
    """Return the learning rates that a torch scheduler sets for a peak of 1."""
    optimizer = some_optimizer()
    scheduler, rates = make(optimizer), []
    for _ in range(units):
        rates.append(float(optimizer.param_groups[0]["lr"]))
        optimizer.step()
        scheduler.step()
    return rates


def warmed(make: Make, units: int, start: float) -> Make:
    """Return torch's way to let another scheduler follow a linear warm-up."""
    return lambda o: SequentialLR(o, [LinearLR(o, start, 1.0, units), make(o)], [units])


TWINS: dict[str, tuple[Schedule, Make]] = {
    "constant": (Schedule("constant"), lambda o: ConstantLR(o, 1.0)),
    "linear": (Schedule("linear"), lambda o: LinearLR(o, 1.0, 0.0, N)),
    "linear to 0.1 by half": (Schedule("linear", end=0.5, final=0.1), lambda o: LinearLR(o, 1.0, 0.1, N // 2)),
    "cosine": (Schedule(), lambda o: CosineAnnealingLR(o, N)),
    "cosine to 0.05": (Schedule("cosine", final=0.05), lambda o: CosineAnnealingLR(o, N, 0.05)),
    "step by thirds": (Schedule("step"), lambda o: StepLR(o, 20)),
    "step": (Schedule("step", every=0.15, gamma=0.5), lambda o: StepLR(o, 9, 0.5)),
    "multistep": (
        Schedule("multistep", milestones=(0.3, 0.6, 0.8), gamma=0.2),
        lambda o: MultiStepLR(o, [18, 36, 48], 0.2),
    ),
    "restarts": (Schedule("restarts", cycles=4), lambda o: CosineAnnealingWarmRestarts(o, 15)),
    "growing restarts": (
        Schedule("restarts", cycles=4, growth=2.0, final=0.1),
        lambda o: CosineAnnealingWarmRestarts(o, 4, 2, 0.1),
    ),
    "cyclic": (
        Schedule("cyclic", cycles=5, final=0.1),
        lambda o: CyclicLR(o, 0.1, 1.0, 6, cycle_momentum=False),
    ),
    "shrinking cyclic": (
        Schedule("cyclic", cycles=3, shrink=0.5),
        lambda o: CyclicLR(o, 0.0, 1.0, 10, mode="triangular2", cycle_momentum=False),
    ),
    "onecycle": (
        Schedule("onecycle", final=4e-6),
        lambda o: OneCycleLR(o, 1.0, N, cycle_momentum=False),
    ),
    "late onecycle": (
        Schedule("onecycle", peak=0.45, initial=0.1, final=0.001),
        lambda o: OneCycleLR(o, 1.0, N, pct_start=0.45, div_factor=10, final_div_factor=100, cycle_momentum=False),
    ),
    "warm cosine": (
        Schedule(warmup=0.2, warmup_from=0.1),
        warmed(lambda o: CosineAnnealingLR(o, 48), 12, 0.1),
    ),
    "warm linear": (
        Schedule("linear", warmup=0.1, warmup_from=0.5, end=0.8, final=0.2),
        warmed(lambda o: LinearLR(o, 1.0, 0.2, 42), 6, 0.5),
    ),
    "warm restarts": (
        Schedule("restarts", warmup=0.25, cycles=3),
        warmed(lambda o: CosineAnnealingWarmRestarts(o, 15), 15, 0.01),
    ),
    "warm multistep": (
        Schedule("multistep", warmup=0.05, milestones=(0.5, 0.75)),
        warmed(lambda o: MultiStepLR(o, [27, 42]), 3, 0.01),
    ),
}


@pytest.mark.parametrize("name", TWINS)
def test_by_step_equals_torchs(name: str) -> None:
    schedule, make = TWINS[name]
    at = factor(schedule, N, PER_EPOCH)
    assert [at(step) for step in range(N)] == pytest.approx(torch_factors(make), abs=1e-9)


@pytest.mark.parametrize("name", [name for name in TWINS if "onecycle" not in name])
def test_by_epoch_equals_torchs_stepped_after_each_epoch(name: str) -> None:
    schedule, make = TWINS[name]
    by_epoch = Schedule(**{**vars(schedule), "by": "epoch"})
    at = factor(by_epoch, N * PER_EPOCH, PER_EPOCH)
    expected = [rate for rate in torch_factors(make) for _ in range(PER_EPOCH)]
    assert [at(step) for step in range(N * PER_EPOCH)] == pytest.approx(expected, abs=1e-9)


@pytest.mark.parametrize("by", ["step", "epoch"])
def test_lambda_equals_torchs(by: str) -> None:
    schedule = Schedule("lambda", by=by, factor="0.97 ** epoch * (1 - t) + step / 1000")  # type: ignore[arg-type]
    at = factor(schedule, N, PER_EPOCH)

    def expected(step: int) -> float:
        seen = step if by == "step" else step // PER_EPOCH * PER_EPOCH
        return math.pow(0.97, seen / PER_EPOCH) * (1 - seen / N) + seen / 1000

    rates = torch_factors(lambda o: LambdaLR(o, expected))
    assert [at(step) for step in range(N)] == pytest.approx(rates, abs=1e-12)


def test_lambda_counts_the_steps_of_the_warm_up_too() -> None:
    at = factor(Schedule("lambda", warmup=0.5, warmup_from=0.0, factor="2 - t"), 40, 4)
    assert [at(step) for step in (0, 10, 20, 30)] == pytest.approx([0, 0.75, 1.5, 1.25])


@pytest.mark.parametrize(("text", "value"), [("1 - 2 * t", "-0.5"), ("0 - step", "-30")])
def test_lambda_must_not_be_negative(text: str, value: str) -> None:
    at = factor(Schedule("lambda", factor=text), 40, 4)
    assert at(0) >= 0
    with pytest.raises(UsageError, match=f"is {value}.* at step 30: it must not be negative"):
        at(30)


def test_lambda_without_a_value_is_a_usage_error() -> None:
    at = factor(Schedule("lambda", factor="1 / (step - 3)"), 40, 4)
    with pytest.raises(UsageError, match="has no value"):
        at(3)


def shares(least: float = 0.0, most: float = 1.0) -> st.SearchStrategy[float]:
    return st.floats(least, most, allow_subnormal=False)


def rising(values: list[float]) -> tuple[float, ...]:
    return tuple(sorted(values))


by = st.sampled_from(["step", "epoch"])
warm_up = {"by": by, "warmup": shares(0, 0.4), "warmup_from": shares()}
KINDS: dict[str, st.SearchStrategy[Schedule]] = {
    "constant": st.builds(Schedule, st.just("constant"), **warm_up),
    "linear": st.builds(Schedule, st.just("linear"), end=shares(0.5), final=shares(), **warm_up),
    "cosine": st.builds(Schedule, st.just("cosine"), end=shares(0.5), final=shares(), **warm_up),
    "step": st.builds(Schedule, st.just("step"), every=shares(0.01), gamma=shares(0.01), **warm_up),
    "multistep": st.builds(
        Schedule,
        st.just("multistep"),
        milestones=st.lists(shares(0.01), min_size=1, max_size=5, unique=True).map(rising),
        gamma=shares(0.01),
        **warm_up,
    ),
    "restarts": st.builds(
        Schedule, st.just("restarts"), cycles=st.integers(1, 9), growth=shares(1, 3), final=shares(), **warm_up
    ),
    "cyclic": st.builds(
        Schedule, st.just("cyclic"), by=by, cycles=st.integers(1, 9), shrink=shares(0.01), final=shares()
    ),
    "onecycle": st.builds(
        Schedule, st.just("onecycle"), by=by, peak=shares(0.01, 0.99), initial=shares(), final=shares()
    ),
    "lambda": st.builds(
        Schedule, st.just("lambda"), factor=st.sampled_from(["0.9 ** epoch", "1 - t", "1 / (1 + step)"]), **warm_up
    ),
}
any_schedule = st.one_of(*KINDS.values())
runs = st.tuples(st.integers(1, 40), st.integers(1, 25)).map(lambda run: (run[0] * run[1], run[1]))


def test_every_kind_is_drawn() -> None:
    from training.tables import _SCHEDULE_KEYS

    assert {*KINDS, "plateau"} == set(_SCHEDULE_KEYS)


@given(schedule=any_schedule, run=runs)
def test_factors_are_shares_of_the_learning_rate(schedule: Schedule, run: tuple[int, int]) -> None:
    at = factor(schedule, *run)
    values = [at(step) for step in range(run[0] + 1)]
    assert all(type(value) is float and math.isfinite(value) for value in values)
    assert min(values) >= -1e-12
    assert max(values) <= 1 + 1e-12


@given(schedule=any_schedule, run=runs, data=st.data())
def test_any_step_can_be_asked_for_in_any_order(schedule: Schedule, run: tuple[int, int], data: st.DataObject) -> None:
    at = factor(schedule, *run)
    in_order = [at(step) for step in range(run[0])]
    asked = data.draw(st.lists(st.integers(0, run[0] - 1), max_size=10))
    assert [at(step) for step in asked] == [in_order[step] for step in asked]
    afresh = factor(schedule, *run)
    assert [afresh(step) for step in asked] == [in_order[step] for step in asked]


@given(schedule=any_schedule, run=runs)
def test_by_epoch_is_by_step_held_for_an_epoch(schedule: Schedule, run: tuple[int, int]) -> None:
    steps, per_epoch = run
    held = factor(Schedule(**{**vars(schedule), "by": "epoch"}), steps, per_epoch)
    free = factor(Schedule(**{**vars(schedule), "by": "step"}), steps, per_epoch)
    assert [held(step) for step in range(steps)] == [free(step - step % per_epoch) for step in range(steps)]


@given(
    schedule=st.one_of(*(KINDS[kind] for kind in ("linear", "cosine", "restarts", "cyclic", "onecycle"))),
    run=runs,
)
def test_the_run_ends_at_final(schedule: Schedule, run: tuple[int, int]) -> None:
    at = factor(Schedule(**{**vars(schedule), "by": "step"}), *run)
    last = run[0] - 1 if schedule.kind == "onecycle" else run[0]  # one-cycle's last step has it; others' would be next
    assert at(last) == pytest.approx(schedule.final, abs=1e-9)
    assert at(10 * run[0]) == pytest.approx(schedule.final, abs=1e-9)


@given(schedule=st.one_of(*(KINDS[kind] for kind in ("linear", "cosine"))), run=runs)
def test_final_holds_from_the_end_on(schedule: Schedule, run: tuple[int, int]) -> None:
    at = factor(schedule, *run)
    first = math.ceil(schedule.end * run[0] + 1e-9) + (run[1] if schedule.by == "epoch" else 0)
    assert [at(step) for step in range(first, run[0])] == pytest.approx([schedule.final] * max(run[0] - first, 0))


@given(
    schedule=st.one_of(*(KINDS[kind] for kind in ("constant", "linear", "cosine", "restarts"))),
    rise=st.integers(100, 800),
)
def test_warm_up_is_a_line_that_the_schedule_goes_on_from(schedule: Schedule, rise: int) -> None:
    steps = 2000
    warm = Schedule(**{**vars(schedule), "warmup": rise / steps, "by": "step"})
    at = factor(warm, steps, 10)
    line = [warm.warmup_from + (1 - warm.warmup_from) * step / rise for step in range(rise + 1)]
    assert [at(step) for step in range(rise + 1)] == pytest.approx(line, abs=1e-9)
    assert at(0) == warm.warmup_from


@given(
    schedule=st.one_of(*(KINDS[kind] for kind in ("step", "multistep", "lambda"))),
    warmup=shares(0.05, 0.4),
)
def test_warm_up_rises_to_wherever_the_schedule_is_by_then(schedule: Schedule, warmup: float) -> None:
    steps = 2000
    warm, cold = (Schedule(**{**vars(schedule), "warmup": w, "by": "step"}) for w in (warmup, 0.0))
    at, other = factor(warm, steps, 10), factor(cold, steps, 10)
    after = range(math.ceil(warmup * steps), steps, 20)
    assert [at(step) for step in after] == pytest.approx([other(step) for step in after], abs=1e-9)
    assert at(0) == warm.warmup_from
    rise = [at(step) for step in range(math.ceil(warmup * steps))]
    slopes = [b - a for a, b in pairwise(rise)]
    assert slopes == pytest.approx([slopes[0]] * len(slopes), abs=1e-9)
    top = rise[0] + slopes[0] * warmup * steps
    around = (other(math.floor(warmup * steps)), other(math.ceil(warmup * steps)))  # there may be a drop in between
    assert min(abs(top - value) for value in around) < 0.01


@given(
    schedule=st.one_of(*(KINDS[kind] for kind in KINDS if kind not in {"onecycle", "lambda"})),
    run=runs,
)
def test_shape_does_not_depend_on_the_budget(schedule: Schedule, run: tuple[int, int]) -> None:
    steps, per_epoch = run
    short, long = factor(schedule, steps, per_epoch), factor(schedule, 8 * steps, 8 * per_epoch)
    assert [long(8 * step) for step in range(steps)] == pytest.approx([short(step) for step in range(steps)], abs=1e-7)


@given(st.one_of(KINDS["restarts"], KINDS["cyclic"]))
def test_cycles_fill_the_run(schedule: Schedule) -> None:
    ends = cycle_ends(schedule)
    assert len(ends) == schedule.cycles
    assert ends[-1] == 1
    lengths = [end - begin for begin, end in zip([0.0, *ends], ends, strict=False)]
    ratio = schedule.growth if schedule.kind == "restarts" else 1.0
    for before, after in pairwise(lengths):
        assert after / before == pytest.approx(ratio)


def test_cycle_ends() -> None:
    assert cycle_ends(Schedule("restarts", cycles=3, growth=2.0)) == pytest.approx([1 / 7, 3 / 7, 1])
    assert cycle_ends(Schedule("cyclic", cycles=4)) == [0.25, 0.5, 0.75, 1]
    most = cycle_ends(Schedule("restarts", cycles=1000, growth=1.01))
    assert most == sorted(set(most))


def test_one_step_is_a_run() -> None:
    for schedule in (Schedule(), Schedule("linear"), Schedule("step"), Schedule("restarts"), Schedule("constant")):
        assert factor(schedule, 1, 1)(0) == 1


def test_plateau_is_no_function_of_the_step() -> None:
    with pytest.raises(ValueError, match="validation accuracy"):
        factor(Schedule("plateau"), 10, 2)


def test_plateau_drops_after_epochs_of_patience() -> None:
    optimizer = some_optimizer(0.8)
    scheduler = plateau(Schedule("plateau", patience=2, gamma=0.5), optimizer)
    rates = []
    for accuracy in (0.5, 0.6, 0.6, 0.55, 0.6, 0.6, 0.7, 0.7, 0.7, 0.7):
        optimizer.step()
        scheduler.step(accuracy)
        rates.append(optimizer.param_groups[0]["lr"])
    assert rates == pytest.approx([0.8, 0.8, 0.8, 0.8, 0.4, 0.4, 0.4, 0.4, 0.4, 0.2])
