"""The tables of a recipe: augmentation, optimizer, schedule and what else can be switched on."""

import math
from dataclasses import dataclass
from typing import Literal

from training.expression import compile_expression
from zoo.errors import UsageError

__all__ = [
    "LAMBDA_NAMES",
    "Augment",
    "Average",
    "Distill",
    "Norms",
    "Optimizer",
    "Sam",
    "Schedule",
    "Whitening",
    "demand",
]


def demand(*conditions: tuple[bool, str]) -> None:
    """Raise `UsageError` with the text of the first condition that does not hold."""
    for holds, text in conditions:
        if not holds:
            raise UsageError(text)


@dataclass(frozen=True)
class Augment:
    """Augmentation of each batch, in this order: crop, flip, policy, cutout, mixing.

    Attributes:
        flip: left-right flips: `none`, `random` (each image, each epoch, with probability 1/2), or `alternating`
            (drawn once, then flipped again every epoch; arXiv:2404.00498, section 3.6).
        crop_padding: pixels added on each side, out of which the original size is cropped at random.
        crop_fill: what they hold: the image mirrored at its edge, or zeros (black).
        policy: `autoaugment` (CIFAR-10's, arXiv:1805.09501) or `randaugment` (arXiv:1909.13719).
        randaugment_ops: operations an image.
        randaugment_magnitude: their strength, 0..30.
        cutout: side in pixels of a square set to the mean colour (arXiv:1708.04552); 0 for none.
        cutout_inside: the square lies within the image (arXiv:2404.00498), instead of its centre (the paper's).
        mix: `mixup` (arXiv:1710.09412), `cutmix` (arXiv:1905.04899), or `random`: each batch draws one of them.
        mixup_alpha: both parameters of the beta distribution that mixup's share is drawn from.
        cutmix_alpha: likewise cutmix's.
        mix_share: share of the batches that are mixed.
    """

    flip: Literal["none", "random", "alternating"] = "none"
    crop_padding: int = 0
    crop_fill: Literal["reflect", "zeros"] = "reflect"
    policy: Literal["none", "autoaugment", "randaugment"] = "none"
    randaugment_ops: int = 2
    randaugment_magnitude: int = 9
    cutout: int = 0
    cutout_inside: bool = False
    mix: Literal["none", "mixup", "cutmix", "random"] = "none"
    mixup_alpha: float = 0.2
    cutmix_alpha: float = 1.0
    mix_share: float = 1.0

    def __post_init__(self) -> None:
        demand(
            (self.crop_padding >= 0, "augment.crop_padding must not be negative"),
            (self.randaugment_ops > 0, "augment.randaugment_ops must be above 0"),
            (0 <= self.randaugment_magnitude <= 30, "augment.randaugment_magnitude must be in 0..30"),  # noqa: PLR2004
            (self.cutout >= 0, "augment.cutout must not be negative"),
            (not self.cutout_inside or self.cutout > 0, "augment.cutout_inside goes with augment.cutout"),
            (0 < self.mixup_alpha < math.inf, "augment.mixup_alpha must be finite and above 0"),
            (0 < self.cutmix_alpha < math.inf, "augment.cutmix_alpha must be finite and above 0"),
            (0 <= self.mix_share <= 1, "augment.mix_share must be in [0, 1]"),
        )


@dataclass(frozen=True)
class Whitening:
    """Patch whitening of a network's first layer, from `images` training images; `eps` is added to the variances."""

    images: int
    eps: float

    def __post_init__(self) -> None:
        demand(
            (self.images > 0, "whitening.images must be above 0"),
            (0 <= self.eps < math.inf, "whitening.eps must be finite and not negative"),
        )


@dataclass(frozen=True)
class Optimizer:
    """How parameters move.

    Attributes:
        lr: learning rate, before the schedule's factor.
        kind: `sgd` (Nesterov), `adamw`, or `muon` for convolution filters.
        momentum: Nesterov momentum, or AdamW's first beta, in [0, 1).
        beta2: AdamW's second beta, in [0, 1).
        weight_decay: as torch.optim.SGD (coupled) or AdamW and Muon (decoupled) define it.
        normalize: (muon) rescale each layer's filters to unit root-mean-square norm before every update.
    """

    lr: float
    kind: Literal["sgd", "adamw", "muon"] = "sgd"
    momentum: float = 0.9
    beta2: float = 0.999
    weight_decay: float = 0.0
    normalize: bool = False

    def __post_init__(self) -> None:
        demand(
            (0 < self.lr < math.inf, "optimizer.lr must be finite and above 0"),
            (0 <= self.momentum < 1, "optimizer.momentum must be in [0, 1)"),
            (0 <= self.beta2 < 1, "optimizer.beta2 must be in [0, 1)"),
            (0 <= self.weight_decay < math.inf, "optimizer.weight_decay must be finite and not negative"),
            (self.kind == "muon" or not self.normalize, "optimizer.normalize is for muon"),
        )


LAMBDA_NAMES = frozenset({"step", "epoch", "t"})
"""What the expression of a `lambda` schedule may speak of."""

_MOST_CYCLES, _MOST_GROWTH = 1000, 1e6

_SCHEDULE_KEYS: dict[str, set[str]] = {
    "constant": set(),
    "linear": {"end", "final"},
    "cosine": {"end", "final"},
    "step": {"every", "gamma"},
    "multistep": {"milestones", "gamma"},
    "restarts": {"cycles", "growth", "final"},
    "cyclic": {"cycles", "shrink", "final"},
    "onecycle": {"peak", "initial", "final"},
    "plateau": {"patience", "gamma"},
    "lambda": {"factor"},
}


@dataclass(frozen=True)
class Schedule:
    """How the learning rate changes: a factor for each step. `training.schedules` has the formulas.

    Lengths are shares of the run in 0..1, so that a run of another budget keeps the shape.

    Attributes:
        kind: `constant`, `linear`, `cosine` (arXiv:1608.03983), `step`, `multistep`, `restarts` (cosine with warm
            restarts, the same paper), `cyclic` (arXiv:1506.01186), `onecycle` (arXiv:1708.07120), `plateau`, `lambda`.
        by: change it at every `step`, or only when an `epoch` begins.
        warmup: length of the linear rise at the start, to what the schedule itself says at its end; not for
            `cyclic`, `onecycle` and `plateau`.
        warmup_from: factor that it begins with.
        end: (linear, cosine) where the final factor is reached; it stays there.
        final: (linear, cosine, restarts, cyclic, onecycle) the lowest factor.
        every: (step) length between drops.
        milestones: (multistep) where the drops are.
        gamma: (step, multistep, plateau) factor of a drop.
        shrink: (cyclic) each cycle's height as a multiple of the one before.
        cycles: (restarts, cyclic) how many there are, up to 1000.
        growth: (restarts) each cycle's length as a multiple of the one before, at least 1; the last may be a million
            times the first.
        peak: (onecycle) where the factor is 1.
        initial: (onecycle) factor at the start.
        patience: (plateau) epochs without a better validation accuracy that are borne before a drop.
        factor: (lambda) an expression in `step`, `epoch` (both counted from 0, epoch with its fraction) and `t` (share
            of the run done), e.g. `"0.97 ** epoch"`.
    """

    kind: Literal[
        "constant", "linear", "cosine", "step", "multistep", "restarts", "cyclic", "onecycle", "plateau", "lambda"
    ] = "cosine"
    by: Literal["step", "epoch"] = "step"
    warmup: float = 0.0
    warmup_from: float = 0.01
    end: float = 1.0
    final: float = 0.0
    every: float = 1 / 3
    milestones: tuple[float, ...] = ()
    gamma: float = 0.1
    shrink: float = 1.0
    cycles: int = 1
    growth: float = 1.0
    peak: float = 0.3
    initial: float = 0.04
    patience: int = 10
    factor: str = ""

    def __post_init__(self) -> None:
        shares = (*self.milestones, self.every, self.end)
        demand(
            (0 <= self.warmup < self.end, "schedule.warmup must be in [0, end)"),
            (0 <= self.warmup_from <= 1, "schedule.warmup_from must be in [0, 1]"),
            (all(0 < s <= 1 for s in shares), "schedule.end, every and milestones are shares of the run, in (0, 1]"),
            (list(self.milestones) == sorted(set(self.milestones)), "schedule.milestones must rise"),
            (self.kind != "multistep" or bool(self.milestones), "schedule.milestones are missing"),
            (0 <= self.final <= 1, "schedule.final must be in [0, 1]"),
            (0 < self.gamma <= 1 and 0 < self.shrink <= 1, "schedule.gamma and shrink must be in (0, 1]"),
            (0 < self.cycles <= _MOST_CYCLES, f"schedule.cycles must be in 1..{_MOST_CYCLES}"),
            (1 <= self.growth < math.inf, "schedule.growth must be finite and at least 1"),
            (
                (self.cycles - 1) * math.log(max(self.growth, 1)) <= math.log(_MOST_GROWTH),
                f"schedule.growth makes the last of the cycles more than {_MOST_GROWTH:,.0f} times the first",
            ),
            (0 < self.peak < 1, "schedule.peak must be in (0, 1)"),
            (0 <= self.initial <= 1, "schedule.initial must be in [0, 1]"),
            (self.patience >= 0, "schedule.patience must not be negative"),
            (self.kind != "lambda" or bool(self.factor), "schedule.factor, the expression, is missing"),
            (
                self.kind not in {"plateau", "onecycle", "cyclic"} or not self.warmup,
                f"schedule.warmup is not for {self.kind}",
            ),
        )
        if self.kind == "lambda":
            compile_expression(self.factor, LAMBDA_NAMES)
        own = _SCHEDULE_KEYS[self.kind]
        for key in sorted(set().union(*_SCHEDULE_KEYS.values()) - own):
            demand(
                (
                    getattr(self, key) == getattr(type(self), key),
                    f"schedule.{key} is not for {self.kind}, which takes {', '.join(sorted(own)) or 'none'}",
                )
            )


@dataclass(frozen=True)
class Sam:
    """Sharpness-aware minimisation (arXiv:2010.01412): the gradient is taken `rho` up the slope.

    With `adaptive`, distances are measured relative to each weight (ASAM, arXiv:2102.11600).
    """

    rho: float
    adaptive: bool = False

    def __post_init__(self) -> None:
        demand((0 < self.rho < math.inf, "sam.rho must be finite and above 0"))


_MOST_HELD = 0.9

_AVERAGE_KEYS: dict[str, set[str]] = {
    "ema": {"decay"},
    "swa": {"start"},
    "swag": {"start", "rank", "samples"},
    "lookahead": {"decay", "ramp"},
}


@dataclass(frozen=True)
class Average:
    """Averaging of the weights over the run; the average is what gets filed.

    Attributes:
        kind: `ema` (exponential), `swa` (equal weights, arXiv:1803.05407), `swag` (a Gaussian about the SWA solution,
            arXiv:1902.02476) or `lookahead` (exponential, and training goes on from the average, arXiv:1907.08610).
        every: optimizer steps between updates.
        decay: (ema, lookahead) a step, in (0, 1); ema's rises to this by `(1 + t) / (10 + t)` at update t.
        ramp: (lookahead) the power of the share of the run that the decay rises with; 0 for a constant one.
        start: (swa, swag) share of the run after which averaging begins.
        rank: (swag) columns of the low-rank part of the covariance.
        samples: (swag) networks drawn from it and filed beside the average.
    """

    kind: Literal["ema", "swa", "swag", "lookahead"]
    every: int = 1
    decay: float = 0.999
    ramp: float = 3.0
    start: float = 0.75
    rank: int = 20
    samples: int = 0

    def __post_init__(self) -> None:
        own = _AVERAGE_KEYS[self.kind]
        for key in sorted(set().union(*_AVERAGE_KEYS.values()) - own):
            demand((getattr(self, key) == getattr(type(self), key), f"average.{key} is not for {self.kind}"))
        demand(
            (self.every > 0, "average.every must be above 0"),
            (0 < self.decay < 1, "average.decay must be in (0, 1)"),
            (0 <= self.ramp < math.inf, "average.ramp must be finite and not negative"),
            (0 <= self.start < 1, "average.start must be in [0, 1)"),
            (self.rank > 1, "average.rank must be above 1"),
            (self.samples >= 0, "average.samples must not be negative"),
            (
                self.kind != "lookahead" or self.decay**self.every <= _MOST_HELD,
                f"average.decay ** every must be at most {_MOST_HELD} for lookahead, or the weights hardly move",
            ),
        )


@dataclass(frozen=True)
class Distill:
    """Soft answers of a teacher as targets (G. Hinton, arXiv:1503.02531).

    Attributes:
        teacher: `given` (another network, named when training starts: `--teacher`) or `self` (the network as it was
            at the end of the last epoch, its share growing linearly over the run; arXiv:2006.12000).
        temperature: that both answers are softened with, above 0; the loss is scaled by its square.
        hard_share: weight of the labels' loss, in [0, 1]; for `self`, at the end of the run.
    """

    teacher: Literal["given", "self"] = "given"
    temperature: float = 1.0
    hard_share: float = 0.1

    def __post_init__(self) -> None:
        demand(
            (0 < self.temperature < math.inf, "distill.temperature must be finite and above 0"),
            (0 <= self.hard_share <= 1, "distill.hard_share must be in [0, 1]"),
        )


@dataclass(frozen=True)
class Norms:
    """What is done to all BatchNorms.

    Attributes:
        ghost: images that training statistics are taken over (arXiv:1705.08741); 0 for the whole batch.
        scale: constant that their scales are frozen at; 0 to learn them.
    """

    ghost: int = 0
    scale: float = 0.0

    def __post_init__(self) -> None:
        demand(
            (self.ghost == 0 or self.ghost > 1, "norms.ghost must be 0 or above 1"),
            (0 <= self.scale < math.inf, "norms.scale must be finite and not negative"),
        )
