"""`ensemble distill`, from a committee to a student in the zoo."""

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from ensemble.cli import distill
from ensemble.frozen import freeze
from ensemble.lockfile import write_lockfile
from ensemble.module import Ensemble
from ensemble.teacher import CommitteeTeacher
from tests.ensemble.conftest import Outcome
from tests.training.conftest import CPU, fastnet_recipe, fit, plain_recipe
from training import answer_store
from training.augment import Answers
from training.job import Job
from training.recipe import Augment, Distill, Recipe
from training.recipe_file import load_recipe, to_toml
from training.run import RunFolder
from tta.freeze import Setting, best_precision
from zoo import store
from zoo.data import MEAN_STD, load_training
from zoo.entry import Entry

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

Command = Callable[..., Outcome]
ROOT = Path(__file__).parents[3]
IMAGES = 90


@pytest.fixture(autouse=True)
def _own_allocator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave this process's memory allocator alone."""
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)


@pytest.fixture
def teachers(zoo: "Zoo", reseal: Callable[[Path], None]) -> "Zoo":
    """The tiny zoo with cards that say what was held out."""
    for name in ("tiny-a", "tiny-b"):
        entry, folder = zoo.entry(name), zoo.source / name
        held_out = entry.predictions().splits["val"].fingerprint
        card = replace(entry.card, trained_on={"images": IMAGES, "fingerprint": "1" * 64, "held_out": held_out})
        (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
        reseal(folder)
    return zoo


@pytest.fixture
def lockfile(teachers: "Zoo", tmp_path: Path) -> Path:
    path = tmp_path / "ensemble.json"
    held_out = teachers.entry("tiny-a").predictions().splits["val"].fingerprint
    fitted = {"split": "val", "fingerprint": held_out, "images": 10, "objective": "nll"}
    write_lockfile(path, teachers.committee(views="flip", temperature=0.5), fitted_on=fitted, metrics={})
    return path


def taught(**changes: Any) -> Recipe:  # noqa: ANN401
    fields = {"name": "pupil", "label_smoothing": 0.0, "distill": Distill("given", 2.0, 0.0)}
    return fastnet_recipe(**(fields | changes))


@pytest.fixture
def write(tmp_path: Path) -> Callable[[Recipe], Path]:
    def write_recipe(recipe: Recipe) -> Path:
        path = tmp_path / f"{recipe.name}.toml"
        path.write_text(to_toml(recipe), encoding="utf-8")
        return path

    return write_recipe


@pytest.fixture
def pupil(write: Callable[[Recipe], Path]) -> Path:
    return write(taught())


def stored(name: str) -> dict[str, bytes]:
    return {key: value.half().numpy().tobytes() for key, value in store.find(name).load().state_dict().items()}


def own(zoo: "Zoo", recipe: Recipe, seed: int, folder: Path, answers: Answers | None = None) -> dict[str, bytes]:
    """What the library trains with the same teacher, asked in every step or with answers."""
    job = Job(recipe, seed, "cifar10", *load_training("cifar10", zoo.data), *MEAN_STD["cifar10"])
    committee = zoo.committee(views="flip", temperature=0.5)
    net = freeze(Ensemble(committee), Setting(CPU, best_precision(CPU)))
    state = fit(job, folder, 3600, answers or CommitteeTeacher(net, *job.stats)).net.state_dict()
    return {key: value.half().numpy().tobytes() for key, value in state.items()}


def test_a_student_asks_its_teacher_in_every_step(
    cli: Command, teachers: "Zoo", lockfile: Path, pupil: Path, tmp_path: Path, zoo_home: Path
) -> None:
    done = cli("distill", lockfile, "--student", pupil, "--seed", 3, "--crops", 0, "--data", teachers.data, "-q")
    assert (done.code, done.err) == (0, "")
    assert re.fullmatch(rf"{zoo_home}/entries/pupil-seed3: [\d.]+ % on the validation split with flip\n", done.out)
    assert stored("pupil-seed3") == own(teachers, taught(), 3, tmp_path / "own")
    assert not (zoo_home / "answers").exists()
    card = store.find("pupil-seed3").card
    assert (card.recipe, card.seed) == ("pupil", 3)
    assert (card.training["distill_temperature"], card.training["hard_share"]) == (2.0, 0.0)
    teacher = card.training["teacher"]
    locked = json.loads(lockfile.read_text())
    kept = ("members", "views", "merge", "temperature", "fitted_on")
    assert teacher == {**{key: locked[key] for key in kept}, "precision": best_precision(CPU)}
    assert card.trained_on is not None
    assert card.trained_on["images"] == IMAGES
    assert "- teacher: `tiny-a`, `tiny-b` (" in store.find("pupil-seed3").read("README.md").decode()


def test_answers_are_stored_once_for_all_seeds(
    cli: Command, teachers: "Zoo", lockfile: Path, pupil: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("distill", lockfile, "--student", pupil, "--data", teachers.data)
    done = cli(*words, "--seed", 1, "--json")
    assert done.code == 0
    assert [row["name"] for row in json.loads(done.out)] == ["pupil-seed1"]
    (folder,) = (zoo_home / "answers").iterdir()
    assert sorted(path.name for path in folder.glob("*.npz")) == ["000.npz"]  # flip merged: one crop for two epochs
    about = json.loads((folder / "about.json").read_text())
    assert (about["sides"], about["teacher"]["views"], "fitted_on" in about["teacher"]) == (1, "flip", False)
    monkeypatch.setattr(CommitteeTeacher, "forward", lambda *_words: pytest.fail("asked again"))
    assert cli(*words, "--seed", 2, "-q").code == 0
    teacher = store.find("pupil-seed2").card.training["teacher"]
    assert teacher["crops"] == 1
    assert re.fullmatch("[0-9a-f]{64}", teacher["answers"])
    assert teacher == store.find("pupil-seed1").card.training["teacher"]
    assert stored("pupil-seed1") != stored("pupil-seed2")


def test_stored_answers_are_what_the_library_trains_on(
    cli: Command, teachers: "Zoo", lockfile: Path, pupil: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found: list[Answers] = []
    load = distill._answers

    def keep(*words: Any) -> Answers:  # noqa: ANN401
        found.append(load(*words))
        return found[-1]

    monkeypatch.setattr(distill, "_answers", keep)
    words = ("--student", pupil, "--seed", 1, "--crops", 3, "--data", teachers.data, "-q")
    assert cli("distill", lockfile, *words).code == 0
    (answers,) = found
    assert answers.logits.shape == (3, 1, IMAGES, 10)
    assert stored("pupil-seed1") == own(teachers, taught(), 1, tmp_path / "own", answers)


@pytest.mark.parametrize(
    ("student", "overrides", "expected"),
    [
        ("fastnet", (), ("fastnet-distilled", 20, 2.0, 0.0, 0.0)),
        ("fastnet-distilled", ("epochs=3",), ("fastnet-distilled", 3, 2.0, 0.0, 0.0)),
        ("resnet18", (), ("resnet18-distilled", None, 2.0, 0.0, 0.0)),
        ("resnet18", ("distill.temperature=4", "epochs=7"), ("resnet18-distilled", 7, 4.0, 0.0, 0.0)),
    ],
)
def test_what_a_student_trains_with(student: str, overrides: tuple[str, ...], expected: tuple[Any, ...]) -> None:
    label, epochs, temperature, hard_share, smoothing = expected
    recipe, called, changes = distill._student(student, overrides)
    assert called == label
    assert recipe.epochs == (epochs or load_recipe(student).epochs)
    assert recipe.distill == Distill("given", temperature, hard_share)
    assert recipe.label_smoothing == smoothing
    # `zoo train RECIPE --set ...` is the same.
    assert load_recipe(recipe.name, changes) == recipe


@pytest.mark.parametrize(
    ("changes", "views", "asked", "crops"),
    [
        ({}, "flip", None, 1),  # two epochs, one for each side
        ({"epochs": 7}, "flip", None, 4),
        ({"epochs": 7}, "none", None, 7),
        ({"epochs": 7, "augment": Augment("none", 2)}, "flip", None, 7),
        ({"epochs": 70}, "flip", None, 25),  # all there are
        ({"epochs": 7}, "flip", 9, 9),
        ({"epochs": 7}, "flip", 0, 0),
        ({"augment": Augment("random", 2, cutout=4)}, "flip", None, 0),
        ({"augment": Augment("random", 2, cutout=4)}, "flip", 0, 0),
    ],
)
def test_how_many_crops_are_stored(
    zoo: "Zoo", changes: dict[str, Any], views: str, asked: int | None, crops: int
) -> None:
    assert distill._crops(taught(**changes), asked, zoo.committee(views=views)) == crops


_SLOW = """
import sys, time
sys.path.insert(0, ".")
from ensemble.cli import main
from training import answer_store
answer_store._BATCH = 8
write = answer_store.AnswerStore._write
answer_store.AnswerStore._write = lambda *words: (write(*words), time.sleep(1))
main()
"""


def test_killed_while_the_teacher_answers_the_student_is_the_same(
    cli: Command, teachers: "Zoo", lockfile: Path, pupil: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads = str(torch.get_num_threads())
    options = ("--student", pupil, "--seed", 1, "--crops", 2, "--data", teachers.data, "--threads", threads, "-q")
    words = [str(word) for word in ("distill", lockfile, *options)]
    with subprocess.Popen([sys.executable, "-c", _SLOW, *words], cwd=ROOT) as process:
        deadline = time.monotonic() + 60
        while not any((zoo_home / "answers").glob("*/000.npz")) and process.poll() is None:
            assert time.monotonic() < deadline
            time.sleep(0.01)
        process.kill()
    assert process.returncode == -signal.SIGKILL
    (folder,) = (zoo_home / "answers").iterdir()
    assert [path.name for path in folder.glob("*.npz")] == ["000.npz"]
    assert not (zoo_home / "runs").exists()
    monkeypatch.setattr(answer_store, "_BATCH", 8)
    assert cli(*words).code == 0
    folder.rename(folder.with_name("aside"))
    assert cli(*words, "--name", "whole").code == 0
    assert stored("pupil-seed1") == stored("whole")
    same = [store.find(name).card.training["teacher"] for name in ("pupil-seed1", "whole")]
    assert same[0] == same[1]


@pytest.mark.slow
def test_processes_share_the_crops_and_train_one_student(
    cli: Command, teachers: "Zoo", lockfile: Path, write: Callable[[Recipe], Path], zoo_home: Path, tmp_path: Path
) -> None:
    path = write(plain_recipe(name="plain", augment=Augment("random", 1), distill=Distill("given", 2.0, 0.0)))
    options = ("--student", path, "--seed", 3, "--crops", 3, "--data", teachers.data, "--threads", 1)
    words = [str(word) for word in ("distill", lockfile, *options)]
    run = ["torch.distributed.run", "--standalone", "--nproc-per-node", "2", "--no-python", sys.executable]
    call = [sys.executable, "-m", *run, "-c", "from ensemble.cli import main; main()", *words]
    done = subprocess.run(call, cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("% on the validation split with flip") == 1
    (folder,) = (zoo_home / "answers").iterdir()
    assert len(list(folder.glob("*.npz"))) == 3
    assert cli(*words, "--to", tmp_path / "shelf", "--run-dir", tmp_path / "alone", "-q").code == 0
    together, alone = (
        store.find("plain-seed3"),
        Entry("plain-seed3", tmp_path / "shelf" / "plain-seed3", ""),
    )
    assert together.card.training["teacher"] == alone.card.training["teacher"]
    for p, q in zip(together.load().parameters(), alone.load().parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4)


def test_what_a_dry_run_says(
    cli: Command, lockfile: Path, pupil: Path, teachers: "Zoo", zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.estimate.estimate.__defaults__", (0.0,))
    words = ("distill", lockfile, "--student", pupil, "--data", teachers.data, "--dry-run")
    done = cli(*words)
    assert done.code == 0
    assert re.search(r"^recipe +pupil: fastnet, 2 epochs of 90 images$", done.out, re.MULTILINE)
    assert re.search(r"^teacher +2 members, views flip, (bf16|fp32): [\d,.e+]+ images/s$", done.out, re.MULTILINE)
    assert re.search(r"^teacher's time +\d.*, once for all seeds: 1 crops an image$", done.out, re.MULTILINE)
    assert "in every run: no answers are stored" in cli(*words, "--crops", 0).out
    assert {path.name for path in zoo_home.glob("*")} <= {"verified"}  # hashes of weights that have settled


def test_what_is_refused_before_anything_slow(
    cli: Command, lockfile: Path, pupil: Path, write: Callable[[Recipe], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("zoo.data.load_all", lambda *_args, **_options: pytest.fail("the data was read"))
    cut = write(taught(name="cut", augment=Augment("random", 2, cutout=4)))
    itself = write(taught(name="itself", distill=Distill("self")))
    for words, said in (
        (("--student", pupil), "--seed is missing: a number"),
        (("--student", pupil, "--ensemble", lockfile, "--seed", 1), f"{lockfile} and --ensemble {lockfile} are two"),
        (("--student", pupil, "--members", "tiny-a", "--seed", 1), "--ensemble FILE has its own members"),
        (("--student", "fastnett", "--seed", 1), "unknown recipe 'fastnett' (did you mean 'fastnet'?)"),
        (("--student", itself, "--seed", 1), f"--student '{itself}': its [distill] table is not for a committee"),
        (("--student", pupil, "--crops", 26, "--seed", 1), "--crops 26: recipe 'pupil' has 25 crops of an image"),
        (("--student", cut, "--crops", 2, "--seed", 1), "--crops 2: answers are stored for crops and flips only"),
        (("--student", pupil, "--data", "", "--seed", 1), "Invalid value for '--data': nothing is in it"),
        (
            ("--student", pupil, "--dry-run", "--dataset", "cifar100"),
            "member 'tiny-a' classifies cifar10, not cifar100",
        ),
        (("--student", pupil, "--dry-run", "--json"), "--json says what was filed, and --dry-run files nothing"),
    ):
        done = cli("distill", lockfile, *words)
        assert (done.code, done.out) == (2, "")
        assert done.error.startswith(said)
    done = cli("distill", "--student", pupil, "--seed", 1)
    assert done.code == 2
    assert done.error.startswith("give --members A,B=1.2 or --ensemble FILE")


@pytest.mark.parametrize("dry", [(), ("--dry-run",)])
def test_what_is_refused_before_the_teacher_is_asked(
    cli: Command,
    teachers: "Zoo",
    lockfile: Path,
    pupil: Path,
    zoo_home: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    dry: tuple[str, ...],
) -> None:
    monkeypatch.setattr(distill, "_teacher", lambda *_words: pytest.fail("the teacher was asked"))
    other = tmp_path / "other"
    job = Job(taught(), 7, "cifar10", *load_training("cifar10", teachers.data), *MEAN_STD["cifar10"])
    RunFolder(other, job).save({}, [])
    (tmp_path / "shelf" / "pupil-seed1").mkdir(parents=True)
    (tmp_path / "file").touch()
    words = ("--student", pupil, "--seed", 1, "--data", teachers.data, *dry)
    for given, said in (
        ((lockfile, "--run-dir", other), f"{other} holds a run with another recipe, seed, data or teacher"),
        ((lockfile, "--to", tmp_path / "shelf"), "'pupil-seed1' exists already in"),
        ((lockfile, "--to", tmp_path / "file"), f"cannot write {tmp_path / 'file'}"),
        ((lockfile, "--run-dir", tmp_path / "file"), f"cannot write {tmp_path / 'file'}"),
        ((lockfile, "--name", "A b"), "not a valid entry name: 'A b'"),
        ((lockfile, "--set", "batch_size=91"), "recipe 'pupil': 90 training images do not fill a batch of 91"),
        (("--members", "tiny-a,tiny-b", "--merge", "vote"), "a committee that votes has no soft answers to teach"),
        (("--members", "tiny-a,tiny-c"), "member 'tiny-c' did not hold out this validation split, or does not say so"),
    ):
        done = cli("distill", *given, *words)
        assert (done.code, done.out) == (1 if said.startswith("cannot") else 2, "")
        assert done.error.startswith(said)
    assert not (zoo_home / "answers").exists()
