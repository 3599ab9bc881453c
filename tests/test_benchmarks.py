"""The benchmarks run: each contender on a handful of images. What they measure is printed by themselves."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from benchmarks import distillation, inference, loading, selection
from benchmarks.airbench import OVERRIDES, run_once, run_script
from benchmarks.airbench import make_job as airbench_job
from benchmarks.training import CONTENDERS, make_job, run_one
from ensemble.merge import Vote, merge
from ensemble.metrics import nll
from tests.conftest import random_split
from training.recipe_file import load_recipe
from zoo.data import load_split
from zoo.errors import MenagerieError


@pytest.mark.parametrize("name", [name for name in CONTENDERS if not name.endswith("2")])  # without worker processes
def test_each_training_contender_trains(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("benchmarks.training.keep_freed_memory", lambda: True)
    job = make_job(steps=1, batch_size=20)
    assert (len(job.part), job.steps) == (20, 2)
    assert run_one(name, job, torch.device("cpu"), 1) > 0


@pytest.mark.parametrize(
    ("name", "rates"), [("fastnet", [106, 1340, 0.24, 106]), ("fastnet96", [75.13, 1.1739, 3799, 1.1739])]
)
def test_the_airbench_side_of_ours_trains_and_scores(name: str, rates: list[float]) -> None:
    images = random_split(20, seed=1)
    recipe = load_recipe(name, (*OVERRIDES[name], "epochs=1", "batch_size=10", "whitening.images=20"))
    assert [group.optimizer.lr for group in recipe.all_groups()] == rates
    seconds, accuracy = run_once(airbench_job(recipe, images, 1), random_split(20, seed=2), torch.device("cpu"))
    assert seconds > 0
    assert 0 <= accuracy <= 1


SCRIPT = """
import sys, torch
data = torch.load("cifar10/train.pt")
assert data["images"].dtype == torch.uint8 and data["images"].shape[1:] == (32, 32, 3)
assert len(data["labels"]) == 20 and len(torch.load("cifar10/test.pt")["labels"]) == 10
print("|  run     |  epoch  |  val_acc  |  tta_val_acc  |  time_seconds  |")
print("|  warmup  |      1  |   0.2000  |               |        1.0000  |")
print("|          |   eval  |           |       0.1000  |        9.0000  |")
print("|          |   eval  |           |       0.9400  |        2.0000  |")
print("Mean: 0.9400    Std: 0.0000")
sys.exit(int(sys.argv[1:] != []))
"""


def test_a_script_gets_the_same_images_and_its_results_are_read(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "airbench.py").write_text(SCRIPT)
    results = run_script(tmp_path / "airbench.py", random_split(20, seed=1, size=32), random_split(10, seed=2, size=32))
    assert results == [(9.0, 0.1), (2.0, 0.94)]
    assert "Mean: 0.9400" in capsys.readouterr().out
    assert [p.name for p in tmp_path.iterdir()] == ["airbench.py"]


def test_a_script_that_fails_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "airbench.py").write_text("print('so far'); raise SystemExit(3)")
    with pytest.raises(MenagerieError, match=r"airbench\.py ended with code 3 and printed 0 results"):
        run_script(tmp_path / "airbench.py", random_split(20, seed=1), random_split(10, seed=2))
    assert capsys.readouterr().out == "so far\n"


def test_each_way_of_loading_gives_the_same_network(tmp_path: Path) -> None:
    loading.make_files(tmp_path, "resnet20")
    images, answers = torch.rand(2, 3, 32, 32), []
    for load in loading.contenders(tmp_path, "resnet20").values():
        net = load()
        if net is not None:
            with torch.no_grad():
                answers.append(net(images))
    assert len(answers) == 7
    assert all(torch.equal(answer, answers[0]) for answer in answers)


def test_pulling_is_measured_beside_the_hubs_own_client() -> None:
    """In a process of its own, which it may set up as it likes."""
    command = [sys.executable, "-m", "benchmarks.pulling", "--arch", "resnet20", "--rounds", "1"]
    lines = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()
    functions = ["huggingface_hub.snapshot_download", "zoo.store.pull"]
    assert [line.split()[0] for line in lines[1:]] == ["hf", "zoo", "ratio", *functions, "ratio"]


def test_contenders_of_inference_say_the_same(tmp_path: Path) -> None:
    inference.fit_cascade(tmp_path / "cascade.json", 0.0005)
    images = torch.from_numpy(load_split("cifar10", "test").images[:40])
    with torch.inference_mode():
        said = {
            name: inference.build(name, torch.device("cpu"), tmp_path / "cascade.json")(images)
            for name in ("plain", "ours, theirs", "ours", "cascade")
        }
    torch.testing.assert_close(said["ours, theirs"], said["plain"], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(said["ours"], said["plain"], rtol=0, atol=0.02)
    assert (said["cascade"].argmax(1) == said["plain"].argmax(1)).double().mean() > 0.9
    assert (said["cascade"] - said["plain"]).abs().max() > 0.02  # most left early


def test_a_selection_is_scored_on_the_other_half() -> None:
    pool = selection.made_up(5, 300, seed=0)
    other = pool.rows(slice(1, None, 2))
    outcome, chosen = selection.ours(pool.rows(slice(0, None, 2)), other)
    rows = zip(chosen.members, chosen.weights, chosen.temperatures, strict=True)
    votes = [Vote(other.logits[m].transpose(0, 2, 1), [0.5, 0.5], weight, t) for m, weight, t in rows]
    probs, _ = merge(votes, "probs", chosen.temperature)
    assert outcome.loss == pytest.approx(nll(probs, other.labels), rel=1e-4)
    assert outcome.members == len(chosen.members) <= 5


def test_students_and_controls_are_compared_as_the_documentation_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    students = Path(__file__).parent.parent / "benchmarks" / "students"
    monkeypatch.setenv("ZOO_SOURCE", str(students))
    words = ["--students", "fastnet-distilled-seed*", "--controls", "fastnet-20ep-seed*"]
    monkeypatch.setattr("sys.argv", ["distillation", *words])
    distillation.main()
    means = [line.split()[-4:] for line in capsys.readouterr().out.splitlines() if "mean of students" in line]
    assert means == [["+0.46", "(+0.16", "to", "+0.74)"], ["+0.11", "(-0.16", "to", "+0.37)"]]
    monkeypatch.setattr("sys.argv", ["distillation", "--students", "nobody", "--controls", "fastnet-seed1"])
    with pytest.raises(SystemExit):
        distillation.main()
    assert "no entry 'nobody'" in capsys.readouterr().err
