"""`zoo train` with the options that change what is trained, watched or filed."""

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from tests.training.conftest import fastnet_recipe, noisy_recipe, plain_recipe, toy_job, toy_split
from tests.training.test_events import needs_tensorboard, scalars
from tests.zoo.conftest import Outcome, file_entry
from training import estimate
from training import publish as publishing
from training.recipe import Average, Distill, Recipe, Schedule
from training.recipe_file import parse_recipe
from zoo import store
from zoo.cli.train import _teacher
from zoo.entry import Entry

ROOT = Path(__file__).parents[3]

Command = Callable[..., Outcome]
Write = Callable[[Recipe], Path]

pytestmark = pytest.mark.usefixtures("toy")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of pictures, a sub-folder a class, of 34 x 30 pixels."""
    folder, split = tmp_path_factory.mktemp("photos") / "pictures", toy_split(48, size=34)
    for number, (image, label) in enumerate(zip(split.images, split.labels, strict=True)):
        place = folder / split.classes[label]
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image[:, :30]).save(place / f"{number}.png")
    return folder


def names() -> list[str]:
    return store.names([store.FolderSource(store.cache_folder())])


def test_overrides_are_on_the_card_and_in_the_resolved_recipe(command: Command, data: Path, zoo_home: Path) -> None:
    words = ("--set", "epochs=1", "--set", "optimizer.lr=0.03", "--set", "groups.1.lr=1.5")
    assert command("train", "toy", "--seed", 3, "--data", data, *words, "-q").code == 0
    card = store.find("toy-seed3").card
    assert card.training["overrides"] == ["epochs=1", "optimizer.lr=0.03", "groups.1.lr=1.5"]
    assert card.training["epochs"] == 1
    run = zoo_home / "runs" / "toy-seed3"
    recipe = parse_recipe("toy", (run / "recipe.toml").read_text(encoding="utf-8"))
    assert (recipe.epochs, recipe.optimizer.lr, recipe.groups[1].optimizer.lr) == (1, 0.03, 1.5)
    for name in ("curves", "schedule"):
        with Image.open(run / f"{name}.png") as picture:
            assert picture.format == "PNG"
            assert min(picture.size) > 100


def test_another_recipe_in_the_same_run_folder_is_refused(command: Command, data: Path) -> None:
    assert command("train", "toy", "--seed", 3, "--data", data, "-q").code == 0
    done = command("train", "toy", "--seed", 3, "--data", data, "--set", "clip_norm=1.0", "--replace", "-q")
    assert (done.code, done.out) == (2, "")
    assert "holds a run with another recipe, seed, data or teacher" in done.err


def test_a_finished_run_is_filed_again_without_training(
    command: Command, data: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("train", "toy", "--seed", 3, "--data", data, "-q").code == 0
    first = store.find("toy-seed3").read("model.safetensors")
    monkeypatch.setattr("training.step.Step.__call__", lambda *_arguments: pytest.fail("trained again"))
    done = command("train", "toy", "--seed", 3, "--data", data, "--replace")
    assert done.code == 0
    assert done.err.splitlines()[0] == f"going on at step 12 of 12 ({zoo_home / 'runs' / 'toy-seed3'})"
    assert store.find("toy-seed3").read("model.safetensors") == first


SEVERAL: dict[str, dict[str, Any]] = {
    "snapshot": {"schedule": Schedule("restarts", cycles=3), "snapshots": True},
    "sample": {"average": Average("swag", every=2, start=0.25, rank=2, samples=2)},
}


def several(kind: str) -> Recipe:
    return noisy_recipe(name="many", arch_args={"depth": 10, "width": 1}, **SEVERAL[kind])


@pytest.mark.parametrize("kind", SEVERAL)
@pytest.mark.usefixtures("every_line")
def test_snapshots_and_samples_are_entries_of_their_own(
    kind: str, command: Command, data: Path, write_recipe: Write
) -> None:
    done = command("train", write_recipe(several(kind)), "--seed", 3, "--data", data)
    assert done.code == 0
    wanted = ["many-seed3", f"many-seed3-{kind}1", f"many-seed3-{kind}2"]
    assert names() == wanted
    entries = [store.find(name) for name in wanted]
    for entry in entries:
        entry.verify()
        assert entry.card.seed == 3
    assert len({entry.sum_of("model.safetensors") for entry in entries}) == 3
    assert [line.split(": ")[0] for line in done.out.splitlines()] == [
        str(store.cache_folder() / name) for name in (*wanted[1:], wanted[0])
    ]
    assert done.err.splitlines()[-1].startswith("predictions: 57/57 images")


@pytest.mark.parametrize("kind", SEVERAL)
def test_cards_say_what_their_weights_are(kind: str, command: Command, data: Path, write_recipe: Write) -> None:
    assert command("train", write_recipe(several(kind)), "--seed", 3, "--data", data, "-q").code == 0
    own = store.find("many-seed3").card.training
    other = store.find(f"many-seed3-{kind}1").card.training
    if kind == "snapshot":
        assert str(other["weights"]).startswith("snapshot 1, of step ")
        assert 0 < other["epochs"] < own["epochs"]
        assert "weights" not in own
    else:
        assert (own["weights"], other["weights"]) == ("average (swag)", "sample 1 of SWAG")
        assert other["epochs"] == own["epochs"]


@pytest.mark.parametrize("kind", SEVERAL)
def test_killed_between_two_entries_it_files_the_rest(
    kind: str, command: Command, data: Path, write_recipe: Write, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ("train", write_recipe(several(kind)), "--seed", 3, "--data", data, "-q")
    publish, filed = publishing.publish, []

    def dies(*arguments: Any, **options: Any) -> Entry:  # noqa: ANN401
        filed.append(arguments)
        if len(filed) == 2:
            raise KeyboardInterrupt
        return publish(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(publishing, "publish", dies)
        assert command(*words).code == 130
    assert names() == [f"many-seed3-{kind}1"]
    first = store.find(f"many-seed3-{kind}1").read("model.safetensors")
    assert command(*words).code == 0
    assert names() == ["many-seed3", f"many-seed3-{kind}1", f"many-seed3-{kind}2"]
    assert store.find(f"many-seed3-{kind}1").read("model.safetensors") == first


@pytest.mark.parametrize("kind", SEVERAL)
def test_a_snapshot_of_somebody_else_is_refused_first(
    kind: str, command: Command, data: Path, write_recipe: Write, zoo_home: Path
) -> None:
    file_entry(zoo_home / "entries", f"many-seed3-{kind}2")
    words = ("train", write_recipe(several(kind)), "--seed", 3, "--data", data, "-q")
    done = command(*words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith(f"error: 'many-seed3-{kind}2' exists already in ")
    assert not (zoo_home / "runs").exists()
    assert command(*words, "--replace").code == 0
    assert len(names()) == 3


@needs_tensorboard
def test_tensorboard_events(command: Command, data: Path, zoo_home: Path) -> None:
    assert command("train", "toy", "--seed", 3, "--data", data, "--tensorboard", "-q").code == 0
    run = zoo_home / "runs" / "toy-seed3"
    lines = [line.split(",") for line in (run / "metrics.csv").read_text(encoding="utf-8").splitlines()]
    found = scalars(run)
    for column, name in enumerate(lines[0][1:], 1):
        assert [epoch for epoch, _ in found[name]] == [int(line[0]) for line in lines[1:]]
        assert [value for _, value in found[name]] == pytest.approx([float(line[column]) for line in lines[1:]])


def test_without_tensorboard_it_is_one_line(command: Command, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    done = command("train", "toy", "--seed", 3, "--data", data, "--tensorboard", "-q")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --tensorboard needs TensorBoard: pip install 'menagerie[tensorboard]'\n"


def test_a_folder_of_pictures(command: Command, pictures: Path) -> None:
    done = command("train", "toy", "--seed", 1, "--data", pictures, "--size", 32, "-q")
    assert done.code == 0
    card = store.find("toy-pictures-seed1").card
    assert (card.dataset, card.classes, card.input_size) == ("pictures", ("blue", "green", "red"), (32, 32))
    assert card.trained_on is not None
    assert card.trained_on["images"] == 48 - 3 * 2 - 3 * 1  # of 16 a class two are for the test, one for validation
    assert all(0.2 < m < 0.5 for m in card.mean)  # a third of the images is 128 brighter than the mean of 48
    done = command("train", "toy", "--seed", 1, "--data", pictures, "--dataset", "mine", "--size", 32, "-q")
    assert done.code == 0
    assert store.find("toy-mine-seed1").card.dataset == "mine"


def test_size_is_for_pictures(command: Command, data: Path) -> None:
    done = command("train", "toy", "--seed", 1, "--data", data, "--size", 32)
    assert (done.code, done.out) == (1, "")
    assert "has images of 26 x 26 pixels, not 32 x 32: only pictures in folders are scaled" in done.err


def test_a_teacher_sees_the_images_in_its_own_mean_and_std(
    make_entry: Callable[..., Entry], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = toy_job(fastnet_recipe())  # with CIFAR's mean and std
    entry = make_entry(tmp_path, "big", classes=job.part.classes, dataset="colours", held_out=job.val.fingerprint)
    assert (entry.card.mean, entry.card.std) != job.stats
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path))
    pixels = np.random.default_rng(0).integers(0, 256, (5, 32, 32, 3), dtype=np.uint8)

    def normalised(mean: tuple[float, ...], std: tuple[float, ...]) -> torch.Tensor:
        return torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2)).float()

    big = replace(job, part=toy_split(9, size=32))
    teach, label = _teacher(entry, big, torch.device("cpu"))
    with torch.no_grad():
        expected = entry.load()(normalised(entry.card.mean, entry.card.std))
        torch.testing.assert_close(teach(normalised(*job.stats)), expected, rtol=1e-3, atol=1e-4)
    assert re.fullmatch(r"big@[0-9a-f]{16}", label)


def test_a_student_of_an_entry(
    command: Command,
    pictures: Path,
    write_recipe: Write,
    make_entry: Callable[..., Entry],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shelf = tmp_path / "shelf"
    make_entry(shelf, "other")
    monkeypatch.setenv("ZOO_SOURCE", str(shelf))
    path = write_recipe(fastnet_recipe(name="student", distill=Distill("given", 4.0, 0.5)))
    words = ("train", path, "--seed", 1, "--data", pictures, "-q")
    done = command(*words, "--size", 32, "--teacher", "other")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --teacher 'other' classifies cifar10, not the classes of pictures\n"
    for name, held_out in (("unsaid", None), ("leaky", "0" * 64)):
        make_entry(shelf / "2", name, classes=("blue", "green", "red"), dataset="pictures", held_out=held_out)
        monkeypatch.setenv("ZOO_SOURCE", str(shelf / "2"))
        done = command(*words, "--size", 32, "--teacher", name)
        assert (done.code, done.out) == (2, "")
        assert done.err.startswith(f"error: --teacher {name!r} did not hold out this validation split")
    hard = write_recipe(fastnet_recipe(name="plain"))
    plain = ("train", hard, "--seed", 1, "--data", pictures, "--size", 32, "-q")
    assert command(*plain).code == 0
    assert command(*plain, "--name", "big").code == 0
    done = command(*words, "--size", 28, "--teacher", "big")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: --teacher 'big' takes images of 32 x 32 pixels, not of 28 x 28\n"
    assert command(*words, "--size", 32, "--teacher", "big").code == 0
    card = store.find("student-pictures-seed1").card
    assert str(card.training["teacher"]).startswith("big@")
    weights = [store.find(f"{name}-pictures-seed1").read("model.safetensors") for name in ("student", "plain")]
    assert weights[0] != weights[1]


@pytest.fixture
def _short_measurement(monkeypatch: pytest.MonkeyPatch) -> None:
    """Measure as few steps as possible."""
    measure = estimate._time_steps
    monkeypatch.setattr(
        estimate, "_time_steps", lambda step, batches, device, _seconds: measure(step, batches, device, 0.0)
    )


@pytest.mark.usefixtures("_short_measurement")
@pytest.mark.parametrize(("dataset", "classes"), [("cifar10", 10), ("cifar100", 100)])
def test_a_dry_run_needs_no_cifar(dataset: str, classes: int, command: Command, zoo_home: Path) -> None:
    words = ("--set", "batch_size=4", "--set", "epochs=1")
    done = command("train", "toy", "--dry-run", "--dataset", dataset, *words)
    assert done.code == 0
    assert done.err == "measuring a few steps of toy on cpu: up to a minute or two on a CPU ...\n"
    found = dict(re.split(r" {2,}", line) for line in done.out.splitlines())
    assert found["recipe"] == "toy: fastnet, 1 epoch of 45,000 images"
    # Whitening 24 x 12 and its bias; 3x3 kernels; scale and shift of six norms; the head.
    assert found["parameters"] == f"{24 * 12 + 24 + 9 * 8 * (24 + 5 * 8) + 6 * 16 + classes * 8:,}"
    assert found["steps"] == "11,250 of 4 images"
    assert set(found) == {
        *("recipe", "parameters", "steps", "whole run", "peak memory, at least", "one step", "speed"),
        "expected time",
    }
    assert not zoo_home.exists()


@pytest.mark.usefixtures("_short_measurement")
def test_a_dry_run_on_pictures_needs_them(command: Command, pictures: Path) -> None:
    done = command("train", "toy", "--dry-run", "--data", pictures, "--size", 32)
    assert done.code == 0
    assert "2 epochs of 39 images" in done.out
    done = command("train", "toy", "--dry-run", "--dataset", "pictures")
    assert (done.code, done.out) == (2, "")
    assert done.err == "error: nothing is known of 'pictures' without its images: give --data DIR\n"


@pytest.mark.slow
def test_torchrun_files_one_entry(data: Path, tmp_path: Path, write_recipe: Write, command: Command) -> None:
    path = write_recipe(plain_recipe())
    words = ["train", str(path), "--seed", "3", "--data", str(data), "--tensorboard"]
    zoo = ["--no-python", sys.executable, "-c", "from zoo.cli import main; main()"]
    run = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", *zoo]
    done = subprocess.run([*run, *words], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("% on the validation split with flip") == 1
    assert names() == ["plain-seed3"]
    assert done.stderr.count("epoch 2  ") == 1
    alone = command(*words, "--to", tmp_path / "shelf", "--run-dir", tmp_path / "alone", "-q")
    assert alone.code == 0
    together, one = (
        store.find("plain-seed3").load(),
        Entry("plain-seed3", tmp_path / "shelf" / "plain-seed3", "").load(),
    )
    for p, q in zip(together.parameters(), one.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=2e-3, atol=1e-4)
    done = subprocess.run(
        [*run, *words, "--name", "odd", "--set", "batch_size=9"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode != 0
    assert done.stderr.count("error: a batch of 9 images cannot be shared evenly by 2 processes") == 1
