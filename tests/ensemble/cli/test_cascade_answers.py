"""Cascades in `eval`, `compare` and `predict`, as a person or a program meets them."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from PIL import Image
from scipy.stats import binomtest

from ensemble.cascade.stages import Stage
from ensemble.cascade.stored import stored_exits
from ensemble.evaluate import stored_ballots
from ensemble.lockfile import Committee, read_lockfile
from ensemble.merge import merge
from tests.ensemble.cli.conftest import lock, read
from zoo.entry import Entry

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import Tensor, nn

    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]


def two_stages(zoo: "Zoo", threshold: float, temperature: float) -> Committee:
    stages = (Stage(("tiny-b",), "none", 1.0, threshold), Stage(("tiny-b", "tiny-a"), "flip", 1.0, 0.0))
    committee = replace(zoo.committee("tiny-a,tiny-b", "flip"), cascade=stages)
    members = tuple(replace(m, temperature=temperature) for m in committee.members)
    return replace(committee, members=members)


@pytest.fixture
def staged(fittable: "Zoo", tmp_path: Path) -> Path:
    """A lockfile whose cascade sends what is stored to both of its stages."""
    return lock(tmp_path / "staged.json", two_stages(fittable, 0.9, 1.0))


@pytest.fixture
def running(fittable: "Zoo", tmp_path: Path) -> Path:
    """A lockfile whose cascade sends what the untrained networks say to both of its stages."""
    return lock(tmp_path / "running.json", two_stages(fittable, 0.5, 0.1))


def test_eval_shows_the_cascade_beside_the_whole(fittable: "Zoo", cli: "Cli", staged: Path) -> None:
    report = read(cli("eval", "--ensemble", staged, "--json", "-"))
    plain = lock(staged.with_name("plain.json"), replace(read_lockfile(staged), cascade=()))
    whole = read(cli("eval", "--ensemble", plain, "--json", "-"))
    assert [*whole, "cascade"] == list(report)
    assert report["members"] == whole["members"]
    for metric, value in report["cascade"]["whole"].items():
        assert value == whole["ensemble"][metric]
    shares = [s["share"] for s in report["cascade"]["stages"]]
    assert min(shares) > 0
    assert sum(shares) == pytest.approx(1)
    assert report["cascade"]["multiply_adds"] == pytest.approx(2e9 * shares[0] + 6e9 * shares[1])
    done = cli("eval", "--ensemble", staged)
    assert (done.code, done.err) == (0, "")
    assert "its cascade of 2 stages" in done.out
    assert f"stage 1: 1 member, views: none: {100 * shares[0]:.2f} % of images leave" in done.out
    assert f"the whole ensemble's class on {100 * report['cascade']['agreement']:.2f} %" in done.out
    assert fittable.source.is_dir()


def test_eval_says_whose_interval_it_is(fittable: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    committee = two_stages(fittable, 0.5, 1.0)
    words = ["eval", "--ensemble", lock(tmp_path / "hasty.json", committee), "--split", "val"]
    report = read(cli(*words, "--json", "-"))
    ballots = stored_ballots(committee, fittable.split_source("val"))
    said = []
    for found, top in (
        (report["ensemble"], stored_exits(committee, ballots.votes).top),
        (report["cascade"]["whole"], merge(ballots.votes, "probs")[1]),
    ):
        right = int((top == ballots.labels).sum())
        interval = binomtest(right, 400).proportion_ci(method="wilson")
        assert found["accuracy"] == right / 400
        assert found["accuracy_ci95"] == pytest.approx([interval.low, interval.high])
        said.append(f"{100 * interval.low:.2f} to {100 * interval.high:.2f} %")
    assert said[0] != said[1]
    out = cli(*words).out
    assert f"the cascade's 95 % interval {said[0]}, the whole ensemble's {said[1]} (Wilson); the cascade's Brier" in out


def test_eval_fresh_runs_the_early_exits(
    fittable: "Zoo", cli: "Cli", running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.cascade.run import Cascade, TensorExits

    seen: list[int] = []
    original = Cascade.exits

    def spy(self: Cascade, images: "Tensor") -> TensorExits:
        seen.append(len(images))
        return original(self, images)

    monkeypatch.setattr(Cascade, "exits", spy)
    words = ["--fresh", "--data", fittable.data, "--device", "cpu", "--json", "-", "-q"]
    report = read(cli("eval", "--ensemble", running, *words))
    assert seen == [60]
    assert report["source"] == "fresh"
    plain = lock(running.with_name("plain.json"), replace(read_lockfile(running), cascade=()))
    whole = read(cli("eval", "--ensemble", plain, *words))["ensemble"]
    assert report["cascade"]["whole"]["nll"] == pytest.approx(whole["nll"], abs=1e-6)
    assert 0 < report["cascade"]["stages"][0]["share"] < 1
    few = read(cli("eval", "--ensemble", running, *words, "--limit", "7"))
    assert (seen[-1], few["images"]) == (7, 7)


def test_eval_fresh_loads_each_network_once(
    fittable: "Zoo", cli: "Cli", running: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded: list[str] = []
    original = Entry.load

    def spy(self: Entry) -> "nn.Module":
        loaded.append(self.name)
        return original(self)

    monkeypatch.setattr(Entry, "load", spy)
    read(cli("eval", "--ensemble", running, "--fresh", "--data", fittable.data, "--device", "cpu", "--json", "-", "-q"))
    assert sorted(loaded) == ["tiny-a", "tiny-b"]


def test_compare_scores_the_cascades_answers(cli: "Cli", staged: Path) -> None:
    plain = lock(staged.with_name("plain.json"), replace(read_lockfile(staged), cascade=()))
    report = read(cli("compare", plain, staged, "--json", "-"))
    for key, path in (("a", plain), ("b", staged)):
        alone = read(cli("eval", "--ensemble", path, "--json", "-"))["ensemble"]
        for metric in ("accuracy", "nll", "brier", "ece"):
            assert report[key]["metrics"][metric]["value"] == pytest.approx(alone[metric], abs=1e-12)
    assert report["difference"]["nll"]["value"] != 0
    assert "cascade" not in report["a"]
    assert [s["threshold"] for s in report["b"]["cascade"]] == [0.9, 0.0]
    out = cli("compare", plain, staged).out
    assert f"A: {plain}: 2 members, views: flip, merge: probs\n" in out
    assert f"B: {staged}: 2 members, views: flip, merge: probs, a cascade of 2 stages\n" in out


def test_predict_asks_no_more_than_it_needs(fittable: "Zoo", cli: "Cli", running: Path, tmp_path: Path) -> None:
    paths = [tmp_path / f"{i}.png" for i in range(20)]
    for path, image in zip(paths, fittable.split.images, strict=False):
        Image.fromarray(image).save(path)
    results = json.loads(cli("predict", "--ensemble", running, "--json", *paths).out)
    lines = cli("predict", "--ensemble", running, *paths).out.splitlines()
    assert {result["stage"] for result in results} == {1, 2}
    for result, line in zip(results, lines, strict=True):
        asked = {1: ["tiny-b"], 2: ["tiny-a", "tiny-b"]}[result["stage"]]
        assert list(result["members"]) == asked
        ending = "1 members asked in 1 stage agree" if result["stage"] == 1 else "2 members asked in 2 stages agree"
        assert f"; {result['agree']} of {ending}" in line
        assert (result["top"][0]["prob"] >= 0.5) or result["stage"] == 2
