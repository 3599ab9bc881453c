"""What the tables of a recipe take and refuse: every demand, at the end of its range and just beyond it."""

import math
import re
from collections.abc import Callable
from typing import Any

import pytest

from training.tables import Augment, Average, Distill, Norms, Optimizer, Sam, Schedule, Whitening, demand
from zoo.errors import UsageError

Table = Callable[..., Any]
INF, NAN = math.inf, math.nan

REFUSED: list[tuple[Table, dict[str, Any], str]] = [
    (Augment, {"crop_padding": -1}, "augment.crop_padding must not be negative"),
    (Augment, {"randaugment_ops": 0}, "augment.randaugment_ops must be above 0"),
    (Augment, {"randaugment_magnitude": -1}, "augment.randaugment_magnitude must be in 0..30"),
    (Augment, {"randaugment_magnitude": 31}, "augment.randaugment_magnitude must be in 0..30"),
    (Augment, {"cutout": -1}, "augment.cutout must not be negative"),
    *(
        (Augment, {key: value}, f"augment.{key} must be finite and above 0")
        for key in ("mixup_alpha", "cutmix_alpha")
        for value in (0.0, -1.0, INF, NAN)
    ),
    *((Augment, {"mix_share": value}, "augment.mix_share must be in [0, 1]") for value in (-0.1, 1.1, NAN)),
    (Whitening, {"images": 0, "eps": 0.1}, "whitening.images must be above 0"),
    *(
        (Whitening, {"images": 1, "eps": value}, "whitening.eps must be finite and not negative")
        for value in (-0.1, INF, NAN)
    ),
    *((Optimizer, {"lr": value}, "optimizer.lr must be finite and above 0") for value in (0.0, -1.0, INF, NAN)),
    *(
        (Optimizer, {"lr": 1.0, key: value}, f"optimizer.{key} must be in [0, 1)")
        for key in ("momentum", "beta2")
        for value in (-0.1, 1.0, NAN)
    ),
    *(
        (Optimizer, {"lr": 1.0, "weight_decay": value}, "optimizer.weight_decay must be finite and not negative")
        for value in (-1e-4, INF, NAN)
    ),
    (Optimizer, {"lr": 1.0, "normalize": True}, "optimizer.normalize is for muon"),
    (Optimizer, {"lr": 1.0, "kind": "adamw", "normalize": True}, "optimizer.normalize is for muon"),
    *((Schedule, {"warmup": value}, "schedule.warmup must be in [0, end)") for value in (-0.1, 1.0, NAN)),
    (Schedule, {"warmup": 0.5, "end": 0.5}, "schedule.warmup must be in [0, end)"),
    *((Schedule, {"warmup_from": value}, "schedule.warmup_from must be in [0, 1]") for value in (-0.1, 1.1, NAN)),
    *(
        (Schedule, table, "schedule.end, every and milestones are shares of the run, in (0, 1]")
        for table in (
            {"end": 1.1},
            {"kind": "step", "every": 0.0},
            {"kind": "step", "every": 1.1},
            {"kind": "step", "every": NAN},
            {"kind": "multistep", "milestones": (0.0, 0.5)},
            {"kind": "multistep", "milestones": (0.5, 1.1)},
            {"kind": "multistep", "milestones": (80.0, 120.0)},  # epochs, by mistake
        )
    ),
    (Schedule, {"kind": "multistep", "milestones": (0.6, 0.3)}, "schedule.milestones must rise"),
    (Schedule, {"kind": "multistep", "milestones": (0.3, 0.3)}, "schedule.milestones must rise"),
    (Schedule, {"kind": "multistep"}, "schedule.milestones are missing"),
    *((Schedule, {"final": value}, "schedule.final must be in [0, 1]") for value in (-0.1, 1.1, NAN)),
    *(
        (Schedule, table, "schedule.gamma and shrink must be in (0, 1]")
        for table in (
            {"kind": "step", "gamma": 0.0},
            {"kind": "step", "gamma": 1.1},
            {"kind": "plateau", "gamma": NAN},
            {"kind": "cyclic", "shrink": 0.0},
            {"kind": "cyclic", "shrink": 1.1},
        )
    ),
    *(
        (Schedule, {"kind": "restarts", "cycles": value}, "schedule.cycles must be in 1..1000")
        for value in (0, -1, 1001)
    ),
    *(
        (Schedule, {"kind": "restarts", "growth": value}, "schedule.growth must be finite and at least 1")
        for value in (0.9, 0.0, -1.0, INF, NAN)
    ),
    *(
        (
            Schedule,
            {"kind": "restarts", "growth": growth, "cycles": cycles},
            "schedule.growth makes the last of the cycles more than 1,000,000 times the first",
        )
        for growth, cycles in ((1000.1, 3), (2.0, 1000), (1e300, 2))
    ),
    *((Schedule, {"kind": "onecycle", "peak": value}, "schedule.peak must be in (0, 1)") for value in (0.0, 1.0, NAN)),
    *(
        (Schedule, {"kind": "onecycle", "initial": value}, "schedule.initial must be in [0, 1]")
        for value in (-0.1, 1.1, NAN)
    ),
    (Schedule, {"kind": "plateau", "patience": -1}, "schedule.patience must not be negative"),
    (Schedule, {"kind": "lambda"}, "schedule.factor, the expression, is missing"),
    (Schedule, {"kind": "lambda", "factor": "1 - x"}, "expression '1 - x': 'x' is not understood"),
    *(
        (Schedule, {"kind": kind, "warmup": 0.1}, f"schedule.warmup is not for {kind}")
        for kind in ("plateau", "onecycle", "cyclic")
    ),
    *((Sam, {"rho": value}, "sam.rho must be finite and above 0") for value in (0.0, -0.1, INF, NAN)),
    (Average, {"kind": "ema", "every": 0}, "average.every must be above 0"),
    *((Average, {"kind": "ema", "decay": value}, "average.decay must be in (0, 1)") for value in (0.0, 1.0, NAN)),
    *(
        (Average, {"kind": "lookahead", "decay": 0.5, "ramp": value}, "average.ramp must be finite")
        for value in (-0.1, INF, NAN)
    ),
    *((Average, {"kind": "swa", "start": value}, "average.start must be in [0, 1)") for value in (-0.1, 1.0, NAN)),
    (Average, {"kind": "swag", "rank": 1}, "average.rank must be above 1"),
    (Average, {"kind": "swag", "samples": -1}, "average.samples must not be negative"),
    *((Average, {"kind": kind, "samples": 1}, f"average.samples is not for {kind}") for kind in ("ema", "swa")),
    (Average, {"kind": "ema", "start": 0.5}, "average.start is not for ema"),
    (Average, {"kind": "ema", "ramp": 0.5}, "average.ramp is not for ema"),
    (Average, {"kind": "swa", "decay": 0.5}, "average.decay is not for swa"),
    (Average, {"kind": "lookahead", "rank": 5}, "average.rank is not for lookahead"),
    (Average, {"kind": "lookahead"}, "average.decay ** every must be at most 0.9 for lookahead"),
    (Augment, {"cutout_inside": True}, "augment.cutout_inside goes with augment.cutout"),
    *(
        (Distill, {"temperature": value}, "distill.temperature must be finite and above 0")
        for value in (0.0, -1.0, INF, NAN)
    ),
    *((Distill, {"hard_share": value}, "distill.hard_share must be in [0, 1]") for value in (-0.1, 1.1, NAN)),
    (Norms, {"ghost": 1}, "norms.ghost must be 0 or above 1"),
    (Norms, {"ghost": -2}, "norms.ghost must be 0 or above 1"),
    *((Norms, {"scale": value}, "norms.scale must be finite and not negative") for value in (-0.1, INF, NAN)),
]


@pytest.mark.parametrize(
    ("table", "values", "message"), REFUSED, ids=[f"{table.__name__}-{values}" for table, values, _ in REFUSED]
)
def test_what_is_out_of_range_is_refused(table: Table, values: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=f"^{re.escape(message)}") as raised:
        table(**values)
    assert "\n" not in str(raised.value)


TAKEN: list[tuple[Table, dict[str, Any]]] = [
    (Augment, {"crop_padding": 0, "randaugment_ops": 1, "randaugment_magnitude": 0, "cutout": 0, "mix_share": 0.0}),
    (Augment, {"randaugment_magnitude": 30, "mix_share": 1.0, "mixup_alpha": 1e-9, "cutmix_alpha": 1e9}),
    (Whitening, {"images": 1, "eps": 0.0}),
    (Optimizer, {"lr": 1e-12, "momentum": 0.0, "beta2": 0.0, "weight_decay": 0.0}),
    (Optimizer, {"lr": 1e6, "kind": "muon", "momentum": 0.999, "normalize": True}),
    (Schedule, {"warmup": 0.0, "warmup_from": 0.0, "end": 1e-3, "final": 0.0}),
    (Schedule, {"warmup": 0.999, "warmup_from": 1.0, "final": 1.0}),
    (Schedule, {"kind": "step", "every": 1.0, "gamma": 1.0}),
    (Schedule, {"kind": "multistep", "milestones": (1e-3, 1.0), "gamma": 1e-9}),
    (Schedule, {"kind": "restarts", "cycles": 1, "growth": 1e300}),
    (Schedule, {"kind": "restarts", "cycles": 2, "growth": 1e6}),
    (Schedule, {"kind": "restarts", "cycles": 1000}),
    (Schedule, {"kind": "cyclic", "cycles": 1, "shrink": 1.0}),
    (Schedule, {"kind": "onecycle", "peak": 1e-3, "initial": 0.0}),
    (Schedule, {"kind": "onecycle", "peak": 0.999, "initial": 1.0}),
    (Schedule, {"kind": "plateau", "patience": 0}),
    (Schedule, {"kind": "lambda", "factor": "1", "warmup": 0.1}),
    (Sam, {"rho": 1e-9}),
    (Average, {"kind": "ema", "every": 1, "decay": 1e-9}),
    (Average, {"kind": "lookahead", "decay": 0.9, "ramp": 0.0}),
    (Average, {"kind": "swa", "start": 0.0}),
    (Average, {"kind": "swag", "rank": 2, "samples": 5}),
    (Distill, {"temperature": 1e-3, "hard_share": 0.0}),
    (Distill, {"hard_share": 1.0}),
    (Norms, {"ghost": 0, "scale": 0.0}),
    (Norms, {"ghost": 2}),
]


@pytest.mark.parametrize(("table", "values"), TAKEN)
def test_what_is_at_the_end_of_its_range_is_taken(table: Table, values: dict[str, Any]) -> None:
    made = table(**values)
    assert {key: getattr(made, key) for key in values} == values


# From the descriptions of the keys, kind by kind.
KEYS = {
    "constant": "",
    "linear": "end final",
    "cosine": "end final",
    "step": "every gamma",
    "multistep": "milestones gamma",
    "restarts": "cycles growth final",
    "cyclic": "cycles shrink final",
    "onecycle": "peak initial final",
    "plateau": "patience gamma",
    "lambda": "factor",
}
VALUES: dict[str, Any] = {
    "end": 0.5,
    "final": 0.25,
    "every": 0.5,
    "gamma": 0.5,
    "milestones": (0.25, 0.5),
    "cycles": 3,
    "growth": 2.0,
    "shrink": 0.5,
    "peak": 0.5,
    "initial": 0.5,
    "patience": 3,
    "factor": "1 - t",
}


@pytest.mark.parametrize("kind", KEYS)
@pytest.mark.parametrize("key", VALUES)
def test_each_schedule_takes_its_own_keys_alone(kind: Any, key: str) -> None:  # noqa: ANN401
    needed = {"multistep": "milestones", "lambda": "factor"}.get(kind)
    values = {needed: VALUES[needed]} if needed else {}
    if key in KEYS[kind].split():
        assert getattr(Schedule(kind, **values | {key: VALUES[key]}), key) == VALUES[key]
    else:
        with pytest.raises(UsageError, match=f"^schedule.{key} is not for {kind}, which takes ") as raised:
            Schedule(kind, **values | {key: VALUES[key]})
        taken = str(raised.value).rsplit("takes ", 1)[1]
        assert taken == (", ".join(sorted(KEYS[kind].split())) or "none")


def test_defaults_of_other_kinds_may_be_said() -> None:
    """As a resolved recipe does, which has every key."""
    cosine = Schedule()
    assert Schedule(**vars(cosine)) == cosine


def test_first_of_several_mistakes_by_the_alphabet_is_named() -> None:
    with pytest.raises(UsageError, match=re.escape("schedule.cycles is not for cosine, which takes end, final")):
        Schedule(shrink=0.5, patience=1, growth=2.0, cycles=2)


def test_demand_names_the_first_that_does_not_hold() -> None:
    demand()
    demand((True, "a"), (True, "b"))
    with pytest.raises(UsageError, match=r"^b$"):
        demand((True, "a"), (False, "b"), (False, "c"))
