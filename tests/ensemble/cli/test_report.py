"""`ensemble report`, as a person or a program meets it."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from PIL import Image

from ensemble.lockfile import write_lockfile
from zoo.errors import StorageError
from zoo.files import atomic_write

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

Cli = Callable[..., "Outcome"]


def test_a_report_without_running_anything(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    page, table = tmp_path / "r.html", tmp_path / "r.json"
    words = ("--pool", "tiny-*", "--no-measure", "--data", zoo.data, "--json", table, "--csv", tmp_path / "csv")
    done = cli("report", *words, "--plots", tmp_path / "plots", "-q", "-o", page)
    assert (done.code, done.err) == (0, "")
    assert "6 points" in done.out
    assert f"wrote {page}" in done.out
    record = json.loads(table.read_text(encoding="utf-8"))
    assert record["device"] is None
    assert record["command"].startswith("ensemble report --pool 'tiny-*'")
    assert "--no-measure" in record["command"]
    assert "--split" not in record["command"], "only what was given"
    evaluated = json.loads(cli("eval", "--members", "tiny-b", "--tta", "flip", "--json", "-").out)["ensemble"]
    point = next(p for p in record["points"] if (p["name"], p["views"]) == ("tiny-b", "flip"))
    assert point["scores"]["accuracy"] == evaluated["accuracy"]
    assert point["scores"]["accuracy_ci95"] == evaluated["accuracy_ci95"]
    assert "data:image/png;base64," in page.read_text(encoding="utf-8")
    assert (tmp_path / "csv" / "points.csv").is_file()
    assert (tmp_path / "plots" / "pareto.svg").is_file()


def test_a_measured_report_says_where_and_is_quick_the_second_time(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "r.json"
    words = ("--pool", "tiny-a", "--tta", "none", "--precision", "fp32", "--data", zoo.data, "--seconds", "0.01")
    more = ("--large-batch", "4", "--device", "cpu", "--budget-ms", "1e4", "--json", table, "-o", tmp_path / "r.html")
    first = cli("report", *words, *more)
    assert first.code == 0
    assert "timing 1 x none, fp32, frozen, batch of 1" in first.err
    record = json.loads(table.read_text(encoding="utf-8"))
    assert record["device"] == "cpu"
    assert {"hardware", "torch", "python", "CPU threads"} <= {*record["hardware"]}
    (point,) = record["points"]
    assert (point["latency"]["batch"], point["throughput"]["batch"]) == (1, 4)
    assert point["latency"]["median_ms"] <= point["latency"]["p99_ms"]
    assert "--remeasure" not in first.err
    second = cli("report", *words, *more)
    assert "timing" not in second.err
    said = "note: 2 latencies were measured before, whatever --seconds says: --remeasure measures all again"
    assert second.err.splitlines().count(said) == 1
    assert json.loads(table.read_text(encoding="utf-8"))["points"] == record["points"]


@pytest.mark.parametrize(
    ("words", "said", "code"),
    [
        (("--no-measure", "--seconds", "2"), "--seconds needs something to run: leave --no-measure out", 2),
        (("--no-measure", "--batch", "1"), "--batch needs something to run: leave --no-measure out", 2),
        (("--no-measure", "--large-batch", "8"), "--large-batch needs something to run", 2),
        (("--no-measure", "--device", "cpu"), "--device needs something to run: leave --no-measure out", 2),
        (("--no-measure", "--remeasure"), "--remeasure needs something to run: leave --no-measure out", 2),
        (("--no-measure", "--data", "/no/where"), "data folder '/no/where' does not exist", 1),
        (("--no-measure", "-q", "--tta", "crops5"), "--tta crops5 --split test --fresh` once, which keeps them", 1),
        (("-o", "-"), "-o -: a page goes to a file; --json - writes what it says to stdout", 2),
        (("--ensemble", "e.json", "--json", "e.json"), "--json 'e.json' would overwrite what is read", 2),
        (("--pool", "tiny-a,tiny-b=1.2"), "--pool: 'tiny-b' has a weight", 2),
        *(
            ((option, ""), f"{option}': nothing is in it", 2)
            for option in ("--pool", "--ensemble", "--tta", "--graphs", "--precision", "--device", "--data", "--json")
        ),
        (("--csv", ""), "'--csv': nothing is in it", 2),
        (("--plots", ""), "'--plots': nothing is in it", 2),
        (("-o", ""), "nothing is in it", 2),
        (("--budget-ms", "nan"), "--budget-ms nan: a budget is a finite number above 0", 2),
        (("--budget-ms", "1", "--budget-macs", "1"), "give one of --budget-macs and --budget-ms", 2),
        (("--no-measure", "--budget-ms", "3"), "--budget-ms needs something to run: leave --no-measure out", 2),
        (("--no-measure", "--compile"), "--compile needs something to run", 2),
        (("--batch", "10001"), "--batch 10001: the split has 10,000 images only", 2),
        (("--large-batch", "10001"), "--large-batch 10001: the split has 10,000 images only", 2),
        (("--csv", "/nope/x/y"), "--csv '/nope/x/y' is neither a folder, nor a new one in an existing folder", 2),
        (("--plots", "/nope/x/y"), "--plots '/nope/x/y' is neither a folder, nor a new one", 2),
        (("--plots", "/dev/full"), "--plots '/dev/full' is a file, and a folder is needed", 2),
        (("--precision", "fp8"), "unknown --precision 'fp8'; there are fp32, fp16, bf16", 2),
        (("--seconds", "0"), "--seconds 0: give a finite time above 0", 2),
        (("--seconds", "inf"), "--seconds inf: give a finite time above 0", 2),
        (("--tta", "flop"), "unknown view set 'flop'", 2),
        (("--json", "/nowhere/r.json"), "--json '/nowhere/r.json' is not a file in an existing folder", 2),
        (("--ensemble", "none.json"), "cannot read none.json", 1),
        (("--graphs", "nowhere"), "--graphs 'nowhere': there is no *.onnx file", 1),
    ],
)
def test_what_makes_no_sense_is_one_line(
    zoo: "Zoo", cli: Cli, tmp_path: Path, words: tuple[str, ...], said: str, code: int
) -> None:
    del zoo
    done = cli("report", "--pool", "tiny-a", "-o", tmp_path / "r.html", *words)
    assert said in done.error
    assert done.code == code
    assert not (tmp_path / "r.html").exists()


def test_json_on_stdout_is_all_of_stdout(zoo: "Zoo", cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = ("--pool", "tiny-a", "--tta", "none", "--no-measure", "--data", zoo.data, "-q")
    done = cli("report", *words, "--json", "-", "-o", "r.html")
    assert done.code == 0
    assert json.loads(done.out)["points"][0]["name"] == "tiny-a"
    assert "; 1 point, 0 on the front; wrote r.html, " in done.err
    assert [path.name for path in tmp_path.iterdir() if path.name not in {"source", "home"}] == ["r.html"]


def test_what_a_file_was_fitted_on_and_a_missed_budget_are_on_the_page(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    page, file = tmp_path / "r.html", tmp_path / "mine.json"
    fitted = {"split": "test", "fingerprint": "0" * 64, "images": 60, "objective": "nll"}
    write_lockfile(file, zoo.committee(), fitted_on=fitted, metrics={})
    words = ("--pool", "tiny-*", "--no-measure", "--data", zoo.data, "--budget-macs", "1e-9", "-q", "-o", page)
    done = cli("report", *words, "--ensemble", file)
    missed = "no point is within the budget of 1e-09 G multiply-adds"
    assert done.out.startswith(f"{missed}; mine.json")
    assert "But mine.json was fitted on the test split." in page.read_text(encoding="utf-8")
    assert f'<p class="missed">{missed}</p>' in page.read_text(encoding="utf-8")


def test_members_for_other_data_are_named(zoo: "Zoo", cli: Cli, tmp_path: Path, reseal: Callable[[Path], None]) -> None:
    config = zoo.source / "tiny-b" / "config.json"
    config.write_text(replace(zoo.entry("tiny-b").card, dataset="svhn").to_json(), encoding="utf-8")
    reseal(config.parent)
    done = cli("report", "--pool", "tiny-*", "--no-measure", "-o", tmp_path / "r.html")
    assert "give names or patterns of one of these" in done.error
    assert "'tiny-a', 'tiny-c'; " in done.error
    assert "svhn" in done.error


def test_pictures_of_many_sizes_need_a_size_for_prediction_files(cli: Cli, tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    for part in ("train", "test"):
        for name in ("cat", "dog"):
            folder = tmp_path / "pictures" / part / name
            folder.mkdir(parents=True)
            for side in range(20, 24):
                Image.fromarray(rng.integers(0, 256, (side, side, 3), np.uint8)).save(folder / f"{side}.png")
    np.savez(tmp_path / "a.npz", logits=rng.standard_normal((8, 2)).astype(np.float32), labels=np.repeat([0, 1], 4))
    words = ("--pool", tmp_path / "a.npz", "--data", tmp_path / "pictures", "--no-measure", "-o", tmp_path / "r.html")
    assert "give --size N" in cli("report", *words).error
    assert cli("report", *words, "--size", "20", "-q").code == 0


def test_a_file_in_the_place_of_a_folder_is_refused(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    del zoo
    (tmp_path / "file").write_text("")
    done = cli("report", "--pool", "tiny-a", "--no-measure", "--csv", tmp_path / "file", "-o", tmp_path / "r.html")
    assert f"--csv {str(tmp_path / 'file')!r} is a file, and a folder is needed" in done.error


def test_the_default_large_batch_fits_the_split(zoo: "Zoo", cli: Cli, tmp_path: Path) -> None:
    table = tmp_path / "r.json"
    words = ("--pool", "tiny-a", "--tta", "none", "--precision", "fp32", "--data", zoo.data, "--seconds", "0.01")
    more = ("--device", "cpu", "-q", "--json", table, "-o", tmp_path / "r.html")
    for asked, found in (((), (1, 60)), (("--batch", "60"), (60, None))):
        assert cli("report", *words, *more, *asked).code == 0
        (point,) = json.loads(table.read_text(encoding="utf-8"))["points"]
        assert (point["latency"]["batch"], (point["throughput"] or {"batch": None})["batch"]) == found


def test_a_full_disk_costs_only_what_went_there(
    zoo: "Zoo", cli: Cli, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from ensemble.report import write

    full = {tmp_path / "r.json", tmp_path / "csv" / "points.csv"}

    def refuse(path: Path, content: bytes) -> None:
        if path in full:
            raise StorageError(f"cannot write {path}: No space left on device")
        atomic_write(path, content)

    monkeypatch.setattr(write, "atomic_write", refuse)
    words = ("--pool", "tiny-a", "--tta", "none", "--no-measure", "--data", zoo.data, "-q", "-o", tmp_path / "r.html")
    done = cli("report", *words, "--json", tmp_path / "r.json", "--csv", tmp_path / "csv")
    assert done.code == 1
    assert f"wrote {tmp_path / 'r.html'}" in done.out
    assert (tmp_path / "r.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    lines = [f"error: cannot write {path}: No space left on device" for path in sorted(full, reverse=True)]
    assert done.err.splitlines() == lines
    full.add(tmp_path / "r.html")
    (tmp_path / "r.html").unlink()
    done = cli("report", *words)
    assert (done.code, done.out) == (1, "")
    assert done.error == f"cannot write {tmp_path / 'r.html'}: No space left on device"


def test_without_measuring_torch_is_not_imported(zoo: "Zoo", tmp_path: Path) -> None:
    """In a process of its own."""
    words = ["--pool", "tiny-*", "--no-measure", "--data", str(zoo.data), "-q", "-o", str(tmp_path / "r.html")]
    program = (
        "import sys; from ensemble.cli.report import command; "
        f"command({words!r}, standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    environment = {**os.environ, "ZOO_SOURCE": str(zoo.source)}
    done = subprocess.run([sys.executable, "-c", program], check=False, capture_output=True, env=environment, text=True)
    assert (done.returncode, done.stderr) == (0, "")
