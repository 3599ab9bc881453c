"""Graphs beside PyTorch: who takes part, in which form, and how they are compared."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from ensemble.cascade.run import Cascade
from ensemble.cascade.stages import Stage
from ensemble.latency import measure as timing
from ensemble.lockfile import Committee, lockfile_table
from ensemble.members import parse_members
from ensemble.module import Ensemble
from export import bench as module
from export.bench import EAGER, Contender, bench, graph, load_model, torch_contenders, torch_precision
from export.runtime.answer import Floats
from tests.conftest import random_split
from tta.freeze import FrozenNet
from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError, UsageError

CPU = torch.device("cpu")
PIXELS = random_split(40).images
STAGES = (Stage(("tiny-a",), "none", 1.0, 0.5), Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0))


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what only measuring well needs."""
    monkeypatch.setattr(timing, "_PAUSE", 0)
    monkeypatch.setattr(timing, "_WINDOW", 0)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Let the compiler do nothing but note its options."""
    asked: list[dict[str, Any]] = []

    def compiles(call: Callable[..., Any], **options: Any) -> Callable[..., Any]:  # noqa: ANN401
        asked.append(options)
        return call

    monkeypatch.setattr(torch, "compile", compiles)
    return asked


@pytest.fixture
def pair(tmp_path: Path, make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch) -> Committee:
    """Two tiny members with flip."""
    for seed, name in enumerate(("tiny-a", "tiny-b")):
        make_entry(tmp_path / "source", name, seed=seed)
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "source"))
    return Committee(tuple(parse_members("tiny-a,tiny-b=0.5")), "flip")


def session(committee: Committee, **changes: object) -> Any:  # noqa: ANN401  # as much of one as is asked for
    table = lockfile_table(committee)
    return SimpleNamespace(path=Path("folder/pair.onnx"), lockfile={**table, **changes}, precision="fp32")


def saying(top: int, classes: int = 3) -> Callable[[Tensor], Floats]:
    return lambda images: np.eye(classes, dtype=np.float32)[[top] * len(images)]


@pytest.fixture
def times(monkeypatch: pytest.MonkeyPatch) -> dict[str, float]:
    """Name of a contender -> the milliseconds that it takes, by a clock that nothing else moves."""
    taken: dict[str, float] = {}
    clock = SimpleNamespace(now=0)
    monkeypatch.setattr(timing, "perf_counter_ns", lambda: clock.now)
    timer = timing._timer

    def timed(run: Callable[[Any], object], device: torch.device) -> Callable[[Any], float]:
        assert device == CPU, "from memory to memory, there is nothing to wait for"

        def once(images: Tensor) -> object:
            clock.now += round(1e6 * taken[run.name] * len(images))  # type: ignore[attr-defined]
            return run(images)

        return timer(once, device)

    monkeypatch.setattr(timing, "_timer", timed)
    return taken


def contender(name: str, top: int = 0, *, optional: bool = False) -> Contender:
    said = saying(top)

    def run(images: Tensor) -> Floats:
        return said(images)

    run.name = name  # type: ignore[attr-defined]
    return Contender(name, "fp32", run, optional=optional)


def test_everything_is_compared_with_pytorch_eager(times: dict[str, float]) -> None:
    times |= {"a.onnx": 1.0, EAGER: 3.0, "other": 2.0}
    found = bench([contender("a.onnx"), contender(EAGER), contender("other")], PIXELS, [1, 8], seconds=0.1)
    assert [(row.latency.batch, row.name) for row in found.rows] == [
        (batch, name) for batch in (1, 8) for name in ("a.onnx", EAGER, "other")
    ]
    assert [row.latency.median_ms for row in found.rows] == [1, 3, 2, 8, 24, 16]
    assert [row.ratio for row in found.rows] == [3.0, None, 1.5] * 2
    assert [row.ratios for row in found.rows[:2]] == [(3.0,) * 5, None]
    assert found.agreement == {"a.onnx": 1, EAGER: 1, "other": 1}
    assert found.notes == []
    table = found.rows[0].to_dict()
    assert (table["name"], table["ratio"], table["ratios"], table["batch"]) == ("a.onnx", 3.0, [3.0] * 5, 1)
    assert {"median_ms", "p90_ms", "p99_ms", "images_per_second", "note", "samples"} <= set(
        json.loads(json.dumps(table))
    )
    assert found.rows[1].to_dict()["ratio"] is None


def test_without_pytorch_with_the_first(times: dict[str, float]) -> None:
    times |= {"a.onnx": 4.0, "b.onnx": 1.0}
    found = bench([contender("a.onnx"), contender("b.onnx")], PIXELS, [2], seconds=0.1)
    assert [row.ratio for row in found.rows] == [None, 4.0]


def test_other_answers_are_said(times: dict[str, float]) -> None:
    """But not where so few images were looked at that one of them would do."""
    times |= {"a.onnx": 1.0, "b.onnx": 1.0}
    both = [contender("a.onnx"), contender("b.onnx", top=1)]
    found = bench(both, random_split(200).images, [8, 100], seconds=0.1)
    assert found.agreement == {"a.onnx": 1.0, "b.onnx": 0.0}
    assert found.notes == ["b.onnx gives another class than a.onnx on 100.0 % of 108 images"]
    assert bench(both, PIXELS, [8], seconds=0.1).notes == []


def test_what_fails_is_left_out(times: dict[str, float]) -> None:
    times |= {"a.onnx": 1.0, "late": 2.0}

    def fails(_images: Tensor) -> Floats:
        raise RuntimeError("no compiler\nand a long story")

    def late(images: Tensor) -> Floats:
        if len(images) > 1:
            raise MemoryError
        return saying(0)(images)

    late.name = "late"  # type: ignore[attr-defined]
    others = [Contender(EAGER, "fp16", fails, optional=True), Contender("late", "fp32", late, optional=True)]
    found = bench([contender("a.onnx"), *others], PIXELS, [1, 8], seconds=0.1)
    assert [(row.name, row.latency.batch) for row in found.rows] == [("a.onnx", 1), ("late", 1), ("a.onnx", 8)]
    assert found.notes == [
        f"{EAGER} is left out: RuntimeError: no compiler",
        "late is left out: MemoryError: ",
    ]


def test_a_graph_that_fails_is_no_matter_of_a_note() -> None:
    def fails(_images: Tensor) -> Floats:
        raise UsageError("images are of another size")

    with pytest.raises(UsageError, match="another size"):
        bench([Contender("a.onnx", "fp32", fails)], PIXELS, [1], seconds=0.1)


def test_more_images_than_there_are() -> None:
    with pytest.raises(UsageError, match="--batch 64: there are 40 images"):
        bench([contender("a.onnx")], PIXELS, [1, 64])


def test_threads_are_pytorchs_meanwhile() -> None:
    seen, before = set(), torch.get_num_threads()

    def run(images: Tensor) -> Floats:
        seen.add((torch.get_num_threads(), torch.is_inference_mode_enabled(), images.dtype, tuple(images.shape)))
        return saying(0)(images)

    bench([Contender("a.onnx", "fp32", run)], PIXELS, [4], seconds=0.01, threads=before + 1)
    assert seen == {(before + 1, True, torch.uint8, (4, 32, 32, 3))}
    assert torch.get_num_threads() == before


@pytest.mark.parametrize(("bf16", "expected"), [(True, "bf16"), (False, "fp32")])
def test_int8_is_compared_with_the_fastest_of_pytorch(
    monkeypatch: pytest.MonkeyPatch, bf16: bool, expected: str
) -> None:
    monkeypatch.setattr(torch.cpu, "_is_avx512_bf16_supported", lambda: bf16)
    assert torch_precision("int8", CPU) == expected
    assert [torch_precision(precision, CPU) for precision in ("fp32", "fp16")] == ["fp32", "fp16"]


def test_a_graph_gets_the_images_without_a_copy() -> None:
    seen: list[Any] = []

    def run(images: object) -> Floats:
        seen.append(images)
        return saying(0)(torch.zeros(1))

    images = torch.zeros(2, 4, 4, 3, dtype=torch.uint8)
    one = graph(SimpleNamespace(path=Path("a/b.onnx"), precision="int8", run=run))  # type: ignore[arg-type]
    one.run(images)
    assert (one.name, one.precision, one.optional) == ("b.onnx", "int8", False)
    assert np.shares_memory(seen[0], images.numpy())


def layouts(model: nn.Module) -> Iterator[Tensor]:
    """Yield what convolutions get while a model runs."""
    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(lambda _layer, inputs, _output: seen.append(inputs[0]))
    seen: list[Tensor] = []
    model(torch.from_numpy(PIXELS))
    yield from seen


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_eager_is_channels_last_all_through(pair: Committee, precision: Any, dtype: torch.dtype) -> None:  # noqa: ANN401
    model = module._channels_last(Ensemble(pair), precision, CPU)
    seen = list(layouts(model))
    assert len(seen) >= 2 * 7
    assert all(x.dtype == dtype and x.is_contiguous(memory_format=torch.channels_last) for x in seen)
    weights = [p for p in model.nets.parameters() if p.ndim == 4]
    assert all(w.dtype == dtype and w.is_contiguous(memory_format=torch.channels_last) for w in weights)


@pytest.mark.parametrize("stages", [(), STAGES])
def test_pytorchs_contenders_answer_as_the_ensemble(
    pair: Committee, compiled: list[dict[str, Any]], stages: tuple[Stage, ...]
) -> None:
    whole = Ensemble(pair)
    committee = Committee(pair.members, pair.views, cascade=stages)
    model = Cascade(whole, committee) if stages else whole
    before = {name: (value.dtype, value.stride()) for name, value in whole.state_dict().items()}
    found = torch_contenders(model, "fp32", CPU)
    assert [one.name for one in found] == [EAGER, "PyTorch compiled", "ensemble.freeze"]
    assert all(one.optional and one.precision == "fp32" for one in found)
    with torch.inference_mode():
        expected = model(torch.from_numpy(PIXELS)).numpy()
        for one in found:
            np.testing.assert_allclose(one.run(torch.from_numpy(PIXELS)), expected, atol=1e-5)
    if stages:
        assert compiled == [{"dynamic": True}] * 2, "a network, for what is left of a batch"
    else:
        assert compiled == [{"mode": "default", "dynamic": False}]
    assert {name: (value.dtype, value.stride()) for name, value in whole.state_dict().items()} == before


@pytest.mark.usefixtures("compiled")
def test_a_frozen_network_that_falls_back_is_not_what_it_says(pair: Committee, monkeypatch: pytest.MonkeyPatch) -> None:
    """It warns and goes on in fp32, whose time would go by another's name."""
    frozen = torch_contenders(Ensemble(pair), "bf16", CPU)[-1]
    assert frozen.run(torch.from_numpy(PIXELS)).shape == (40, 10)
    overflowing = torch_contenders(Ensemble(pair), "bf16", CPU)[-1]
    monkeypatch.setattr(FrozenNet, "_try_half", lambda self, _images: setattr(self, "precision", "fp32"))
    with pytest.raises(UsageError, match="it fails in bf16, and runs in fp32"):
        overflowing.run(torch.from_numpy(PIXELS))


def test_the_ensemble_is_what_the_graph_says(pair: Committee) -> None:
    found = load_model(session(pair))
    assert isinstance(found, Ensemble)
    images = torch.from_numpy(PIXELS)
    assert torch.equal(found(images), Ensemble(pair)(images))
    cascade = load_model(session(Committee(pair.members, pair.views, cascade=STAGES)))
    assert isinstance(cascade, Cascade)


def test_a_member_that_is_not_here(pair: Committee) -> None:
    gone = session(pair, members=[{"name": "gone", "sha256": "0" * 64, "weight": 1, "temperature": 1}])
    with pytest.raises(NotFoundError, match=r"^pair\.onnx: .*'gone'"):
        load_model(gone)


def test_a_member_with_other_weights(pair: Committee) -> None:
    other = session(pair, members=[{"name": "tiny-a", "sha256": "0" * 64, "weight": 1, "temperature": 1}])
    with pytest.raises(DataError, match=r"^pair\.onnx was made with other weights of 'tiny-a'"):
        load_model(other)


@pytest.mark.slow
def test_torch_compile_takes_part(pair: Committee) -> None:
    """Really compiled, for more sizes of batches than it keeps, beyond which it would run eagerly without a word."""
    contenders = torch_contenders(Ensemble(pair), "fp32", CPU)[:2]
    with torch._dynamo.config.patch(recompile_limit=1, fail_on_recompile_limit_hit=True):
        found = bench(contenders, PIXELS, [2, 3, 4], seconds=0.01)
    assert found.notes == []
    assert [row.name for row in found.rows] == [EAGER, "PyTorch compiled"] * 3
    assert found.agreement == {EAGER: 1.0, "PyTorch compiled": 1.0}
