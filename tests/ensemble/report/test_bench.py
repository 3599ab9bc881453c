"""What runs for a report: every precision and runtime of a tiny zoo."""

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import numpy as np
import pytest
import torch
from torch import Tensor

from ensemble.cascade.stages import Stage
from ensemble.evaluate import SplitSource, stored_ballots
from ensemble.latency import hardware, measure
from ensemble.latency.times import Latency, summarise
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from ensemble.report.bench import Bench
from ensemble.report.gather import Plan, gather
from tests.ensemble.report.test_graphs import find_graphs, write_graph
from tta.freeze import FrozenNet
from zoo.data import Split
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


CPU = torch.device("cpu")


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def bench(knowing: "Zoo", told: list[str]) -> Bench:
    sets = ("none", "flip")
    return Bench(CPU, knowing.split_source(), (1, 4), sets=sets, seconds=0.01, tell=told.append)


def test_a_disk_that_refuses_costs_what_is_kept_and_not_the_answers(
    knowing: "Zoo", bench: Bench, zoo_home: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write_graph(tmp_path / "g.onnx")
    (graph,) = find_graphs(tmp_path)
    committee = knowing.committee("tiny-a", "none")
    wanted = bench.ballots(committee, "bf16").votes[0].logits
    answers = graph.answers(bench.source.split, "test").probs
    for name in ("views", "graphs"):
        shutil.rmtree(zoo_home / name)
        (zoo_home / name).write_text("no folder")
    np.testing.assert_array_equal(bench.ballots(committee, "bf16").votes[0].logits, wanted)
    np.testing.assert_array_equal(graph.answers(bench.source.split, "test").probs, answers)
    said = [record.message for record in caplog.records]
    assert len(said) == 2
    assert all(line.startswith("cannot write") and line.endswith("; what was answered is not kept") for line in said)


def test_networks_answer_in_another_precision_once(knowing: "Zoo", bench: Bench, told: list[str]) -> None:
    committee = knowing.committee("tiny-a,tiny-b", "none")
    fresh = bench.ballots(committee, "fp32")
    stored = stored_ballots(committee, bench.source)
    np.testing.assert_array_equal(fresh.labels, stored.labels)
    for a, b in zip(fresh.votes, stored.votes, strict=True):
        gaps = [v.logits.astype(float) - v.logits.astype(float).max(-1, keepdims=True) for v in (a, b)]
        np.testing.assert_allclose(
            gaps[0] - gaps[0].mean(-1, keepdims=True), gaps[1] - gaps[1].mean(-1, keepdims=True), atol=0.02
        )
    assert len(told) == 2
    bench.ballots(knowing.committee("tiny-a,tiny-b", "flip"), "fp32")
    assert len(told) == 2, "the wider view set had run, and was kept"


def test_everything_is_timed_and_equal_shapes_once(
    knowing: "Zoo", bench: Bench, told: list[str], tmp_path: Path
) -> None:
    write_graph(tmp_path / "g.onnx")
    members = parse_members("tiny-a,tiny-b")
    stages = (Stage(("tiny-a",), "none", 1.0, 0.2), Stage(("tiny-a", "tiny-b"), "none", 1.0, 0.0))
    files = {"c.json": Committee(tuple(members), "none", cascade=stages)}
    plan = Plan(
        members,
        files,
        sets=("none",),
        most=1,
        graphs=find_graphs(tmp_path),
    )
    record = gather(plan, bench.source, knowing.split_source("val"), bench=bench)
    names = {(p.name, p.precision, p.runtime, p.kind) for p in record.points}
    torch_ones = [("tiny-a", "member"), ("tiny-b", "member"), ("c.json", "cascade"), ("c.json, whole", "ensemble")]
    assert names == {
        *((name, "fp32", "PyTorch", kind) for name, kind in torch_ones),
        ("g", "fp32", "ONNX Runtime", "ensemble"),
    }
    for p in record.points:
        assert p.latency is not None
        assert p.throughput is not None
        assert (p.latency.batch, p.throughput.batch) == (1, 4)
        assert len(p.latency.quantiles) == 101
    timed = [line for line in told if line.startswith("timing 1 x none, fp32")]
    assert len(timed) == 2, "tiny-a and tiny-b have the same shape: one measurement for each batch"
    cascade = next(p for p in record.points if p.kind == "cascade")
    assert sum(s.share for s in cascade.stages) == pytest.approx(1)
    assert cascade.multiply_adds == pytest.approx(1e-3 + 2e-3 * cascade.stages[1].share)
    assert record.device == "cpu"


def test_another_precision_is_scored_by_its_own_answers(knowing: "Zoo", bench: Bench, told: list[str]) -> None:
    plan = Plan(parse_members("tiny-a"), sets=("none",), precisions=("bf16",))
    (point,) = gather(plan, bench.source, knowing.split_source("val"), bench=bench).points
    assert (point.precision, point.source) == ("bf16", "fresh")
    assert "running tiny-a in bf16, views flip" in told
    ballots = bench.ballots(knowing.committee("tiny-a", "none"), "bf16")
    assert point.scores.accuracy == np.mean(ballots.votes[0].logits[0].argmax(1) == ballots.labels)


def test_answers_are_the_same_whether_kept_or_not(
    knowing: "Zoo", bench: Bench, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    committee = knowing.committee("tiny-a", "none")
    (first,) = bench.ballots(committee, "bf16").votes
    (again,) = bench.ballots(committee, "bf16").votes
    assert len(told) == 1
    assert first.logits.dtype == again.logits.dtype
    np.testing.assert_array_equal(first.logits, again.logits)
    elsewhere = replace(bench.cache.hardware, cpu="Other CPU")
    monkeypatch.setattr(bench.cache, "hardware", elsewhere)
    bench.ballots(committee, "bf16")
    assert len(told) == 2, "other hardware rounds otherwise"
    monkeypatch.setattr(hardware, "versions", lambda: {"menagerie": "99.9"})
    bench.ballots(committee, "bf16")
    assert len(told) == 3, "and so do other versions"


def test_a_compiler_that_fails_has_no_times(
    knowing: "Zoo", bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(_: Tensor) -> NoReturn:
        raise RuntimeError("no C++ compiler")

    committee = knowing.committee("tiny-a", "none")
    monkeypatch.setattr(torch, "compile", lambda *_, **__: fails)
    for _ in range(2):
        with pytest.raises(UsageError, match=r"torch\.compile fails here, as said above: leave --compile out"):
            bench.times(committee, "fp32", "compiled")
    assert not bench.cache.path.exists()
    assert "no C++ compiler" in caplog.messages[0]
    monkeypatch.setattr(torch, "compile", lambda call, **_: call)
    compiled, _ = bench.times(committee, "fp32", "compiled")
    assert compiled.runs >= 3


def test_a_precision_that_fails_has_neither_times_nor_answers(
    knowing: "Zoo", bench: Bench, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(FrozenNet, "_try_half", lambda net, _: setattr(net, "precision", "fp32"))
    committee = knowing.committee("tiny-a", "none")
    for ask in (lambda: bench.times(committee, "fp16", "frozen"), lambda: bench.ballots(committee, "fp16")):
        with pytest.raises(UsageError, match="fp16 fails here, as said above: give --precision fp32"):
            ask()
    assert not bench.cache.path.exists()
    assert not (zoo_home / "views").exists()


def test_committees_and_graphs_are_timed_from_and_to_the_memory(
    knowing: "Zoo", bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_graph(tmp_path / "g.onnx")
    (graph,) = find_graphs(tmp_path)
    seen: list[tuple[object, ...]] = []

    def look(run: Callable[[Tensor], Any], images: list[Tensor], **_: object) -> Latency:
        probs = torch.as_tensor(run(images[0]))
        seen.append((images[0].dtype, tuple(images[0].shape[1:]), images[0].device.type, probs.device.type))
        assert probs.shape == (len(images[0]), 10)
        return summarise([1.0] * 3, len(images[0]))

    monkeypatch.setattr(measure, "measure", look)
    stages = (Stage(("tiny-a",), "none", 1.0, 0.2), Stage(("tiny-a", "tiny-b"), "none", 1.0, 0.0))
    whole = knowing.committee("tiny-a,tiny-b", "none")
    for committee in (whole, replace(whole, cascade=stages)):
        bench.times(committee, "fp32", "frozen")
    bench.graph_times(graph)
    assert seen == [(torch.uint8, (32, 32, 3), "cpu", "cpu")] * 6


def test_a_cascade_is_timed_anew_on_other_images(
    knowing: "Zoo", bench: Bench, told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "measure", lambda _run, images, **_: summarise([1.0] * 3, len(images[0])))
    stages = (Stage(("tiny-a",), "none", 1.0, 0.2), Stage(("tiny-a", "tiny-b"), "none", 1.0, 0.0))
    whole = knowing.committee("tiny-a,tiny-b", "none")
    split = bench.source.split

    def timed(images: Split, committee: Committee) -> int:
        source = SplitSource("cifar10", "test", knowing.data)
        source.split = images
        other = Bench(CPU, source, (1, 4), seconds=0.01, tell=told.append)
        other.times(committee, "fp32", "frozen")
        found, told[:] = len(told), []
        return found

    backwards = Split(split.images[::-1], split.labels[::-1], split.classes)
    turned = Split(split.images[:, ::-1], split.labels, split.classes)
    cascade = replace(whole, cascade=stages)
    assert [timed(images, cascade) for images in (split, backwards, turned)] == [2, 0, 2]
    assert [timed(images, whole) for images in (split, backwards, turned)] == [2, 0, 0]


def test_what_cannot_run_as_asked_is_refused(knowing: "Zoo", bench: Bench) -> None:
    committee = knowing.committee("tiny-a", "none")
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        bench.times(committee, "int4", "frozen")
    large = Bench(CPU, bench.source, (1000, 1000))
    with pytest.raises(UsageError, match="a batch of 1000 images: the split has 60 only"):
        large.times(committee, "fp32", "frozen")


def test_without_a_large_batch_there_is_no_throughput(knowing: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measure, "measure", lambda _run, images, **_: summarise([1.0] * 3, len(images[0])))
    small = Bench(CPU, knowing.split_source(), (60, None))
    plan = Plan(parse_members("tiny-a"), sets=("none",))
    (point,) = gather(plan, small.source, knowing.split_source("val"), bench=small).points
    assert point.latency is not None
    assert (point.latency.batch, point.throughput) == (60, None)


def test_what_was_kept_is_known_and_measuring_again_is_done_once(
    knowing: "Zoo", told: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """All networks of the tiny zoo have one shape."""
    monkeypatch.setattr(measure, "measure", lambda _run, images, **_: summarise([1.0] * 3, len(images[0])))

    def ask(*, remeasure: bool = False) -> tuple[int, int]:
        some = Bench(CPU, knowing.split_source(), (1, 4), remeasure=remeasure, tell=told.append)
        for name in ("tiny-a", "tiny-b", "tiny-a"):
            some.times(knowing.committee(name, "none"), "fp32", "frozen")
        found, told[:] = len(told), []
        return found, len(some.kept)

    assert ask() == (2, 0), "a batch of each size; what was measured just now was not kept from before"
    assert ask() == (0, 2)
    assert ask(remeasure=True) == (2, 0)
