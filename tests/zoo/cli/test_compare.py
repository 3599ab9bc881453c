"""`zoo compare`: two recipes, the same seeds, one honest sentence."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
from scipy import stats

from tests.training.stand_in import PROGRAM, starts
from tests.zoo.conftest import Outcome
from zoo import store

Command = Callable[..., Outcome]

FIRST = {1: 0.900, 2: 0.910, 3: 0.905, 4: 0.900, 5: 0.910, 6: 0.90}
SECOND = {1: 0.904, 2: 0.912, 3: 0.908, 4: 0.903, 5: 0.911, 6: 0.90}


@pytest.fixture(autouse=True)
def _stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """Train nothing, and let a recipe with a label smoothing of 0.3 reach what `SECOND` says, others `FIRST`."""
    reached = f"({FIRST!r}, {SECOND!r})['label_smoothing=0.3' in overrides][seed]"
    changed = f"import tests.training.stand_in as s; s.accuracy = lambda seed, overrides: {reached}; from tests"
    monkeypatch.setattr("zoo.cli.trials.PROGRAM", PROGRAM.replace("from tests", changed))


def test_a_difference_is_told_with_its_interval(command: Command, zoo_home: Path) -> None:
    words = ("compare", "fastnet", "fastnet", "--set-b", "label_smoothing=0.3")
    done = command(*words, "--runs", 5, "--jobs", 2)
    assert done.code == 0, done.err
    test = stats.ttest_rel([SECOND[i] for i in range(1, 6)], [FIRST[i] for i in range(1, 6)])
    low, high = (100 * bound for bound in test.confidence_interval(0.95))
    first, second, said = done.out.splitlines()
    assert first == "fastnet: 90.50 %, spread 0.50 points, 5 runs"
    assert second == "fastnet (label_smoothing=0.3): 90.76 %, spread 0.40 points, 5 runs"
    measured = f"0.26 points, 95 % interval {low:.2f} to {high:.2f}; n = 5"
    assert said == f"fastnet (label_smoothing=0.3) is better than fastnet: {measured}"
    out = zoo_home / "sweeps" / "compare"
    assert len(store.FolderSource(out / "entries").names()) == 10
    assert not (zoo_home / "entries").exists(), "an entry of the zoo may be of another version, or machine"

    fewer = command(*words, "--runs", 3, "--json", "-q")
    found = json.loads(fewer.out)
    assert [len(starts(run)) for run in (out / "runs").iterdir()] == [1] * 10, "all are there already"
    test = stats.ttest_rel([0.904, 0.912, 0.908], [0.900, 0.910, 0.905])
    assert found["interval"] == pytest.approx(list(test.confidence_interval(0.95)))
    assert found["difference"] == pytest.approx(0.003)
    assert found["std"] == pytest.approx(0.001)
    assert found["real"] is True
    assert found["seeds"] == [1, 2, 3]
    assert found["b"]["recipe"] == "fastnet (label_smoothing=0.3)"
    assert found["a"]["values"] == [0.900, 0.910, 0.905]
    assert found["verdict"].startswith("fastnet (label_smoothing=0.3) is better than fastnet: 0.30 points")


def test_no_difference_shown_says_what_would_show_one(command: Command) -> None:
    words = ("compare", "fastnet", "fastnet", "--set-a", "batch_size=500", "--set-b", "batch_size=600", "--set-b")
    done = command(*words, "label_smoothing=0.3", "--set-a", "label_smoothing=0.1", "--runs", 2, "--effect", 0.5, "-q")
    assert done.code == 0, done.err
    assert done.out.splitlines()[-1].startswith(
        "no difference shown: 0.30 points, 95 % interval -0.97 to 1.57; n = 2; "
    )
    assert done.out.splitlines()[-1].endswith("runs would show a difference of 0.5 points four times out of five")


def test_a_failure_leaves_its_pair_out(command: Command) -> None:
    """The stand-in has no accuracy for seed 7, and ends with an error."""
    done = command("compare", "fastnet", "fastnet", "--set-b", "label_smoothing=0.3", "--runs", 7, "--json", "-q")
    assert done.code == 1
    assert json.loads(done.out)["seeds"] == [1, 2, 3, 4, 5, 6]
    assert done.err.startswith("error: 2 of 14 trainings failed, first fastnet-")


def test_no_pair_at_all_is_a_failure(command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.cli.trials.PROGRAM", "raise SystemExit('error: no disk')")
    done = command("compare", "fastnet", "pyramid272", "--runs", 2, "-q")
    assert (done.code, done.out) == (1, "")
    assert "4 of 4 trainings failed" in done.err
    assert ": no disk (" in done.err


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("fastnet", "fastnet"), "these are the same recipe: name another, or change one with --set-a or --set-b"),
        (("fastnet", "fastnet", "--set-a", "epochs=10"), "these are the same recipe"),
        (("fastnet", "fastnett"), "unknown recipe 'fastnett' (did you mean 'fastnet'?)"),
        (("fastnet", "pyramid272", "--runs", "1"), "1 is not in the range 2<=x<=1000"),
        (("fastnet", "pyramid272", "--effect", "0"), "0.0 is not in the range 0<x<=100"),
        (("fastnet", "pyramid272", "--effect", "nan"), "'nan' is not a finite number"),
        (("fastnet",), "Missing argument 'RECIPE_B'"),
    ],
)
def test_usage_errors_come_before_anything_is_trained(
    command: Command, zoo_home: Path, monkeypatch: pytest.MonkeyPatch, words: tuple[str, ...], message: str
) -> None:
    monkeypatch.setattr("training.pool.Running", lambda *_args: pytest.fail("training began"))
    done = command("compare", *words)
    assert (done.code, done.out) == (2, "")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not zoo_home.exists()
