"""`ensemble compare`, as a person or a program meets it."""

import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.lockfile import Committee, write_lockfile
from zoo.predictions import Predictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]

KEYS = [
    "dataset",
    "split",
    "images",
    "a",
    "b",
    "difference",
    "mcnemar",
    "resamples",
    "seed",
    "real",
    "verdict",
    "seconds",
]


def read(outcome: "Outcome") -> dict[str, Any]:
    """Return the JSON that is all of a command's stdout."""
    assert (outcome.code, outcome.err) == (0, "")
    table: dict[str, Any] = json.loads(outcome.out)
    return table


def lock(path: Path, committee: Committee) -> Path:
    write_lockfile(path, committee, fitted_on=None, metrics={})
    return path


@pytest.fixture
def knowing(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with stored predictions that know something: `tiny-a` little, `tiny-b` and `tiny-c` much."""
    rng = np.random.default_rng(0)
    for name, skill in (("tiny-a", 0.5), ("tiny-b", 2.0), ("tiny-c", 2.0)):
        stored = zoo.entry(name).predictions().splits
        hint = skill * np.eye(10)[stored["test"].labels]
        views = {v: (hint + rng.standard_normal((60, 10))).astype(np.float16) for v in ("none", "flip")}
        content = Predictions({**stored, "test": replace(stored["test"], views=views)}).encode()
        (zoo.source / name / "predictions.safetensors").write_bytes(content)
        reseal(zoo.source / name)
    return zoo


def test_json_agrees_with_eval_about_each_side(knowing: "Zoo", cli: "Cli") -> None:
    del knowing
    report = read(cli("compare", "tiny-a", "tiny-b,tiny-c=0.5", "--tta", "flip", "--json", "-"))
    assert list(report) == KEYS
    assert (report["dataset"], report["split"], report["images"]) == ("cifar10", "test", 60)
    for key, members in (("a", "tiny-a"), ("b", "tiny-b,tiny-c=0.5")):
        side, alone = report[key], read(cli("eval", "--members", members, "--tta", "flip", "--json", "-"))
        assert (side["name"], side["views"], side["merge"]) == (members, "flip", alone["merge"])
        assert [(m["name"], m["weight"]) for m in side["members"]] == [
            (m["name"], m["weight"]) for m in alone["members"]
        ]
        for metric in ("accuracy", "nll", "brier", "ece"):
            assert side["metrics"][metric]["value"] == pytest.approx(alone["ensemble"][metric], abs=1e-12)
        assert side["metrics"]["accuracy"]["ci95"] == alone["ensemble"]["accuracy_ci95"]
    assert 0 <= report["b"]["metrics"]["aurc"]["value"] < report["a"]["metrics"]["aurc"]["value"] < 1
    for metric, gap in report["difference"].items():
        assert gap["value"] == pytest.approx(
            report["b"]["metrics"][metric]["value"] - report["a"]["metrics"][metric]["value"], abs=1e-12
        )
    assert report["real"]
    assert report["verdict"].startswith("B is better by ")


def test_two_lockfiles(knowing: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    a = lock(tmp_path / "A.json", knowing.committee("tiny-b", "none"))
    b = lock(tmp_path / "B.json", knowing.committee("tiny-b,tiny-c", "flip", "logits", 1.5))
    report = read(cli("compare", a, b, "--json", "-"))
    assert (report["a"]["name"], report["a"]["views"], report["a"]["merge"]) == (str(a), "none", "probs")
    assert (report["b"]["views"], report["b"]["merge"]) == ("flip", "logits")
    assert (report["a"]["temperature"], report["b"]["temperature"]) == (1.0, 1.5)
    assert (report["a"]["calibrated"], report["b"]["calibrated"]) == (False, True)
    only = "only {} has temperatures: some of the difference in NLL, Brier, ECE and AURC is calibration\n"
    assert only.format("B") in cli("compare", a, b).out
    assert only.format("A") in cli("compare", b, a).out
    assert "has temperatures" not in cli("compare", b, b).out
    for key, path in (("a", a), ("b", b)):
        alone = read(cli("eval", "--ensemble", path, "--json", "-"))["ensemble"]
        assert report[key]["metrics"]["nll"]["value"] == pytest.approx(alone["nll"], abs=1e-12)


def test_a_lockfile_against_members(knowing: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    a = lock(tmp_path / "A.json", knowing.committee("tiny-b", "none"))
    report = read(cli("compare", a, "tiny-c", "--tta", "flip", "--json", "-"))
    assert (report["a"]["views"], report["b"]["views"]) == ("none", "flip")
    turned = read(cli("compare", "tiny-c", a, "--tta", "flip", "--json", "-"))
    assert (turned["a"]["views"], turned["b"]["views"]) == ("flip", "none")
    assert turned["difference"]["nll"]["value"] == pytest.approx(-report["difference"]["nll"]["value"], abs=1e-12)


def test_the_same_members_under_other_views_and_merges(knowing: "Zoo", cli: "Cli") -> None:
    del knowing
    words = ["compare", "tiny-b,tiny-c", "tiny-b,tiny-c", "--tta", "none", "--tta", "flip", "--json", "-"]
    report = read(cli(*words, "--merge", "probs", "--merge", "vote"))
    assert (report["a"]["views"], report["b"]["views"]) == ("none", "flip")
    assert (report["a"]["merge"], report["b"]["merge"]) == ("probs", "vote")
    assert report["a"]["metrics"]["nll"] is not None
    assert report["b"]["metrics"]["nll"] is report["difference"]["nll"] is None


def test_the_table_says_what_the_json_says(knowing: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    del knowing
    done = cli("compare", "tiny-a", "tiny-b", "--json", tmp_path / "x.json")
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert list(report) == KEYS
    assert "A: tiny-a: 1 member, views: none, merge: probs\n" in done.out
    assert "cifar10 test, 60 images, stored predictions" in done.out
    for metric, title, scale, digits in (
        ("accuracy", "accuracy", 100, 2),
        ("nll", "NLL", 1, 4),
        ("brier", "Brier", 1, 4),
        ("ece", "ECE", 1, 4),
        ("aurc", "AURC", 1, 5),
    ):
        line = next(line for line in done.out.splitlines() if f" {title} " in line and "│" in line)
        gap = report["difference"][metric]
        for value in (report["a"]["metrics"][metric]["value"], report["b"]["metrics"][metric]["value"]):
            assert f"{scale * value:.{digits}f}" in line
        for value in (gap["value"], *gap["ci95"]):
            assert f"{scale * value:+.{digits}f}" in line
    test = report["mcnemar"]
    assert f"only A is right on {test['only_a']} images, only B on {test['only_b']}: McNemar p = " in done.out
    assert done.out.endswith(report["verdict"] + "\n")


def test_a_vote_leaves_the_likelihood_empty(knowing: "Zoo", cli: "Cli") -> None:
    del knowing
    done = cli("compare", "tiny-a", "tiny-b", "--merge", "vote")
    line = next(line for line in done.out.splitlines() if " NLL " in line)
    assert not any(letter.isdigit() for letter in line)
    assert "None" not in done.out


def test_quiet_is_the_sentence_alone(knowing: "Zoo", cli: "Cli") -> None:
    del knowing
    done = cli("compare", "tiny-b", "tiny-b", "-q")
    assert (done.code, done.err) == (0, "")
    assert done.out == "no difference in accuracy can be told: A and B are right on the same images; n = 60\n"


def test_the_validation_split(zoo: "Zoo", cli: "Cli") -> None:
    del zoo
    report = read(cli("compare", "tiny-a", "tiny-b", "--split", "val", "--json", "-"))
    assert (report["split"], report["images"]) == ("val", 10)


def test_prediction_files_compare_with_entries(knowing: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    path = tmp_path / "other.npz"
    np.savez(path, logits=knowing.logits("tiny-b"), labels=knowing.split.labels)
    words = ["--data", knowing.data, "--json", "-"]
    report = read(cli("compare", "tiny-b", path, *words))
    assert report["difference"]["accuracy"]["value"] == 0
    assert report["mcnemar"] == {"only_a": 0, "only_b": 0, "p": 1.0, "mid_p": 1.0}
    assert report["difference"]["nll"]["value"] == pytest.approx(0, abs=1e-6)


def test_other_images_are_not_compared(zoo: "Zoo", cli: "Cli", reseal: Callable[[Path], None]) -> None:
    stored = zoo.entry("tiny-b").predictions().splits
    content = Predictions({**stored, "test": replace(stored["test"], fingerprint="f" * 64)}).encode()
    (zoo.source / "tiny-b" / "predictions.safetensors").write_bytes(content)
    reseal(zoo.source / "tiny-b")
    done = cli("compare", "tiny-a", "tiny-b")
    mark = zoo.entry("tiny-a").predictions().splits["test"].fingerprint[:8]
    assert (done.code, done.out) == (1, "")
    assert done.error == (
        f"tiny-a ({mark}) and tiny-b (ffffffff) have predictions for different test images: nothing can be compared"
    )


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        ([], 2, "Missing argument 'A'"),
        (["tiny-a"], 2, "Missing argument 'B'"),
        (["tiny-a", "tiny-d"], 1, "did you mean 'tiny-"),
        (["tiny-a", "lost.json"], 1, "cannot read lost.json"),
        (["tiny-a", "tiny-b", "--tta", "flips"], 2, "did you mean 'flip'?"),
        (["tiny-a", "tiny-b", "--tta", "none", "--tta", "flip", "--tta", "flip"], 2, "--tta is given 3 times"),
        (["tiny-a", "tiny-b", "--merge", "avg"], 2, "unknown --merge 'avg'"),
        (["a.json", "b.json", "--tta", "flip"], 2, "--tta is for members: an ensemble.json has its own"),
        (["tiny-a", "b.json", "--merge", "vote", "--merge", "vote"], 2, "--merge is for members"),
        (["tiny-a", "tiny-b", "--tta", "crops5"], 1, "--tta crops5 --split test --fresh` once, which keeps them"),
        (["tiny-a", ""], 2, "Invalid value for 'B': nothing is in it"),
        (["tiny-a", "tiny-b", "--tta", ""], 2, "Invalid value for '--tta': nothing is in it"),
        (["tiny-a", "tiny-b", "--merge", ""], 2, "Invalid value for '--merge': nothing is in it"),
        (["tiny-a", "tiny-b", "--data", ""], 2, "Invalid value for '--data': nothing is in it"),
        (["tiny-a", "tiny-b", "--json", ""], 2, "Invalid value for '--json': nothing is in it"),
        (["tiny-a", "b.json", "--json", "b.json"], 2, "--json 'b.json' would overwrite what is read"),
        (["tiny-a", "tiny-b", "--split", "train"], 2, "'--split': 'train' is not one of 'test', 'val'"),
        (["tiny-a", "tiny-b", "--dataset", "cifar100"], 2, "'tiny-a' classifies cifar10"),
        (["tiny-a", "tiny-b", "--json", "no/such/x.json"], 2, "is not a file in an existing folder"),
        (["tiny-a", "tiny-b", "--fresh"], 2, "--fresh"),
    ],
)
def test_bad_requests_are_one_line(zoo: "Zoo", cli: "Cli", words: list[str], code: int, says: str) -> None:
    del zoo
    done = cli("compare", *words)
    assert (done.code, done.out) == (code, "")
    assert says in done.error


def test_the_shipped_committee_without_torch() -> None:
    program = (
        "import sys; from ensemble.cli import group; from zoo.cli.group import run; "
        "code = run(group, sys.argv[1:]); sys.exit(code or 'torch' in sys.modules)"
    )
    words = ["compare", "fastnet-seed1", "fastnet-seed[1-5]", "--tta", "flip", "--json", "-"]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    report = json.loads(done.stdout)
    assert report["images"] == 10_000
    assert report["real"]
    assert 0.003 < report["difference"]["accuracy"]["ci95"][0] < report["difference"]["accuracy"]["ci95"][1] < 0.02
    assert report["seconds"] < 20  # measured: 2
