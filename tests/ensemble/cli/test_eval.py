"""`ensemble eval`, as a person or a program meets it."""

import json
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.lockfile import write_lockfile
from tests.ensemble.conftest import REPORT_KEYS
from zoo.predictions import Predictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]


def read(outcome: "Outcome") -> dict[str, Any]:
    """Return the JSON that is all of a command's stdout."""
    assert outcome.code == 0, outcome.err
    table: dict[str, Any] = json.loads(outcome.out)
    return table


def fraction(value: object) -> bool:
    return isinstance(value, float) and 0 <= value <= 1


@pytest.fixture
def knowing(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with stored predictions that know something, so that accuracies are not all a tenth."""
    rng = np.random.default_rng(0)
    for name in ("tiny-a", "tiny-b", "tiny-c"):
        stored = zoo.entry(name).predictions().splits
        hint = 2 * np.eye(10)[stored["test"].labels]
        views = {v: (hint + rng.standard_normal((60, 10))).astype(np.float16) for v in ("none", "flip")}
        content = Predictions({**stored, "test": replace(stored["test"], views=views)}).encode()
        (zoo.source / name / "predictions.safetensors").write_bytes(content)
        reseal(zoo.source / name)
    return zoo


@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
@pytest.mark.parametrize("source", ["stored", "fresh"])
def test_json_has_the_keys_and_types_of_the_design(zoo: "Zoo", cli: "Cli", merge: str, source: str) -> None:
    fresh = ["--fresh", "--device", "cpu"] if source == "fresh" else []
    words = ["eval", "--members", "tiny-a,tiny-b=1.2", "--tta", "flip", "--merge", merge, "--data", zoo.data, *fresh]
    report = read(cli(*words, "--json", "-"))
    assert list(report) == REPORT_KEYS
    assert (report["dataset"], report["split"], report["images"]) == ("cifar10", "test", 60)
    assert (report["views"], report["merge"], report["source"]) == (["none", "flip"], merge, source)
    assert (report["device"], report["precision"]) == (("cpu", "fp32") if fresh else (None, None))
    assert isinstance(report["seconds"], float)
    assert 0 < report["seconds"] < 120
    assert [(m["name"], m["weight"]) for m in report["members"]] == [("tiny-a", 1.0), ("tiny-b", 1.2)]
    for member in report["members"]:
        assert list(member) == ["name", "weight", "accuracy", "nll", "ece"]
        assert fraction(member["accuracy"])
        assert fraction(member["ece"])
        assert member["nll"] > 0
    whole = report["ensemble"]
    assert set(whole) == {"accuracy", "accuracy_ci95", "nll", "brier", "ece"}
    assert fraction(whole["accuracy"])
    assert fraction(whole["ece"])
    assert 0 < whole["brier"] < 2
    low, high = whole["accuracy_ci95"]
    assert fraction(low)
    assert fraction(high)
    assert low <= whole["accuracy"] <= high
    assert (whole["nll"] is None) == (merge == "vote")


def test_accuracies_are_fractions_of_right_answers(knowing: "Zoo", cli: "Cli") -> None:
    report = read(cli("eval", "--members", "tiny-*", "--json", "-"))
    labels = knowing.split.labels
    each = [knowing.logits(name) for name in ("tiny-a", "tiny-b", "tiny-c")]
    for row, logits in zip(report["members"], each, strict=True):
        assert row["accuracy"] == pytest.approx((logits.argmax(1) == labels).mean())
    probs = np.mean([np.exp(x) / np.exp(x).sum(1, keepdims=True) for x in each], axis=0)
    assert report["ensemble"]["accuracy"] == pytest.approx((probs.argmax(1) == labels).mean())
    assert 0.3 < min(row["accuracy"] for row in report["members"]) < report["ensemble"]["accuracy"]


def test_the_table_says_what_the_json_says(knowing: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    del knowing
    done = cli("eval", "--members", "tiny-a,tiny-b=0.5", "--tta", "flip", "--json", tmp_path / "result.json")
    assert (done.code, done.err) == (0, "")
    report = json.loads((tmp_path / "result.json").read_text(encoding="utf-8"))
    assert list(report) == REPORT_KEYS
    assert "cifar10 test, 60 images, views: flip" in done.out
    whole = report["ensemble"]
    rows = [(m["name"], f"{m['weight']:g}", m) for m in report["members"]]
    for label, weight, row in [*rows, ("ensemble of 2, merge: probs", "", whole)]:
        line = next(line for line in done.out.splitlines() if label in line)
        for shown in (weight, f"{100 * row['accuracy']:.2f} %", f"{row['nll']:.4f}", f"{row['ece']:.4f}"):
            assert shown in line
    low, high = whole["accuracy_ci95"]
    assert f"95 % interval {100 * low:.2f} to {100 * high:.2f} %" in done.out
    assert f"Brier {whole['brier']:.4f}; stored predictions" in done.out
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["result.json"]


def test_json_file_and_stdout_are_the_same(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    del zoo
    shown = read(cli("eval", "--members", "tiny-*", "--json", "-"))
    cli("eval", "--members", "tiny-*", "--json", tmp_path / "x.json")
    written = json.loads((tmp_path / "x.json").read_text(encoding="utf-8"))
    assert {**shown, "seconds": 0} == {**written, "seconds": 0}


def test_a_vote_has_no_likelihood_in_the_table(zoo: "Zoo", cli: "Cli") -> None:
    del zoo
    done = cli("eval", "--members", "tiny-*", "--merge", "vote")
    line = next(line for line in done.out.splitlines() if "ensemble of 3, merge: vote" in line)
    assert len(re.findall(r"\d\.\d{4}\b", line)) == 1  # the calibration error alone
    assert "None" not in done.out


def test_progress_is_on_stderr_unless_quiet(zoo: "Zoo", cli: "Cli", monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("zoo.cli.progress._APART", 0.0)  # seconds between lines
    words = ["eval", "--members", "tiny-a,tiny-b", "--data", zoo.data, "--fresh", "--device", "cpu", "--json", "-"]
    loud = cli(*words)
    assert read(loud)["source"] == "fresh"
    assert "tiny-b: 120/120 images" in loud.err
    quiet = cli(*words, "-q")
    assert read(quiet)["ensemble"] == read(loud)["ensemble"]
    assert quiet.err == ""


def test_fresh_and_stored_agree(zoo: "Zoo", cli: "Cli") -> None:
    words = ["eval", "--members", "tiny-a,tiny-b=2", "--tta", "flip", "--data", zoo.data, "--json", "-"]
    stored, fresh = read(cli(*words)), read(cli(*words, "--fresh", "--device", "cpu"))
    assert (stored["source"], fresh["source"]) == ("stored", "fresh")
    for key in ("nll", "brier"):
        assert fresh["ensemble"][key] == pytest.approx(stored["ensemble"][key], abs=1e-3)


def test_limit_counts_the_first_images(zoo: "Zoo", cli: "Cli") -> None:
    words = ["eval", "--members", "tiny-a", "--data", zoo.data, "--fresh", "--device", "cpu", "--json", "-"]
    report = read(cli(*words, "--limit", "7"))
    logits, labels = zoo.logits("tiny-a")[:7], zoo.split.labels[:7]
    nll = -(logits - np.log(np.exp(logits).sum(1, keepdims=True)))[np.arange(7), labels].mean()
    assert report["images"] == 7
    assert report["ensemble"]["nll"] == pytest.approx(nll, abs=1e-3)
    whole = read(cli(*words, "--limit", "1000"))
    assert whole["images"] == 60
    assert abs(whole["ensemble"]["nll"] - nll) > 5e-3


def test_other_views_are_run_once_and_kept(zoo: "Zoo", cli: "Cli") -> None:
    words = ["eval", "--members", "tiny-a", "--tta", "flip+shift1", "--json", "-"]
    before = cli(*words)
    assert before.code == 1
    hint = "ensemble eval --members tiny-a --tta flip+shift1 --split test --fresh"
    assert f"run `{hint}` once, which keeps them" in before.error
    fresh = read(cli(*hint.split()[1:], "--json", "-", "--data", zoo.data, "--device", "cpu", "-q"))
    stored = read(cli(*words))
    assert (fresh["source"], stored["source"]) == ("fresh", "stored")
    assert fresh["views"] == stored["views"]
    assert len(stored["views"]) == 6
    assert stored["ensemble"]["nll"] == pytest.approx(fresh["ensemble"]["nll"], abs=1e-3)


@pytest.mark.parametrize("words", [("--tta", "flip"), ("--tta", "crops5", "--limit", "10"), ("--precision", "bf16")])
def test_published_views_samples_and_bf16_are_not_kept(
    zoo: "Zoo", cli: "Cli", zoo_home: Path, words: tuple[str, ...]
) -> None:
    views = () if "--tta" in words else ("--tta", "crops5")
    assert (
        cli("eval", "--members", "tiny-a", "--fresh", "--data", zoo.data, "--device", "cpu", *words, *views).code == 0
    )
    assert not (zoo_home / "views").exists()


def test_a_cache_that_cannot_be_written_costs_no_result(zoo: "Zoo", cli: "Cli", zoo_home: Path) -> None:
    zoo_home.write_text("a file where the folder should be")
    words = ["eval", "--members", "tiny-a", "--tta", "crops5", "--fresh", "--data", zoo.data, "--device", "cpu"]
    done = cli(*words, "-q", "--json", "-")
    assert done.code == 1
    assert done.error.startswith(f"cannot write {zoo_home}")
    assert json.loads(done.out)["images"] == 60


def test_the_validation_split(zoo: "Zoo", cli: "Cli") -> None:
    words = ["eval", "--members", "tiny-a", "--split", "val", "--json", "-"]
    stored = read(cli(*words))
    assert (stored["split"], stored["images"]) == ("val", 10)
    fresh = read(cli(*words, "--fresh", "--data", zoo.data, "--device", "cpu", "-q"))
    assert fresh["ensemble"]["nll"] == pytest.approx(stored["ensemble"]["nll"], abs=1e-3)


def test_a_lockfile_gives_what_its_members_give(zoo: "Zoo", cli: "Cli", tmp_path: Path) -> None:
    path = tmp_path / "ensemble.json"
    write_lockfile(path, zoo.committee("tiny-a=0.3,tiny-c=2", "flip", "logits"), fitted_on=None, metrics={})
    locked = read(cli("eval", "--ensemble", path, "--json", "-"))
    named = read(cli("eval", "--members", "tiny-a=0.3,tiny-c=2", "--tta", "flip", "--merge", "logits", "--json", "-"))
    assert {**locked, "seconds": 0} == {**named, "seconds": 0}


def test_temperatures_of_a_lockfile_change_calibration_and_not_accuracy(
    knowing: "Zoo", cli: "Cli", tmp_path: Path
) -> None:
    reports = []
    for temperature in (1.0, 3.0):
        path = tmp_path / f"{temperature}.json"
        write_lockfile(path, knowing.committee("tiny-*", temperature=temperature), fitted_on=None, metrics={})
        reports.append(read(cli("eval", "--ensemble", path, "--json", "-"))["ensemble"])
    assert reports[0]["accuracy"] == reports[1]["accuracy"]
    assert reports[1]["nll"] > reports[0]["nll"] + 0.1


@pytest.mark.parametrize("fresh", [False, True])
def test_prediction_files_alone_and_mixed(zoo: "Zoo", cli: "Cli", tmp_path: Path, fresh: bool) -> None:
    np.savez(tmp_path / "b.npz", logits=zoo.logits("tiny-b"), labels=zoo.split.labels)
    common = ["--data", zoo.data, "--json", "-", *(["--fresh", "--device", "cpu", "-q"] if fresh else [])]
    alone = read(cli("eval", "--members", tmp_path / "b.npz", *common))
    mixed = read(cli("eval", "--members", f"tiny-a,{tmp_path / 'b.npz'}=2", *common))
    entries = read(cli("eval", "--members", "tiny-a,tiny-b=2", *common))
    assert alone["ensemble"]["nll"] == pytest.approx(entries["members"][1]["nll"], abs=1e-3)
    assert mixed["ensemble"]["nll"] == pytest.approx(entries["ensemble"]["nll"], abs=1e-3)
    assert mixed["ensemble"]["brier"] == pytest.approx(entries["ensemble"]["brier"], abs=1e-3)
    assert mixed["members"][1]["name"] == str(tmp_path / "b.npz")


def test_files_alone_need_no_zoo(zoo: "Zoo", cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ZOO_SOURCE")
    np.savez(tmp_path / "sure.npz", probs=np.eye(10)[zoo.split.labels], labels=zoo.split.labels)
    report = read(cli("eval", "--members", tmp_path / "sure.npz", "--data", zoo.data, "--json", "-"))
    assert report["dataset"] == "cifar10"
    assert report["ensemble"]["accuracy"] == 1
    assert report["ensemble"]["nll"] == pytest.approx(0, abs=1e-9)


def test_names_that_look_like_markup_are_shown(
    zoo: "Zoo", cli: "Cli", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("[bold].npz", "[/bold].npz"):
        Path(name).parent.mkdir(exist_ok=True)
        np.savez(Path(name), logits=zoo.logits("tiny-b"), labels=zoo.split.labels)
        done = cli("eval", "--members", name, "--data", zoo.data)
        assert done.code == 0
        assert name in done.out


def test_nothing_is_written_that_was_not_asked_for(zoo: "Zoo", cli: "Cli", tmp_path: Path, zoo_home: Path) -> None:
    def everything() -> list[Path]:
        return sorted(tmp_path.rglob("*"))

    before = everything()
    cli("eval", "--members", "tiny-*", "--tta", "flip")
    cli("eval", "--members", "tiny-*", "--fresh", "--data", zoo.data, "--device", "cpu", "--limit", "3", "-q")
    assert everything() == before
    assert not zoo_home.exists()


def test_debug_shows_the_traceback(zoo: "Zoo", cli: "Cli") -> None:
    from zoo.errors import NotFoundError

    del zoo
    with pytest.raises(NotFoundError):
        cli("eval", "--members", "tinya", "--debug")


def test_help_shows_real_commands(cli: "Cli") -> None:
    done = cli("eval", "--help")
    assert done.code == 0
    for word in ("--members", "--ensemble", "--tta", "--merge", "--split", "--fresh", "--limit", "--data", "--json"):
        assert word in done.out
    assert "ensemble eval --members 'fastnet-seed*' --tta flip" in done.out
