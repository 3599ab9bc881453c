"""`ensemble select`, as a person or a program meets it."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
import pytest

from ensemble.cli.eval import command as eval_command
from ensemble.cli.select import command
from ensemble.lockfile import read_lockfile
from tests.ensemble.cli.conftest import NAMES, refile
from zoo.cli.group import run
from zoo.predictions import Predictions, SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


IMAGES = 120


@pytest.fixture
def fittable(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with members of whom the first knows most, on the validation split."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, IMAGES)

    def say(number: int, split: str, kept: SplitPredictions) -> SplitPredictions:
        if split != "val":
            return kept
        hint = (3 - number) * np.eye(10)[labels]
        views = {v: (hint + rng.standard_normal((IMAGES, 10))).astype(np.float16) for v in ("none", "flip")}
        return SplitPredictions(views, labels, kept.fingerprint)

    return refile(zoo, reseal, say)


@pytest.fixture
def choose(capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """A function that runs `ensemble select` with these words, or another command named first."""
    group = click.Group("ensemble", commands={"select": command, "eval": eval_command})

    def call(*words: object, name: str = "select") -> tuple[int, str, str]:
        capsys.readouterr()
        code = run(group, [name, *map(str, words)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


Choose = Callable[..., tuple[int, str, str]]


def chosen(choose: Choose, *words: object) -> dict[str, Any]:
    """Run with `--json` and return what is all of stdout."""
    code, out, err = choose("--pool", "tiny-*", "--json", "-q", *words)
    assert (code, err) == (0, "")
    table: dict[str, Any] = json.loads(out)
    return table


def test_the_lockfile_evaluates_to_what_was_reported(fittable: "Zoo", choose: Choose, tmp_path: Path) -> None:
    file = tmp_path / "ensemble.json"
    table = chosen(choose, "-o", file)
    code, out, _ = choose("--ensemble", file, "--split", "val", "--json", "-", name="eval")
    assert code == 0
    report = json.loads(out)
    assert report["ensemble"] == table["ensemble"]
    assert report["members"] == [{k: v for k, v in m.items() if k != "temperature"} for m in table["members"]]
    locked = json.loads(file.read_text(encoding="utf-8"))
    assert locked["metrics"] == {"val": table["ensemble"]}
    mark = fittable.entry("tiny-a").predictions().splits["val"].fingerprint
    assert locked["fitted_on"] == {"split": "val", "fingerprint": mark, "images": IMAGES, "objective": "nll"}
    committee = read_lockfile(file)
    assert [(m.name, m.weight, m.temperature) for m in committee.members] == [
        (m["name"], m["weight"], m["temperature"]) for m in table["members"]
    ]
    assert (committee.views, committee.temperature) == (table["views"], table["temperature"])


def test_the_same_again_is_the_same_file(fittable: "Zoo", choose: Choose, tmp_path: Path) -> None:
    assert fittable.source.is_dir()
    for name, pool in (("a", "tiny-a,tiny-b,tiny-c"), ("b", "tiny-c,tiny-b,tiny-a")):
        assert choose("--pool", pool, "-o", tmp_path / name, "-q")[0] == 0
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()


def test_the_test_split_makes_no_difference(
    fittable: "Zoo", choose: Choose, tmp_path: Path, reseal: Callable[[Path], None]
) -> None:
    chosen(choose, "-o", tmp_path / "before.json")
    for name, test_too in zip(NAMES, (True, False, True), strict=True):
        stored = dict(fittable.entry(name).predictions().splits)
        test = stored.pop("test")
        if test_too:
            stored["test"] = replace(test, labels=np.roll(test.labels, 1), fingerprint="5" * 64)
        (fittable.source / name / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(fittable.source / name)
    chosen(choose, "-o", tmp_path / "after.json")
    assert (tmp_path / "after.json").read_bytes() == (tmp_path / "before.json").read_bytes()


def test_json_has_these_keys(fittable: "Zoo", choose: Choose) -> None:
    table = chosen(choose, "--dry-run")
    assert list(table) == [
        "dataset", "fitted_on", "candidates", "method", "views", "merge", "members", "temperature", "weights", "cost",
        "ensemble", "cross_validated_nll", "best_single", "all_equal", "output", "seconds",
    ]  # fmt: skip
    assert (table["dataset"], table["candidates"], table["method"]) == ("cifar10", len(NAMES), "exhaustive")
    assert set(table["best_single"]) == {"name", "accuracy", "nll", "temperature"}
    assert set(table["all_equal"]) == {"accuracy", "nll", "temperature"}
    assert table["best_single"]["name"] == "tiny-a", fittable
    assert table["ensemble"]["nll"] < table["best_single"]["nll"]
    assert table["output"] is None


def test_a_dry_run_writes_nothing(fittable: "Zoo", choose: Choose, tmp_path: Path) -> None:
    assert fittable.source.is_dir()
    code, out, err = choose("--pool", "tiny-*", "-o", tmp_path / "e.json", "--dry-run")
    assert code == 0
    assert "nothing written" in out
    assert err.startswith("3 candidates, 120 validation images")
    assert not (tmp_path / "e.json").exists()


def test_the_table_shows_members_and_what_they_are_compared_with(
    fittable: "Zoo", choose: Choose, tmp_path: Path
) -> None:
    table = chosen(choose, "-o", tmp_path / "e.json")
    code, out, err = choose("--pool", "tiny-*", "-o", tmp_path / "e.json", "-q")
    assert (code, err) == (0, "")
    for member in table["members"]:
        row = next(line for line in out.splitlines() if member["name"] in line and "best" not in line)
        assert f"{member['weight']:.4f}" in row
        assert f"{member['temperature']:.3f}" in row
    assert f"{table['ensemble']['nll']:.4f}" in out
    assert "best single: tiny-a" in out
    assert "all 3, equal weights" in out
    assert f"wrote {tmp_path / 'e.json'}" in out
    assert fittable.source.is_dir()


@pytest.mark.parametrize(
    ("words", "members"),
    [
        (["--max-members", "1"], {"tiny-a"}),
        (["--budget-macs", "2", "--tta", "flip"], {"tiny-a"}),
        (["--budget-macs", "1.9", "--tta", "none", "--tta", "flip"], {"tiny-a"}),
        (["--budget-macs", "1.5", "--method", "greedy"], {"tiny-a"}),
        (["--budget-macs", "3", "--tta", "none", "--method", "beam"], {"tiny-a", "tiny-b"}),
    ],
)
def test_limits_are_kept(fittable: "Zoo", choose: Choose, words: list[str], members: set[str]) -> None:
    table = chosen(choose, "--dry-run", *words)
    assert {m["name"] for m in table["members"]} == members, fittable
    if "--budget-macs" in words:
        assert table["cost"]["value"] <= float(words[1])
        assert table["cost"]["unit"] == "10^9 multiply-adds an image"


@pytest.fixture
def hurry(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure latencies for no longer than it takes to see how."""
    from ensemble.latency import measure

    monkeypatch.setattr(measure, "SECONDS", 0.01)
    monkeypatch.setattr(measure, "_WINDOW", 0.0)


@pytest.mark.usefixtures("hurry")
def test_milliseconds_are_measured_here(fittable: "Zoo", choose: Choose) -> None:
    words = ["--dry-run", "--budget-ms", "1e6", "--device", "cpu", "--batch", "2", "--tta", "none"]
    table = chosen(choose, *words)
    assert 0 < table["cost"]["value"] < 1e6
    assert table["cost"]["unit"] == "ms for a batch of 2"
    code, _, err = choose("--pool", "tiny-*", "--dry-run", "--budget-ms", "1e-9", "--device", "cpu", "-q")
    assert code == 2
    assert "too small for any candidate" in err, fittable


@pytest.mark.usefixtures("hurry")
def test_what_was_measured_before_is_not_measured_again(fittable: "Zoo", choose: Choose, zoo_home: Path) -> None:
    """All three have one architecture, so there is a time for each view set."""
    words = ["--pool", "tiny-*", "--dry-run", "--budget-ms", "1e6", "--device", "cpu"]

    def times(*more: str) -> list[str]:
        code, _, err = choose(*words, *more)
        assert code == 0, fittable
        lines = err.splitlines()
        assert re.fullmatch(r"on .+, \d+ threads, known: .+\.json", lines[1])
        assert Path(lines[1].partition("known: ")[2]) in (zoo_home / "latency").iterdir()
        return lines[2:]

    def when(lines: list[str]) -> list[str]:
        pattern = re.compile(
            r"fastnet \(as tiny-a\), --tta (\S+), batch 1: median [\d.]+ ms, p99 [\d.]+ ms, "
            r"(measured now|as measured on \d{4}-\d\d-\d\d)"
        )
        found = [pattern.match(line) for line in lines]
        return [f"{m[1]} {m[2][:11]}" if m else "" for m in found]

    first = times("--tta", "none")
    assert when(first) == ["none measured no"]
    assert when(times()) == ["none as measured", "flip measured no"]
    again = times()
    assert when(again) == ["none as measured", "flip as measured"]
    assert again[0].partition(", as measured")[0] == first[0].partition(", measured now")[0]
    assert when(times("--remeasure")) == ["none measured no", "flip measured no"]


def test_accuracy_is_an_objective(fittable: "Zoo", choose: Choose) -> None:
    by_accuracy = chosen(choose, "--dry-run", "--objective", "accuracy")
    assert by_accuracy["fitted_on"]["objective"] == "accuracy"
    assert by_accuracy["ensemble"]["accuracy"] >= chosen(choose, "--dry-run")["ensemble"]["accuracy"], fittable


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--pool", "tiny-*"], 2, "give -o FILE"),
        (["--dry-run"], 2, "--pool"),
        (["--pool", "tiny-*", "--dry-run", "--split", "test"], 2, "--split 'test': a fit reads the validation split"),
        (["--pool", "tiny-*", "--dry-run", "--split", "train"], 2, "--split 'train'"),
        (["--pool", "tiny-a=2,tiny-b", "--dry-run"], 2, "'tiny-a' has a weight"),
        (["--pool", "tinya", "--dry-run"], 1, "did you mean 'tiny-a'"),
        (["--pool", "tiny-a,tiny-*", "--dry-run"], 2, "named twice"),
        (["--pool", "tiny-*", "--dry-run", "--tta", "flips"], 2, "did you mean 'flip'"),
        (["--pool", "tiny-*", "--dry-run", "--tta", "crops5"], 1, "--members tiny-a,tiny-b,tiny-c --tta crops5"),
        (["--pool", "tiny-*", "--dry-run", "--budget-macs", "0"], 2, "--budget-macs 0: a budget is a finite number"),
        (["--pool", "tiny-*", "--dry-run", "--budget-macs", "nan"], 2, "--budget-macs nan"),
        (["--pool", "tiny-*", "--dry-run", "--budget-macs", "0.5"], 2, "cheapest, 'tiny-a' with --tta none, costs 1"),
        (["--pool", "tiny-*", "--dry-run", "--budget-macs", "1", "--budget-ms", "1"], 2, "give one of --budget-macs"),
        (["--pool", "tiny-*", "--dry-run", "--device", "cpu"], 2, "--device goes with --budget-ms"),
        (["--pool", "tiny-*", "--dry-run", "--remeasure"], 2, "--remeasure goes with --budget-ms"),
        (["--pool", "tiny-*", "--dry-run", "--batch", "8"], 2, "--batch goes with --budget-ms"),
        (["--pool", "tiny-*", "--dry-run", "--max-members", "0"], 2, "'--max-members'"),
        (["--pool", "tiny-*", "--dry-run", "--method", "random"], 2, "'--method'"),
        (["--pool", "", "--dry-run"], 2, "Invalid value for '--pool': nothing is in it"),
        (["--pool", "tiny-*", "--dry-run", "--tta", ""], 2, "Invalid value for '--tta': nothing is in it"),
        (["--pool", "tiny-*", "--dry-run", "--budget-ms", "1", "--device", ""], 2, "'--device': nothing is in it"),
        (["--pool", "tiny-*", "-o", "no/such/e.json"], 2, "-o 'no/such/e.json' is not a file in an existing folder"),
    ],
)
def test_bad_requests_are_one_line(fittable: "Zoo", choose: Choose, words: list[str], code: int, says: str) -> None:
    found, out, err = choose(*words, "-q")
    assert (found, out) == (code, ""), fittable
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_members_that_do_not_say_what_they_saw_are_refused(zoo: "Zoo", choose: Choose, tmp_path: Path) -> None:
    code, out, err = choose("--pool", "tiny-*", "-o", tmp_path / "e.json", "-q")
    assert (code, out) == (1, ""), zoo
    assert "'tiny-a', 'tiny-b', 'tiny-c' cannot take part in a fit: the card does not say" in err
    assert not (tmp_path / "e.json").exists()


def test_a_member_that_held_other_images_out_is_refused(
    fittable: "Zoo", choose: Choose, reseal: Callable[[Path], None]
) -> None:
    config = fittable.source / "tiny-b" / "config.json"
    card = fittable.entry("tiny-b").card
    seen = {"images": 100, "fingerprint": "1" * 64, "held_out": "2" * 64}
    config.write_text(replace(card, trained_on=seen).to_json(), encoding="utf-8")
    reseal(config.parent)
    code, _, err = choose("--pool", "tiny-*", "--dry-run", "-q")
    assert code == 1
    assert "'tiny-b' cannot take part in a fit on the validation split" in err


def test_a_pattern_that_matches_members_for_other_data_is_refused_with_their_names(
    fittable: "Zoo", choose: Choose, reseal: Callable[[Path], None]
) -> None:
    config = fittable.source / "tiny-b" / "config.json"
    config.write_text(replace(fittable.entry("tiny-b").card, dataset="svhn").to_json(), encoding="utf-8")
    reseal(config.parent)
    code, _, err = choose("--pool", "tiny-*", "--dry-run", "-q")
    assert code == 1
    assert err.count("\n") == 1
    for words in ("give names or patterns of one of these", "'tiny-a', 'tiny-c'; ", "svhn", "'tiny-b'"):
        assert words in err


def test_the_lockfile_can_go_to_stdout(fittable: "Zoo", choose: Choose, tmp_path: Path) -> None:
    assert choose("--pool", "tiny-*", "-q", "-o", tmp_path / "e.json")[0] == 0, fittable
    code, out, err = choose("--pool", "tiny-*", "-q", "-o", "-")
    assert code == 0
    assert out == (tmp_path / "e.json").read_text(encoding="utf-8")
    assert "ensemble of" in err


def test_a_prediction_file_is_refused(fittable: "Zoo", choose: Choose, tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", probs=np.ones((1, 2)))
    code, _, err = choose("--pool", f"tiny-a,{tmp_path / 'other.npz'}", "--dry-run", "-q")
    assert code == 2, fittable
    assert "does not say what its model trained on" in err


def test_a_card_without_multiply_adds_needs_no_budget(
    fittable: "Zoo", choose: Choose, reseal: Callable[[Path], None]
) -> None:
    config = fittable.source / "tiny-b" / "config.json"
    config.write_text(replace(fittable.entry("tiny-b").card, multiply_adds=0).to_json(), encoding="utf-8")
    reseal(config.parent)
    assert chosen(choose, "--dry-run")["cost"]["value"] is None
    code, _, err = choose("--pool", "tiny-*", "--dry-run", "--budget-macs", "9", "-q")
    assert code == 1
    assert "the card of 'tiny-b' does not say how many multiply-adds" in err


def test_it_runs_without_torch(fittable: "Zoo") -> None:
    """In a process of its own."""
    program = (
        "import sys; from ensemble.cli.select import command; "
        "command(['--pool', 'tiny-*', '--dry-run', '-q'], standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "ZOO_SOURCE": str(fittable.source)}
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, env=environment, text=True)
    assert (done.returncode, done.stderr) == (0, "")
    assert "ensemble of" in done.stdout


def test_the_shipped_entries_make_a_committee_beyond_each_of_them(choose: Choose, tmp_path: Path) -> None:
    file = tmp_path / "ensemble.json"
    code, out, _ = choose("--pool", "fastnet-seed*,wrn16-4-seed1", "--json", "-q", "-o", file)
    assert code == 0
    table = json.loads(out)
    assert table["views"] == "flip"
    assert table["ensemble"]["nll"] < 0.87 * table["best_single"]["nll"]
    assert table["cross_validated_nll"] == pytest.approx(table["ensemble"]["nll"], rel=0.01)
    assert read_lockfile(file).views == "flip"
