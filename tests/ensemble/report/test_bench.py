"""What runs for a report: every precision and runtime of a tiny zoo."""

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ensemble.cascade.stages import Stage
from ensemble.evaluate import stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from ensemble.report.bench import Bench
from ensemble.report.gather import Plan, gather
from ensemble.report.graphs import find_graphs
from tests.ensemble.report.test_graphs import write_graph
from zoo.errors import UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


@pytest.fixture
def told() -> list[str]:
    return []


@pytest.fixture
def bench(knowing: "Zoo", told: list[str]) -> Bench:
    sets = ("none", "flip")
    return Bench(torch.device("cpu"), knowing.split_source(), (1, 4), sets=sets, seconds=0.01, tell=told.append)


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
        graphs=find_graphs(tmp_path, "cpu"),
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


def test_what_cannot_run_as_asked_is_refused(knowing: "Zoo", bench: Bench) -> None:
    committee = knowing.committee("tiny-a", "none")
    with pytest.raises(UsageError, match="unknown precision 'int4'"):
        bench.times(committee, "int4", "frozen")
    large = Bench(torch.device("cpu"), bench.source, (1000, 1000))
    with pytest.raises(UsageError, match="a batch of 1000 images: the split has 60 only"):
        large.times(committee, "fp32", "frozen")
