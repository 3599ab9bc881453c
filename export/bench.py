"""How fast exported graphs are, beside PyTorch: the same ensemble, on the same images, in turns.

PyTorch is there as people run it: eager, its networks and their inputs in the channels-last layout, in the precision of
the graph; the same through `torch.compile`; and frozen by `ensemble.freeze`. What is timed begins with uint8 images in
the machine's memory and ends with probabilities there.
"""

import copy
import json
import statistics
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

import ensemble
from ensemble.cascade.run import Cascade
from ensemble.latency.measure import SECONDS, measure_in_turns, shuffled_batches
from ensemble.latency.times import Latency
from ensemble.module import Ensemble
from export.runtime.answer import Floats
from export.runtime.base import AnySession
from tta.freeze import FrozenNet, Setting, best_precision
from tta.predict import Precision
from zoo.convert import DTYPES
from zoo.data.split import Pixels
from zoo.errors import MenagerieError, UsageError

__all__ = ["EAGER", "Bench", "Contender", "Row", "bench", "graph", "load_model", "torch_contenders", "torch_precision"]

EAGER = "PyTorch eager"
"""What others are compared with."""

_CPU = torch.device("cpu")
_SEED = 0
_AGREEMENT, _FEWEST = 0.99, 100  # of so many images at least


@dataclass(frozen=True, eq=False)
class Contender:
    """Something that classifies images.

    Attributes:
        name: for people.
        precision: of its networks.
        run: uint8 `[B, H, W, 3]` in the machine's memory -> probabilities `[B, C]` there.
        optional: whether the others are measured without it, if it fails.
    """

    name: str
    precision: str
    run: Callable[[Tensor], Floats]
    optional: bool = False


@dataclass(frozen=True)
class Row:
    """What a contender took for batches of one size.

    Attributes:
        name: of the contender.
        precision: of its networks.
        latency: of a batch.
        ratios: how many times as fast as the one that it is compared with, a number for each round; None for itself.
    """

    name: str
    precision: str
    latency: Latency
    ratios: tuple[float, ...] | None

    @property
    def ratio(self) -> float | None:
        """The median of the ratios."""
        return None if self.ratios is None else statistics.median(self.ratios)

    def to_dict(self) -> dict[str, Any]:
        """Return all that is known, for JSON."""
        ratios = None if self.ratios is None else [round(ratio, 4) for ratio in self.ratios]
        ratio = None if self.ratio is None else round(self.ratio, 4)
        return {
            "name": self.name,
            "precision": self.precision,
            "ratio": ratio,
            "ratios": ratios,
            **self.latency.to_dict(),
        }


@dataclass
class Bench:
    """What was measured.

    Attributes:
        rows: by batch, then by contender.
        agreement: contender -> share of images on which its class is the first one's.
        notes: what to know of it.
    """

    rows: list[Row] = field(default_factory=list)
    agreement: dict[str, float] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def graph(session: AnySession) -> Contender:
    """Return a graph, or a cascade's stage graphs, as a contender."""
    return Contender(session.path.name, session.precision, lambda images: session.run(images.numpy()))


def torch_precision(precision: str, device: torch.device) -> Precision:
    """Return the precision in which PyTorch is compared with a graph.

    It is the graph's own; int8 is compared with the fastest that PyTorch has for the same weights on the device.
    """
    return best_precision(device) if precision == "int8" else cast("Precision", precision)


def load_model(session: AnySession) -> Ensemble | Cascade:
    """Return the ensemble that a graph is, as its lockfile names it.

    Raises:
        NotFoundError, DataError, CorruptError, SourceError: as in `ensemble.load`: a member is not here, or another.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ensemble.json"
        path.write_text(json.dumps(session.lockfile), encoding="utf-8")
        try:
            return ensemble.load(path)
        except MenagerieError as error:
            raise type(error)(str(error).replace(str(path), session.path.name)) from error


def torch_contenders(model: Ensemble | Cascade, precision: Precision, device: torch.device) -> list[Contender]:
    """Return an ensemble in PyTorch: eager, compiled, and frozen.

    Args:
        model: in fp32; it is not changed.
        precision: of the networks.
        device: where they run.
    """
    eager = _channels_last(model, precision, device)
    compiled = copy.deepcopy(eager)
    if isinstance(compiled, Cascade):  # what is left of a batch has any size
        for net in compiled.nets:
            net.compile(dynamic=True)
    else:
        compiled.compile(mode="reduce-overhead" if device.type == "cuda" else "default", dynamic=False)
    frozen = ensemble.freeze(model, Setting(device, precision))
    return [
        Contender(EAGER, precision, _runner(eager, device), optional=True),
        Contender("PyTorch compiled", precision, _runner(compiled, device), optional=True),
        Contender("ensemble.freeze", precision, _frozen_runner(frozen, device), optional=True),
    ]


class _ChannelsLast(nn.Module):
    """A network in one precision, whose weights and inputs are channels-last."""

    def __init__(self, net: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.net, self._dtype = net.to(dtype).to(memory_format=torch.channels_last), dtype

    def forward(self, images: Tensor) -> Tensor:
        logits: Tensor = self.net(images.to(self._dtype, memory_format=torch.channels_last))
        return logits


def _channels_last(model: Ensemble | Cascade, precision: Precision, device: torch.device) -> Ensemble | Cascade:
    """Return a copy of an ensemble with such networks."""
    copied = copy.deepcopy(model).to(device)
    whole = copied.whole if isinstance(copied, Cascade) else copied
    whole.nets = nn.ModuleList(_ChannelsLast(net, getattr(torch, DTYPES[precision])) for net in whole.nets)
    return copied


def _runner(model: nn.Module, device: torch.device) -> Callable[[Tensor], Floats]:
    def run(images: Tensor) -> Floats:
        probs: Floats = model(images.to(device)).cpu().numpy()
        return probs

    return run


def _frozen_runner(model: Ensemble | Cascade, device: torch.device) -> Callable[[Tensor], Floats]:
    """Return what runs a frozen ensemble, and raises `UsageError` once a network has fallen back to fp32."""
    plain = _runner(model, device)

    def run(images: Tensor) -> Floats:
        probs = plain(images)
        for net in model.nets:
            if isinstance(net, FrozenNet) and net.precision != net.setting.precision:
                raise UsageError(f"it fails in {net.setting.precision}, and runs in {net.precision}")
        return probs

    return run


def bench(
    contenders: Sequence[Contender],
    pixels: Pixels,
    batches: Sequence[int],
    *,
    seconds: float = SECONDS,
    threads: int | None = None,
    tell: Callable[[str], None] = lambda _: None,
) -> Bench:
    """Measure contenders in turns, for each size of batch.

    They are compared with PyTorch eager, and if it is not among them, with the first.

    Args:
        contenders: the first one's classes are what the others' are held to.
        pixels: real images, uint8 `[N, H, W, 3]`; they are taken in random order.
        batches: images B in a batch, for each table of times.
        seconds: that each is measured for each size, at least.
        threads: of PyTorch on the CPU [default: as it is].
        tell: called with a few words before anything slow.

    Raises:
        UsageError: a batch has more images than there are.
    """
    found, left = Bench(), list(contenders)
    same: dict[str, list[bool]] = {}
    if max(batches) > len(pixels):
        raise UsageError(f"--batch {max(batches)}: there are {len(pixels)} images")
    with _threads(threads), torch.inference_mode():
        for batch in batches:
            images = shuffled_batches(pixels, batch, seed=_SEED, device=_CPU)
            torch.compiler.reset()  # of batches of another size, of which it would keep eight
            tell(f"preparing batches of {batch}")
            tops = _first(left, images[0], found.notes)
            left = [one for one in left if one.name in tops]
            for name, top in tops.items():
                same.setdefault(name, []).extend(top == tops[left[0].name])
            tell(f"measuring batches of {batch}")
            turns = measure_in_turns([one.run for one in left], images, device=_CPU, seconds=seconds)
            base = next((n for n, one in enumerate(left) if one.name == EAGER), 0)
            for number, (one, turn) in enumerate(zip(left, turns, strict=True)):
                ratios = None if number == base else tuple(turn.times_faster(turns[base]))
                found.rows.append(Row(one.name, one.precision, turn.latency, ratios))
    found.agreement = {name: float(np.mean(each)) for name, each in same.items()}
    first = contenders[0].name
    found.notes += [
        f"{name} gives another class than {first} on {100 * (1 - share):.1f} % of {len(same[name]):,} images"
        for name, share in found.agreement.items()
        if share < _AGREEMENT and len(same[name]) >= _FEWEST
    ]
    return found


def _first(contenders: Sequence[Contender], images: Tensor, notes: list[str]) -> dict[str, npt.NDArray[np.intp]]:
    """Return the classes of a first batch, `[B]` for each name; whatever has to be compiled, is."""
    tops = {}
    for one in contenders:
        try:
            tops[one.name] = one.run(images).argmax(1)
        except Exception as error:
            if not one.optional:
                raise
            reason = str(error).strip().partition("\n")[0]
            notes.append(f"{one.name} is left out: {type(error).__name__}: {reason}")
    return tops


@contextmanager
def _threads(count: int | None) -> Iterator[None]:
    """Let PyTorch use so many threads meanwhile."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
