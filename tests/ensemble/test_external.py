"""Entries of someone else's predictions vote beside entries with networks, stored and fresh."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch

from ensemble.evaluate import stored_ballots
from ensemble.fresh import fresh_ballots, keep_ballots
from ensemble.lockfile import write_lockfile
from zoo.card import EXTERNAL
from zoo.entry import Entry
from zoo.errors import DataError, NotFoundError
from zoo.importing.external import to_stored, write_external
from zoo.predictions import Predictions
from zoo.pull import pull_entry
from zoo.push import push
from zoo.sources.remote import RemoteEntry

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

    Cli = Callable[..., Outcome]

CPU = torch.device("cpu")


@pytest.fixture
def external(zoo: "Zoo") -> Callable[..., Entry]:
    """Return a function that files `theirs`, which says of some views what `tiny-c` says."""

    def file(*views: str) -> Entry:
        logits = {v: zoo.logits("tiny-c", v)[zoo.split.order].astype(np.float32) for v in views or ("none",)}
        card = dataclasses.replace(zoo.entry("tiny-c").card, name="theirs", architecture=EXTERNAL, trained_on=None)
        return write_external(zoo.source / "theirs", card, Predictions({"test": to_stored(logits, zoo.split)}))

    return file


def test_what_it_is(external: Callable[..., Entry]) -> None:
    entry = external()
    entry.verify()
    assert (entry.external, entry.weights, entry.missing, entry.partial) == (True, (), (), False)
    assert entry.weights_digest == entry.sums["predictions.safetensors"]
    with pytest.raises(NotFoundError, match="'theirs' was made of predictions alone: there is no network to run"):
        entry.load()


def test_an_entry_that_only_says_so_is_not_one(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    folder = zoo.source / "tiny-a"
    (folder / "model.safetensors").unlink()
    reseal(folder)
    assert not zoo.entry("tiny-a").external, "its card names a network"


@pytest.mark.parametrize("views", ["none", "flip", "flip+shift1"])
def test_its_vote_is_final(zoo: "Zoo", external: Callable[..., Entry], views: str) -> None:
    external()
    ballots = stored_ballots(zoo.committee("theirs", views), zoo.split_source())
    (vote,) = ballots.votes
    assert vote.logits.shape == (1, len(zoo.split), 10)
    np.testing.assert_array_equal(vote.logits[0], zoo.logits("tiny-c")[zoo.split.order])


def test_it_votes_with_both_views_if_it_has_them(zoo: "Zoo", external: Callable[..., Entry]) -> None:
    external("none", "flip")
    both, own = (stored_ballots(zoo.committee(name, "flip"), zoo.split_source()) for name in ("theirs", "tiny-c"))
    np.testing.assert_array_equal(both.votes[0].logits, own.votes[0].logits)


def test_fresh_takes_it_as_it_is(zoo: "Zoo", external: Callable[..., Entry], zoo_home: Path) -> None:
    external()
    committee = zoo.committee("tiny-a,theirs=2", "flip+shift1")
    ballots = fresh_ballots(committee, zoo.split_source(), device=CPU)
    assert [vote.logits.shape[0] for vote in ballots.votes] == [6, 1]
    keep_ballots(committee, ballots, zoo.split_source())
    assert len(list((zoo_home / "views").glob("*.safetensors"))) == 1, "of the network alone"
    few = fresh_ballots(committee, zoo.split_source(), device=CPU, limit=7)
    rows = zoo.split.subset(slice(7))
    np.testing.assert_array_equal(few.votes[1].logits[0], zoo.logits("tiny-c")[:7][rows.order])


def test_fresh_on_other_images(zoo: "Zoo", external: Callable[..., Entry]) -> None:
    external()
    with pytest.raises(NotFoundError, match="'theirs' has no stored predictions for the val split: it has no network"):
        fresh_ballots(zoo.committee("theirs"), zoo.split_source("val"), device=CPU)


def test_other_images_than_it_was_asked_about(zoo: "Zoo", external: Callable[..., Entry], tmp_path: Path) -> None:
    from tests.ensemble.conftest import pictures, write_mosaics

    external()
    write_mosaics(tmp_path / "other", {"test": pictures(60, seed=9), "train-1": pictures(100, seed=2)})
    source = dataclasses.replace(zoo, data=tmp_path / "other").split_source()
    for use in (stored_ballots, lambda c, s: fresh_ballots(c, s, device=CPU)):
        with pytest.raises(DataError, match=r"'theirs' has .*predictions for other test images"):
            use(zoo.committee("theirs"), source)


def test_eval_by_command(zoo: "Zoo", cli: "Cli", external: Callable[..., Entry]) -> None:
    external()
    for words in ((), ("--fresh", "--device", "cpu")):
        done = cli(
            "eval", "--members", "tiny-a,theirs", "--tta", "flip", "--data", str(zoo.data), "--json", "-", "-q", *words
        )
        assert done.code == 0, done.err
        assert [m["name"] for m in json.loads(done.out)["members"]] == ["tiny-a", "theirs"]
    alone = cli("eval", "--members", "theirs", "--data", str(zoo.data), "--json", "-", "-q", "--fresh")
    said = json.loads(alone.out)
    assert (said["source"], said["device"], said["precision"]) == ("stored", None, None), "nothing ran"


def test_it_is_no_member_of_a_lockfile(zoo: "Zoo", external: Callable[..., Entry], tmp_path: Path) -> None:
    external()
    with pytest.raises(DataError, match="cannot be a member of a lockfile: there are no weights to run"):
        write_lockfile(tmp_path / "ensemble.json", zoo.committee("tiny-a,theirs"), fitted_on=None, metrics={})
    assert not (tmp_path / "ensemble.json").exists()


def test_it_can_be_pushed_and_pulled(external: Callable[..., Entry], tmp_path: Path) -> None:
    entry = external()
    push([entry], str(tmp_path / "team"))
    pulled = pull_entry(RemoteEntry.of(Entry("theirs", tmp_path / "team" / "theirs", "team")))
    pulled.verify()
    assert pulled.external
