"""The gate as part of an export: wrong graphs are not written."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

from ensemble.lockfile import Committee
from ensemble.members import Member, parse_members
from ensemble.module import Ensemble
from export import pipeline
from export.graph.pixels import PixelEnsemble
from export.metadata import EXPORT_KEY
from export.parity import LIMITS, Limits, compare
from export.pipeline import GateError, Measured, export
from export.runtime import open_session
from tests.ensemble.conftest import pictures
from tests.export.conftest import metadata, order_of, remember, torch_says
from zoo.data import Split, load_split
from zoo.errors import DataError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


def other_weights(committee: Committee) -> Ensemble:
    net = Ensemble(committee)
    with torch.no_grad():
        net.nets[0].groups[1].conv2.weight.mul_(1.02)  # type: ignore[union-attr, index]
    return net


WRONG: dict[str, Callable[[Committee], Ensemble]] = {
    "weights that were tampered with": other_weights,
    "a view less": lambda committee: Ensemble(replace(committee, views="none")),
    "another temperature": lambda committee: Ensemble(replace(committee, temperature=0.75)),
    "another member's temperature": lambda committee: Ensemble(
        replace(committee, members=(replace(committee.members[0], temperature=0.55), *committee.members[1:]))
    ),
    "other member weights": lambda committee: Ensemble(
        replace(committee, members=tuple(replace(member, weight=1.0) for member in committee.members))
    ),
}


@pytest.mark.parametrize(
    "how", [*list(WRONG)[:3], *(pytest.param(how, marks=pytest.mark.slow) for how in list(WRONG)[3:])]
)
def test_a_wrong_graph_is_not_written_but_on_request(
    workshop: "Workshop", seen: Split, place: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    committee = workshop.committee("ab" if "member weights" in how else "a", "flip")
    monkeypatch.setattr(pipeline, "trace", remember({}))
    monkeypatch.setattr(pipeline, "PixelEnsemble", lambda _: PixelEnsemble(WRONG[how](committee)))
    (place / "m.onnx").write_text("an older graph")
    with pytest.raises(GateError) as no:
        export(order_of(committee, seen), place / "m.onnx")
    text = str(no.value)
    assert text.startswith("the fp32 graph does not answer as PyTorch does: ")
    assert text.endswith("(60 images); nothing was written (--no-gate writes it all the same)")
    assert "\n" not in text
    assert [(file.name, file.read_text()) for file in place.iterdir()] == [("m.onnx", "an older graph")]
    made = export(order_of(committee), place / "m.onnx")
    assert made.parity is None
    assert metadata(made.path)[EXPORT_KEY]["parity"] is None
    wanted, _, _ = torch_says(committee, seen.images)
    assert np.abs(open_session(made.path, device="cpu").run(seen.images) - wanted).max() > 1e-4


@pytest.mark.usefixtures("traced_once")
def test_limits_of_ones_own(one: Committee, seen: Split, place: Path) -> None:
    gate = Measured("cifar10", "test", seen, "cpu", limits=Limits(difference=0.0))
    with pytest.raises(GateError, match=r"a probability differs by .*, more than 0 \(60 images\)"):
        export(replace(order_of(one), gate=gate), place / "m.onnx")
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("traced_once")
@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_each_precision_has_its_limits(
    one: Committee, seen: Split, place: Path, monkeypatch: pytest.MonkeyPatch, precision: str
) -> None:
    used: list[Limits] = []

    def spy(session: Any, expected: Any, split: Any, limits: Limits, **more: Any) -> Any:  # noqa: ANN401
        used.append(limits)
        return replace(compare(session, expected, split, Limits(), **more), misses=("stopped here",))

    monkeypatch.setattr(pipeline, "compare", spy)
    calibration = pictures(32, seed=3) if precision == "int8" else None
    with pytest.raises(GateError, match=f"^the {precision} graph .*: stopped here"):
        export(order_of(one, seen, precision=precision, calibration=calibration), place / "m.onnx")
    assert used == [LIMITS[precision]]


@pytest.mark.usefixtures("traced_once")
def test_other_classes_than_the_split_has(one: Committee, seen: Split, place: Path) -> None:
    other = Split(seen.images, seen.labels, tuple("abcdefghij"))
    with pytest.raises(DataError, match="the ensemble tells other classes apart than the test split of cifar10 has"):
        export(order_of(one, other), place / "m.onnx")
    assert list(place.iterdir()) == []


@pytest.mark.usefixtures("traced_once")
def test_fp16_of_a_real_network(place: Path) -> None:
    split = load_split("cifar10", "test").subset(slice(200))
    committee = Committee(tuple(parse_members("fastnet-seed1")))
    made = export(order_of(committee, split, precision="fp16", member_probs=True), place / "m.onnx")
    assert made.parity is not None
    assert made.parity.agreement >= 0.999
    assert 1e-6 < made.parity.difference < 0.01
    assert made.bytes < 4.5e6, "half of fp32's"
    assert 0.9 < made.parity.accuracy < 0.96


@pytest.mark.slow
def test_int8_of_a_real_network(place: Path) -> None:
    from zoo.data.calibration import load_calibration

    split = load_split("cifar10", "test")
    entry = parse_members("fastnet-seed1")[0].origin
    committee = Committee((Member("fastnet-seed1", entry),))
    order = order_of(committee, split, precision="int8", calibration=load_calibration("cifar10"))
    made = export(order, place / "m.onnx")
    assert made.parity is not None
    assert made.parity.expected_accuracy - made.parity.accuracy <= 0.002
    (calibration,) = made.calibrations
    assert (calibration.images, calibration.quantized, calibration.left_out) == (512, 7, ())
    assert calibration.divergence < 1e-3
    assert made.bytes < 2.3e6
    assert metadata(made.path)[EXPORT_KEY]["calibration"] == calibration.to_dict()
