"""Committees of tiny untrained networks, and graphs of them that are exported once for all tests."""

import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import torch
from torch import nn

from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.lockfile import Committee, lockfile_text
from ensemble.members import Member
from ensemble.merge import Merge
from ensemble.module import Ensemble
from export import pipeline
from export.graph.trace import trace
from export.pipeline import Measured, Order, export
from export.runtime.answer import Floats
from tests.conftest import CLASSES
from tests.ensemble.conftest import pictures
from zoo import checkpoint
from zoo.archs import create
from zoo.card import Card
from zoo.data import Split
from zoo.entry import Entry, write_entry

STATISTICS = {"tiny-c": ((0.4, 0.5, 0.6), (0.2, 0.25, 0.3))}
"""Whose normalisation is not that of all others."""

EXACT = 1e-5
"""How far a graph in fp32 may be from PyTorch."""


def write_network(
    folder: Path,
    name: str,
    arch: str,
    seed: int = 0,
    classes: tuple[str, ...] = CLASSES,
    **arguments: Any,  # noqa: ANN401
) -> Entry:
    """File an untrained network that tells `pictures` apart, with BatchNorms that cannot stand in for one another."""
    torch.manual_seed(seed)
    net = create(arch, len(classes), **arguments)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.uniform_(norm.weight, 0.5, 1.5)
            nn.init.normal_(norm.bias, std=0.3)
            norm.momentum = 1.0
    mean, std = STATISTICS.get(name, ((0.5, 0.5, 0.5), (0.25, 0.25, 0.25)))
    with torch.no_grad():
        planes = torch.from_numpy(pictures(60, seed=2).images).permute(0, 3, 1, 2) / 255
        net.train()((planes - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1))
    card = Card(
        name=name,
        architecture=arch,
        architecture_args=arguments,
        dataset="cifar10",
        classes=classes,
        mean=mean,
        std=std,
        input_size=(32, 32),
        parameters=sum(p.numel() for p in net.parameters()),
    )
    return write_entry(folder / name, card, checkpoint.encode(net), None)


def table_of(committee: Committee) -> dict[str, Any]:
    """Return the lockfile of a committee, as JSON has it."""
    table: dict[str, Any] = json.loads(lockfile_text(committee, fitted_on=None, metrics={}))
    return table


@torch.inference_mode()
def torch_says(committee: Committee, images: npt.NDArray[np.uint8]) -> tuple[Floats, Floats, npt.NDArray[np.intp]]:
    """Return PyTorch's merged probabilities `[N, C]`, members' own `[N, M, C]` and top classes `[N]`."""
    said = Ensemble(committee).verdict(torch.from_numpy(images))
    return said.probs.numpy(), said.member_probs.transpose(0, 1).numpy(), said.top.numpy()


def order_of(committee: Committee, seen: Split | None = None, **more: Any) -> Order:  # noqa: ANN401
    """Return the order of a graph, and of a gate over a split if there is one."""
    gate = None if seen is None else Measured("cifar10", "test", seen, "cpu")
    return Order(committee, table_of(committee), gate=gate, **more)


def metadata(path: Path) -> dict[str, Any]:
    """Return what an exported graph says of itself."""
    props = {prop.key: prop.value for prop in onnx.load(path, load_external_data=False).metadata_props}
    return {key: json.loads(value) for key, value in props.items()}


_TRACED: dict[str, bytes] = {}
"""Graphs of networks nobody has tampered with."""


def remember(known: dict[str, bytes]) -> Callable[..., onnx.ModelProto]:
    """Return `trace` for tests: it takes seconds, so what is known is not traced again.

    Networks are known by their names, not by their weights.
    """

    def traced(module: Any, image: Any, outputs: Any, members: Any, opset: int) -> onnx.ModelProto:  # noqa: ANN401
        committee = module.committee
        key = repr((members, outputs, opset, committee, committee.temperatures, committee.weights, vars(module)))
        if key not in known:
            known[key] = trace(module, image, outputs, members, opset).SerializeToString()
        return onnx.load_model_from_string(known[key])

    return traced


@dataclass(frozen=True)
class Workshop:
    """Where entries and graphs of the tiny committees lie."""

    folder: Path

    def entry(self, name: str) -> Entry:
        """Return `tiny-a`, `tiny-b`, `tiny-c` or `tiny-d`, three groups of eight channels each."""
        place = self.folder / "source" / name
        if not place.exists():
            return write_network(place.parent, name, "fastnet", ord(name[-1]), widths=[8, 8, 8])
        return Entry(name, place, str(place.parent))

    def committee(
        self, members: str = "ab", views: str = "flip", merge: Merge = "probs", temperature: float = 0.7
    ) -> Committee:
        """Return a committee whose members have weights and temperatures of their own."""
        table = {"a": (2.0, 0.5), "b": (0.5, 0.3), "c": (1.5, 0.4), "d": (2.0, 1.0)}
        chosen = [Member(f"tiny-{m}", self.entry(f"tiny-{m}"), *table[m]) for m in members]
        return Committee(tuple(chosen), views, merge, temperature)

    def cascade(self) -> Committee:
        """Return a committee in three stages, at each of which a good share of `pictures(60)` leaves."""
        plain = self.committee("abc")
        last = Stage(("tiny-c", "tiny-a", "tiny-b"), "flip", 0.7, 0.0)
        staged: list[Stage] = []
        for names, temperature in ((("tiny-c",), 0.8), (("tiny-c", "tiny-a"), 0.6)):
            trial = replace(plain, cascade=(*staged, Stage(names, "none", temperature, 1e-9), last))
            with torch.inference_mode():
                exits = Cascade(Ensemble(trial), trial).exits(torch.from_numpy(pictures(60, seed=1).images))
            sure = np.sort(exits.probs[exits.stage == len(staged)].amax(1).numpy())
            middle = len(sure) // 2
            widest = int(np.diff(sure[middle - 5 : middle + 5]).argmax()) + middle - 5
            staged.append(Stage(names, "none", temperature, float(sure[widest] + sure[widest + 1]) / 2))
        return replace(plain, cascade=(*staged, last))

    def graph(self, committee: Committee, **order: Any) -> Path:  # noqa: ANN401
        """Return the graph of a committee, or the folder of its stage graphs; no gate, and exported but once."""
        text = lockfile_text(committee, fitted_on=None, metrics={}) + repr(sorted(order.items(), key=str))
        known = self.folder / "graphs" / f"{abs(hash(text)):x}"
        path = known / ("cascade" if committee.cascade else "model.onnx")
        if not path.exists():
            known.mkdir(parents=True, exist_ok=True)
            with patch.object(pipeline, "trace", remember(_TRACED)):
                export(order_of(committee, **order), path)
        return path

    def model(self, committee: Committee, **order: Any) -> onnx.ModelProto:  # noqa: ANN401
        """Return the same as it is in the file."""
        return onnx.load(self.graph(committee, **order))


@pytest.fixture(scope="session")
def workshop(tmp_path_factory: pytest.TempPathFactory) -> Workshop:
    """The tiny committees; nobody changes what lies there."""
    return Workshop(tmp_path_factory.mktemp("workshop"))


@pytest.fixture(scope="session")
def seen() -> Split:
    """Sixty pictures that the tiny networks tell apart."""
    return pictures(60, seed=1)


@pytest.fixture
def plain(workshop: Workshop) -> Path:
    """A graph of two members under two views, with their own probabilities."""
    return workshop.graph(workshop.committee(), member_probs=True)


@pytest.fixture
def one(workshop: Workshop) -> Committee:
    """One member under one view, which is quick to trace."""
    return workshop.committee("d", "none", "probs", 1.0)


@pytest.fixture
def traced_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let exports take the graph of what has been traced before, by whichever test."""
    monkeypatch.setattr(pipeline, "trace", remember(_TRACED))
