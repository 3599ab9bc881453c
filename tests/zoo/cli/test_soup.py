"""`zoo soup` from snapshots of a real run to an entry that loads, and what it refuses."""

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from ensemble.evaluate import score, split_source, stored_ballots
from ensemble.lockfile import Committee
from ensemble.members import parse_members
from tests.training.conftest import CPU, fastnet_recipe, fit, toy_split
from tests.zoo.conftest import Outcome, listing, write_mosaic
from training.job import Job
from training.publish import Made, publish
from training.recipe import Schedule
from tta import stored
from tta.stored import TOLERANCE, largest_difference
from zoo import checkpoint, store
from zoo.data import MEAN_STD, load_all
from zoo.entry import Entry, write_entry
from zoo.predictions import Predictions, SplitPredictions
from zoo.shards import cut_to_files

Command = Callable[..., Outcome]

SNAPSHOTS = ("toy-snapshot1", "toy-snapshot2", "toy")
STATISTICS = ("running_mean", "running_var", "num_batches_tracked")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a mosaic folder of three colours: 270 images to train on, 30 held out, 21 for the test."""
    splits = {"train-1": toy_split(300, 1, 26), "test": toy_split(21, 2, 26)}
    return write_mosaic(tmp_path_factory.mktemp("data") / "colours", splits)


@pytest.fixture(scope="module")
def snapshots(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with the snapshots and the end of one run."""
    folder = tmp_path_factory.mktemp("shelf")
    part, val, test = load_all("colours", data)
    recipe = fastnet_recipe(epochs=3, batch_size=30, groups=(), schedule=Schedule("restarts", cycles=3), snapshots=True)
    job = Job(recipe, 5, "colours", part, val, *MEAN_STD["cifar10"])
    trained = fit(job, tmp_path_factory.mktemp("run"))
    nets = {f"toy-{suffix}": net for suffix, net in trained.others.items()} | {"toy": trained.net}
    assert tuple(nets) == SNAPSHOTS
    for name, net in nets.items():
        publish(job, Made(net, trained.rows), test, folder / name, device=CPU)
    return folder


@pytest.fixture
def shelf(snapshots: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Let the snapshots be found, and entries in an empty folder beside them, which is returned."""
    folder = tmp_path / "shelf"
    folder.mkdir()
    monkeypatch.setenv("ZOO_SOURCE", f"{snapshots},{folder}")
    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)
    return folder


def add(shelf: Path, like: str, name: str, seed: int, *, said: Mapping[str, SplitPredictions], **changes: Any) -> Entry:  # noqa: ANN401
    """File an untrained network of the same kind with predictions that somebody made up."""
    torch.manual_seed(seed)
    card = dataclasses.replace(store.find(like).card, name=name, **changes)
    with torch.no_grad():
        net = store.find(like).load()
        for value in net.parameters():
            value.copy_(torch.randn_like(value))
    return write_entry(shelf / name, card, checkpoint.encode(net), Predictions(said))


def made_up(like: str, *, sure: bool) -> dict[str, SplitPredictions]:
    """Predictions on the validation split that are all right, or all of the first class."""
    stored = store.find(like).predictions().splits["val"]
    logits = (8 * np.eye(3)[stored.labels if sure else 0 * stored.labels]).astype(np.float16)
    return {"val": SplitPredictions({"none": logits, "flip": logits}, stored.labels, stored.fingerprint)}


@pytest.fixture
def strangers(shelf: Path) -> tuple[str, str]:
    """Return the names of two untrained networks whose stored predictions are all right: any mean of them is worse."""
    for seed, name in enumerate(("stranger-1", "stranger-2")):
        add(shelf, "toy", name, seed, said=made_up("toy", sure=True))
    return ("stranger-1", "stranger-2")


def state(name: str) -> dict[str, torch.Tensor]:
    return dict(store.find(name).load().state_dict())


def table(out: str) -> dict[str, list[str]]:
    """First column -> the others of each row."""
    rows = (re.split(r"\s{2,}", line) for line in out.splitlines())
    return {row[0]: row[1:] for row in rows if len(row) > 1}


def percent(value: float) -> str:
    return f"{100 * value:.2f} %"


@pytest.mark.usefixtures("every_line")
def test_uniform_soup_of_snapshots_is_an_entry(command: Command, shelf: Path, data: Path, zoo_home: Path) -> None:
    del shelf
    done = command("soup", "toy-snapshot*", "toy", "--uniform", "--name", "broth", "--data", data)
    assert done.code == 0
    entry = store.find("broth")
    entry.verify()
    assert entry.folder == zoo_home / "entries" / "broth"

    # The weights are the mean of the parents' weights, as fp16.
    parents = [state(name) for name in SNAPSHOTS]
    for name, value in state("broth").items():
        if not name.endswith(STATISTICS):
            mean = torch.stack([parent[name].double() for parent in parents]).mean(0)
            assert torch.equal(value, mean.half().float()), name

    # The stored predictions are those of the filed weights, on the splits that the parents have.
    for split, images in zip(("val", "test"), load_all("colours", data)[1:], strict=True):
        assert largest_difference(entry, split, images, len(images), device=CPU) < TOLERANCE
        assert entry.predictions().splits[split].fingerprint == images.fingerprint

    card, parent = entry.card, store.find("toy").card
    assert card.training["parents"] == [f"{name}@{store.find(name).sum_of('model.safetensors')}" for name in SNAPSHOTS]
    assert card.training["weights"] == "uniform soup: the mean of 3 networks"
    assert card.training["statistics"].endswith("of 270 training images, not augmented")
    assert (card.recipe, card.seed, card.trained_on) == ("toy", 5, parent.trained_on)
    assert (card.parameters, card.multiply_adds) == (parent.parameters, parent.multiply_adds)

    # What was judged is what was filed.
    rows = table(done.out)
    for name in SNAPSHOTS:
        assert rows[name] == [percent(store.find(name).card.metrics["val"]["flip"]), "yes"]
    soup = percent(card.metrics["val"]["flip"])
    assert rows["soup of 3"] == [soup]
    assert done.out.splitlines()[-1] == f"{entry.folder}: {soup} on the validation split with flip"
    assert any(line.startswith("predictions: 51/51 images, ") for line in done.err.splitlines())


def test_greedy_soup_leaves_out_what_harms(command: Command, shelf: Path, data: Path, tmp_path: Path) -> None:
    bad = add(shelf, "toy", "bad", 3, said=made_up("toy", sure=False))
    words = ("--greedy", "--name", "broth", "--data", data, "--to", tmp_path / "out", "--json", "-q")
    done = command("soup", *SNAPSHOTS, "bad", *words)
    assert done.code == 0
    found = json.loads(done.out)
    assert (found["name"], found["how"], found["dataset"], found["split"]) == ("broth", "greedy", "colours", "val")
    members = {m["name"]: m for m in found["members"]}
    assert list(members) == [*SNAPSHOTS, "bad"]
    assert not members["bad"]["taken"]
    assert members["bad"]["sha256"] == bad.sum_of("model.safetensors")
    taken = [m["name"] for m in found["members"] if m["taken"]]
    assert sorted(found["soup"]["members"]) == sorted(taken)
    assert len(taken) > 1
    best = max(found["members"], key=lambda m: m["accuracy"])
    assert found["soup"]["accuracy"] >= best["accuracy"]
    assert [m["name"] for m in found["members"] if m["soup_with_it"] is None] == [found["soup"]["members"][0]]
    assert 0 <= found["ensemble"]["accuracy"] <= 1
    entry = Entry("broth", tmp_path / "out" / "broth", "out")
    entry.verify()
    assert entry.card.metrics["val"]["flip"] == found["soup"]["accuracy"]
    assert [parent.partition("@")[0] for parent in entry.card.training["parents"]] == taken
    assert entry.card.training["candidates"] == sorted([*SNAPSHOTS, "bad"])
    assert f"the mean of {len(taken)} of 4 networks" in entry.card.training["weights"]
    assert done.err == f"{entry.folder}: {percent(found['soup']['accuracy'])} on the validation split with flip\n"


def test_ensemble_for_comparison_is_that_of_ensemble_eval(command: Command, shelf: Path, data: Path) -> None:
    del shelf
    done = command("soup", *SNAPSHOTS, "--uniform", "--name", "broth", "--data", data, "--dry-run", "--json", "-q")
    committee = Committee(tuple(parse_members(",".join(SNAPSHOTS))), "flip")
    source = split_source(committee.members, "val")
    report = score(committee, stored_ballots(committee, source), source, source="stored")
    found = json.loads(done.out)
    assert found["ensemble"]["accuracy"] == pytest.approx(report.ensemble["accuracy"], abs=1e-5)
    assert [m["accuracy"] for m in found["members"]] == pytest.approx([m["accuracy"] for m in report.members], abs=1e-5)


def test_only_the_validation_split_is_judged_on(
    command: Command, shelf: Path, data: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    del shelf
    seen: list[str] = []
    predict = stored.predict_split

    def watched(net: Any, split: Any, *rest: Any) -> SplitPredictions:  # noqa: ANN401
        seen.append(split.fingerprint)
        return predict(net, split, *rest)

    monkeypatch.setattr(stored, "predict_split", watched)
    done = command("soup", *SNAPSHOTS, "--greedy", "--name", "broth", "--data", data, "-q")
    assert done.code == 0
    assert seen == [load_all("colours", data)[1].fingerprint] * 2


def test_shards_of_another_dtype_are_members_too(command: Command, shelf: Path, data: Path) -> None:
    whole = store.find("toy-snapshot1")
    parts = cut_to_files(checkpoint.cast(whole.load().state_dict(), torch.float32), 9000)
    assert len(parts) > 2
    write_entry(shelf / "cut", dataclasses.replace(whole.card, name="cut"), parts, whole.predictions())
    for first in ("cut", "toy-snapshot1"):
        done = command("soup", first, "toy", "--uniform", "--name", f"with-{first}", "--data", data, "-q")
        assert done.code == 0
    one, other = (store.find(f"with-{first}") for first in ("cut", "toy-snapshot1"))
    assert one.sum_of("model.safetensors") == other.sum_of("model.safetensors")
    assert one.card.training["parents"][0] == f"cut@{store.find('cut').weights_digest}"


def test_dry_run_judges_and_files_nothing(command: Command, shelf: Path, data: Path, zoo_home: Path) -> None:
    del shelf
    done = command("soup", *SNAPSHOTS, "--uniform", "--name", "broth", "--data", data, "--dry-run", "-q")
    assert (done.code, list(table(done.out))[-3]) == (0, "soup of 3")
    assert not (zoo_home / "entries").exists()


def test_a_hopeless_mean_is_not_filed_unless_forced(
    command: Command, strangers: tuple[str, str], data: Path, zoo_home: Path
) -> None:
    words = ("soup", *strangers, "--uniform", "--name", "broth", "--data", data, "-q")
    for more in ((), ("--dry-run",)):
        done = command(*words, *more)
        assert done.code == 1
        assert table(done.out)["best member, stranger-1"] == ["100.00 %"]
        assert re.fullmatch(
            r"error: the soup, [\d.]+ %, is clearly worse than its worst member 'stranger-2': these networks were not "
            r"trained from one start, or have moved too far apart since; nothing was filed \(--force files it\)\n",
            done.err,
        )
        assert not (zoo_home / "entries" / "broth").exists()
    done = command(*words, "--force")
    assert done.code == 0
    assert done.err.startswith("warning: the soup, ")
    store.find("broth").verify()


def test_a_greedy_soup_of_one_is_not_filed(
    command: Command, strangers: tuple[str, str], data: Path, zoo_home: Path
) -> None:
    done = command("soup", *strangers, "--greedy", "--name", "broth", "--data", data, "-q")
    assert done.code == 1
    assert table(done.out)["stranger-1"] == ["100.00 %", "yes"]
    assert table(done.out)["soup of 1"] == ["100.00 %"]
    assert done.err == (
        "error: nothing was gained, so nothing was filed: every soup is worse than 'stranger-1' alone (these networks "
        "were not trained from one start, or have moved too far apart since: an ensemble of them may help)\n"
    )
    assert not (zoo_home / "entries" / "broth").exists()


def test_replace_takes_the_place_of_an_older_soup(command: Command, shelf: Path, data: Path, zoo_home: Path) -> None:
    del shelf
    words = ("--uniform", "--name", "broth", "--data", data, "-q")
    assert command("soup", *SNAPSHOTS, *words).code == 0
    before = listing(zoo_home / "entries")
    done = command("soup", *SNAPSHOTS[:2], *words)
    assert (done.code, done.out) == (2, "")
    assert done.err.startswith("error: 'broth' exists already in ")
    assert listing(zoo_home / "entries") == before
    assert command("soup", *SNAPSHOTS[:2], *words, "--replace").code == 0
    assert len(store.find("broth").card.training["parents"]) == 2


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ("toy toy-snapshot1", 2, "give one of --uniform (the mean of all) and --greedy (the mean of those that help)"),
        ("toy toy-snapshot1 --uniform --greedy", 2, "give one of --uniform"),
        ("toy toy-snapshot1 --greedy --force", 2, "--force goes with --uniform"),
        ("toy --uniform", 2, "a soup is made of two entries or more, only 'toy' was named"),
        ("toy toy* --uniform", 2, "'toy' is named twice"),
        ("toy toy-snapshot1 --uniform --device gpu", 2, "--device 'gpu' cannot be used"),
        ("toy fastnet-seed1 --uniform", 1, "'toy' and 'fastnet-seed1' differ in architecture arguments"),
        ("toy unsure --uniform", 1, "'unsure' does not say what it was trained on"),
        ("toy toy-snapshot3 --uniform", 1, "no entry 'toy-snapshot3'"),
        ("fastnet-seed1 fastnet-seed2 --uniform", 1, "has 3 classes, cifar10 has 10: this is another dataset"),
    ],
)
def test_what_cannot_be_averaged_is_refused_in_one_line(
    command: Command, shelf: Path, data: Path, zoo_home: Path, words: str, code: int, message: str
) -> None:
    add(shelf, "toy", "unsure", 1, said=made_up("toy", sure=True), trained_on=None)
    done = command("soup", *words.split(), "--name", "broth", "--data", data)
    assert (done.code, done.out) == (code, "")
    assert done.err.startswith("error: ")
    assert message in done.err
    assert len(done.err.splitlines()) == 1
    assert not (zoo_home / "entries" / "broth").exists()


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("fastnet-seed1", "'fastnet-seed1' is builtin and cannot be shadowed"),
        ("../broth", "not a valid entry name: '../broth'"),
    ],
)
def test_names_are_checked_first(command: Command, shelf: Path, name: str, message: str) -> None:
    del shelf
    done = command("soup", "toy", "toy-snapshot1", "--uniform", "--name", name)
    assert (done.code, done.out) == (2, "")
    assert message in done.err


def test_a_soup_does_not_eat_its_parents(command: Command, shelf: Path, snapshots: Path, data: Path) -> None:
    del shelf
    before = listing(snapshots)
    words = ("--uniform", "--name", "toy", "--to", snapshots, "--replace", "--data", data)
    done = command("soup", *SNAPSHOTS, *words)
    assert (done.code, done.err) == (2, "error: --name 'toy' is one of the members: choose another\n")
    assert listing(snapshots) == before


def test_other_data_than_the_parents_is_refused(command: Command, shelf: Path, tmp_path: Path) -> None:
    del shelf
    splits = {"train-1": toy_split(300, 9, 26), "test": toy_split(21, 2, 26)}
    other = write_mosaic(tmp_path / "other" / "colours", splits)
    done = command("soup", *SNAPSHOTS, "--uniform", "--name", "broth", "--data", other)
    assert (done.code, done.out) == (1, "")
    assert f"error: {other} is not the data of 'toy-snapshot1': it held out other images" in done.err
