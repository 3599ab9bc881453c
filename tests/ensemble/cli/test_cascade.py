"""`ensemble cascade`, as a person or a program meets it."""

import json
import shlex
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.cascade.stored import stored_exits
from ensemble.cascade.thresholds import MOST_STAGES
from ensemble.cli import cascade as module
from ensemble.evaluate import stored_ballots
from ensemble.lockfile import read_lockfile, write_lockfile
from ensemble.merge import Merge, merge
from tests.ensemble.cli.conftest import IMAGES, NAMES, lock, read
from zoo.predictions import Predictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]


@pytest.fixture
def lockfile(fittable: "Zoo", tmp_path: Path) -> Path:
    return lock(tmp_path / "ensemble.json", fittable.committee("tiny-*", "flip", "probs", 0.9))


def fit(cli: "Cli", lockfile: Path, *words: object) -> dict[str, Any]:
    return read(cli("cascade", lockfile, "--max-accuracy-drop", "0.01", "--json", "-q", *words))


def test_the_lockfile_evaluates_to_what_was_reported(fittable: "Zoo", cli: "Cli", lockfile: Path) -> None:
    out = lockfile.with_name("cascade.json")
    table = fit(cli, lockfile, "-o", out)
    assert list(table) == [
        "dataset", "split", "images", "fitted_on", "members", "views", "merge", "ensemble", "cascade", "drop",
        "cross_validated", "output", "seconds",
    ]  # fmt: skip
    report = read(cli("eval", "--ensemble", out, "--split", "val", "--json", "-"))
    for key in ("ensemble", "cascade", "members"):
        assert report[key] == table[key]
    committee, before = read_lockfile(out), read_lockfile(lockfile)
    assert replace(committee, cascade=()) == before
    last = committee.cascade[-1]
    assert (set(last.members), last.views, last.temperature) == (set(NAMES), "flip", 0.9)
    # Independently: what is stored, merged by hand.
    ballots = stored_ballots(before, fittable.split_source("val"))
    exits = stored_exits(committee, ballots.votes)
    whole = merge(ballots.votes, "probs", 0.9)[1]
    right = [(top == ballots.labels).mean() for top in (whole, exits.top)]
    assert table["drop"]["observed"] == pytest.approx(right[0] - right[1], abs=1e-12)
    assert table["drop"]["observed"] <= 0.01
    assert table["drop"]["expected"] <= table["drop"]["bound"] <= table["drop"]["allowed"] == 0.01
    assert max(table["cross_validated"]["expected"], table["cross_validated"]["observed"]) <= 0.01
    costs = [s["multiply_adds"] for s in table["cascade"]["stages"]]
    assert costs[-1] == 12 * 10**9
    assert table["cascade"]["multiply_adds"] == pytest.approx(np.mean([costs[s] for s in exits.stage]))
    assert table["cascade"]["of_whole"] == pytest.approx(table["cascade"]["multiply_adds"] / costs[-1])
    assert table["cascade"]["of_whole"] < 0.7
    assert table["cascade"]["agreement"] == (exits.top == whole).mean()
    locked = json.loads(out.read_text(encoding="utf-8"))
    assert locked["metrics"]["val"]["accuracy"] == table["ensemble"]["accuracy"]
    assert locked["metrics"]["val"]["cascade"]["of_whole"] == table["cascade"]["of_whole"]


def test_what_it_was_fitted_on_is_what_was_read_and_only_the_objective_stays(
    fittable: "Zoo", cli: "Cli", lockfile: Path
) -> None:
    mark = fittable.entry("tiny-a").predictions().splits["val"].fingerprint
    own = {"split": "val", "fingerprint": mark, "images": IMAGES, "objective": "cascade"}
    assert fit(cli, lockfile, "--dry-run")["fitted_on"] is None  # nobody knows where its temperature comes from
    plain = lock(lockfile.with_name("plain.json"), fittable.committee("tiny-*", "flip"))
    assert fit(cli, plain, "--dry-run")["fitted_on"] == own
    said = {**own, "images": 7, "objective": "nll", "by": "somebody"}
    write_lockfile(lockfile, read_lockfile(lockfile), fitted_on=said, metrics={})
    out = lockfile.with_name("cascade.json")
    assert fit(cli, lockfile, "-o", out)["fitted_on"] == {**own, "objective": "nll"}
    assert json.loads(out.read_text(encoding="utf-8"))["fitted_on"] == {**own, "objective": "nll"}


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"fingerprint": "4" * 64}, "fitted on the split 'val' 44444444, but its member 'tiny-a' held out"),
        ({"split": "test"}, "fitted on the split 'test'"),
        ({"images": "many"}, "is malformed: images of 'fitted_on': 'many' is not a number"),
        ({"fingerprint": None}, "is malformed: fingerprint of 'fitted_on': None is not text"),
    ],
)
def test_a_fit_on_other_images_is_not_continued(
    fittable: "Zoo", cli: "Cli", lockfile: Path, change: dict[str, Any], says: str
) -> None:
    mark = fittable.entry("tiny-a").predictions().splits["val"].fingerprint
    said = {"split": "val", "fingerprint": mark, "images": IMAGES, "objective": "nll", **change}
    write_lockfile(lockfile, fittable.committee("tiny-*", "flip"), fitted_on=said, metrics={})
    done = cli("cascade", lockfile, "-o", lockfile.with_name("cascade.json"))
    assert (done.code, done.out) == (1, "")
    assert done.error.startswith(str(lockfile))
    assert says in done.error
    assert not lockfile.with_name("cascade.json").exists()


def test_the_same_again_is_the_same_file_and_a_cascade_is_fitted_anew(cli: "Cli", lockfile: Path) -> None:
    first, again = (lockfile.with_name(name) for name in ("a.json", "b.json"))
    fit(cli, lockfile, "-o", first)
    done = cli("cascade", first, "--max-accuracy-drop", "0.01", "-o", again)
    assert done.code == 0
    assert f"{first} has a cascade already: another is fitted to its ensemble\n" in done.err
    tables = [json.loads(path.read_text(encoding="utf-8")) for path in (first, again)]
    assert tables[0] == tables[1]


def test_the_test_split_makes_no_difference(
    fittable: "Zoo", cli: "Cli", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    outs = [lockfile.with_name(name) for name in ("a.json", "b.json")]
    fit(cli, lockfile, "-o", outs[0])
    for name in NAMES:
        stored = dict(fittable.entry(name).predictions().splits)
        del stored["test"]
        (fittable.source / name / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(fittable.source / name)
    fit(cli, lockfile, "-o", outs[1])
    assert outs[0].read_bytes() == outs[1].read_bytes()


def test_limits_are_kept(cli: "Cli", lockfile: Path) -> None:
    two = fit(cli, lockfile, "--dry-run", "--max-stages", "2")
    assert len(two["cascade"]["stages"]) == 2
    more = fit(cli, lockfile, "--dry-run")
    assert more["cascade"]["of_whole"] <= two["cascade"]["of_whole"]
    loose = read(cli("cascade", lockfile, "--dry-run", "--max-accuracy-drop", "0.2", "--json", "-q"))
    assert loose["cascade"]["of_whole"] < more["cascade"]["of_whole"]
    assert module._MOST_STAGES == MOST_STAGES


def test_a_dry_run_writes_nothing_and_the_table_says_what_the_json_says(cli: "Cli", lockfile: Path) -> None:
    out = lockfile.with_name("cascade.json")
    table = fit(cli, lockfile, "--dry-run", "-o", out)
    done = cli("cascade", lockfile, "--max-accuracy-drop", "0.01", "--dry-run", "-o", out)
    assert (done.code, done.err) == (0, "")
    assert not out.exists()
    assert "nothing written" in done.out
    for stage in table["cascade"]["stages"]:
        assert f"{100 * stage['share']:.2f} %" in done.out
        assert not stage["threshold"] or f"{stage['threshold']:.4f}" in done.out
    assert f", {100 * table['cascade']['of_whole']:.1f} % of the whole ensemble's; accuracy" in done.out
    held = table["cross_validated"]
    assert f"cross-validated: {100 * held['cost']:.1f} % of the multiply-adds" in done.out
    assert held["expected_error"] > 0
    assert f"{100 * held['expected']:.3f} points of accuracy expected to be lost, standard error" in done.out
    assert f"standard error {100 * held['expected_error']:.3f} (" in done.out
    assert f"standard error {100 * held['observed_error']:.2f});" in done.out
    assert table["drop"]["held"] is True
    assert "at most 1 points allowed: these numbers have chosen how strict the thresholds are, so new" in done.out


def test_a_drop_that_is_not_held_is_said(cli: "Cli", lockfile: Path) -> None:
    words = ["cascade", lockfile, "--max-accuracy-drop", "0", "--dry-run"]
    table = read(cli(*words, "--json", "-q"))
    assert table["cross_validated"]["expected"] > 0
    assert (table["drop"]["allowed"], table["drop"]["bound"], table["drop"]["held"]) == (0, 0, False)
    done = cli(*words)
    assert (done.code, done.err.count("\n")) == (0, 1)
    assert done.err.startswith("warning: a drop of 0 points does not hold on other images: cross-validated, ")
    assert f"{100 * table['cross_validated']['expected']:.3f} points are expected to be lost" in done.err
    assert "at most 0 points allowed: not even the strictest thresholds hold it" in done.out


def test_too_few_images_to_tell_are_said(
    fittable: "Zoo", cli: "Cli", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    for name in NAMES:
        stored = dict(fittable.entry(name).predictions().splits)
        few = stored["val"]
        views = {view: logits[:9] for view, logits in few.views.items()}
        stored["val"] = replace(few, views=views, labels=few.labels[:9])
        (fittable.source / name / "predictions.safetensors").write_bytes(Predictions(stored).encode())
        reseal(fittable.source / name)
    done = cli("cascade", lockfile, "--max-accuracy-drop", "0.5", "--dry-run")
    assert done.code == 0
    assert done.err == (
        "warning: 9 validation images are too few to cross-validate: nothing shows that a drop of 50 points holds on"
        " others\n"
    )
    assert "cross-validated" not in done.out


def test_a_dash_is_stdout(cli: "Cli", lockfile: Path) -> None:
    out = lockfile.with_name("cascade.json")
    fit(cli, lockfile, "-o", out)
    done = cli("cascade", lockfile, "--max-accuracy-drop", "0.01", "-o", "-")
    assert done.code == 0
    assert done.out.encode() == out.read_bytes()
    assert "of the whole ensemble's; accuracy" in done.err
    assert "nothing written" in cli("cascade", lockfile, "--max-accuracy-drop", "0.01", "-o", "-", "--dry-run").out
    assert not Path("-").exists()


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["--dry-run", "--split", "test"], 2, "--split 'test': a fit reads the validation split only"),
        ([], 2, "give -o FILE"),
        (["-o", "no/such/c.json"], 2, "-o 'no/such/c.json' is not a file in an existing folder"),
        (["--dry-run", "--max-accuracy-drop", "-0.1"], 2, "--max-accuracy-drop -0.1: a fraction from 0, below 1"),
        (["--dry-run", "--max-accuracy-drop", "nan"], 2, "--max-accuracy-drop nan"),
        (["--dry-run", "--max-accuracy-drop", "1"], 2, "--max-accuracy-drop 1"),
        (["-o", "-", "--json"], 2, "-o - and --json both write to stdout: give one of them"),
        (["-o", ""], 2, "'-o' / '--output': nothing is in it"),
        (["-o", "ensemble.json"], 2, "-o 'ensemble.json' would overwrite what is read: give another file"),
        (["-o", "../{here}/ensemble.json"], 2, "would overwrite what is read: give another file"),
        (["--dry-run", "--max-stages", "1"], 2, "'--max-stages'"),
        (["--dry-run", "--max-stages", "5"], 2, "'--max-stages'"),
    ],
)
def test_bad_requests_are_one_line(
    cli: "Cli", lockfile: Path, monkeypatch: pytest.MonkeyPatch, words: list[str], code: int, says: str
) -> None:
    monkeypatch.chdir(lockfile.parent)
    before = lockfile.read_bytes()
    done = cli("cascade", lockfile, *(word.format(here=lockfile.parent.name) for word in words))
    assert (done.code, done.out) == (code, "")
    assert says in done.error
    assert lockfile.read_bytes() == before


@pytest.mark.parametrize(
    ("members", "views", "how", "code", "says"),
    [
        ("tiny-*", "flip", "vote", 2, "merges by vote, and a share of votes does not say how sure a stage is"),
        ("tiny-a", "none", "probs", 2, "is one member under one view: there is nothing to ask first"),
        (
            *("tiny-*", "crops5", "probs", 1),
            "run `ensemble eval --members tiny-a,tiny-b,tiny-c --tta crops5 --split val --data DIR --fresh` once",
        ),
    ],
)
def test_ensembles_that_have_no_cascade(
    fittable: "Zoo", cli: "Cli", tmp_path: Path, members: str, views: str, how: Merge, code: int, says: str
) -> None:
    file = lock(tmp_path / "e.json", fittable.committee(members, views, how))
    done = cli("cascade", file, "--dry-run")
    assert (done.code, done.out) == (code, "")
    assert says in done.error
    assert "give --fresh" not in done.error


def test_a_file_that_is_missing_or_none(cli: "Cli", tmp_path: Path) -> None:
    assert "cannot read" in cli("cascade", tmp_path / "lost.json", "--dry-run").error
    (tmp_path / "x.json").write_text("{}", encoding="utf-8")
    assert "is not an ensemble of format" in cli("cascade", tmp_path / "x.json", "--dry-run").error
    assert "Missing argument" in cli("cascade").error
    assert "'ENSEMBLE.json': nothing is in it" in cli("cascade", "", "--dry-run").error


def test_hints_can_be_followed(
    fittable: "Zoo", cli: "Cli", lockfile: Path, reseal: Callable[[Path], None], tmp_path: Path
) -> None:
    file = lock(tmp_path / "crops.json", fittable.committee("tiny-*", "crops5"))
    hint = cli("cascade", file, "--dry-run").error.split("`")[1]
    # The predictions of this zoo are made up; for those of the data at hand, the command goes on with --data.
    command = cli("eval", *shlex.split(hint)[2:], "--data", fittable.data, "--device", "cpu", "--limit", "2")
    assert (command.code, command.out.count("tiny-")) == (0, 3)
    stored = dict(fittable.entry("tiny-b").predictions().splits)
    del stored["val"]
    (fittable.source / "tiny-b" / "predictions.safetensors").write_bytes(Predictions(stored).encode())
    reseal(fittable.source / "tiny-b")
    done = cli("cascade", lockfile, "--dry-run")
    assert done.error.endswith("the val split: only `ensemble eval --fresh` runs its network")


def test_members_that_do_not_say_what_they_saw_are_refused(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    done = cli("cascade", lock(tmp_path / "e.json", zoo.committee("tiny-*")), "-o", tmp_path / "c.json")
    assert (done.code, done.out) == (1, "")
    assert "'tiny-a', 'tiny-b', 'tiny-c' cannot take part in a fit: the card does not say" in done.error
    assert not (tmp_path / "c.json").exists()


def test_a_member_that_held_other_images_out_is_refused(
    fittable: "Zoo", cli: "Cli", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    config = fittable.source / "tiny-b" / "config.json"
    seen = {"images": 100, "fingerprint": "1" * 64, "held_out": "2" * 64}
    config.write_text(replace(fittable.entry("tiny-b").card, trained_on=seen).to_json(), encoding="utf-8")
    reseal(config.parent)
    done = cli("cascade", lockfile, "--dry-run")
    assert done.code == 1
    assert "'tiny-b' cannot take part in a fit on the validation split" in done.error


def test_a_card_without_multiply_adds_is_refused(
    fittable: "Zoo", cli: "Cli", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    config = fittable.source / "tiny-b" / "config.json"
    config.write_text(replace(fittable.entry("tiny-b").card, multiply_adds=0).to_json(), encoding="utf-8")
    reseal(config.parent)
    done = cli("cascade", lockfile, "--dry-run")
    assert done.code == 1
    assert "the card of 'tiny-b' does not say how many multiply-adds its network has" in done.error


def test_the_shipped_five_without_torch(tmp_path: Path) -> None:
    program = (
        "import sys; from ensemble.cli import group; from zoo.cli.group import run; "
        "code = run(group, sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )

    def call(*words: object) -> dict[str, Any]:
        command = [sys.executable, "-c", program, *map(str, words)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        table: dict[str, Any] = json.loads(done.stdout)
        return table

    whole, out = tmp_path / "ensemble.json", tmp_path / "cascade.json"
    call("select", "--pool", "fastnet-seed[1-5]", "--tta", "flip", "-o", whole, "--json", "-q")
    fitted = call("cascade", whole, "-o", out, "--json", "-q")
    assert fitted["cross_validated"]["expected"] <= 0.0005
    report = call("eval", "--ensemble", out, "--json", "-")
    assert report["cascade"]["of_whole"] <= 0.22
    assert report["ensemble"]["accuracy"] >= report["cascade"]["whole"]["accuracy"] - 0.001
    assert report["cascade"]["agreement"] > 0.99
