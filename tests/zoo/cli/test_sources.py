"""One story over every kind of source, by the commands a user types and over the real protocols.

Push to it (or serve what was pushed to a folder), list, pull the predictions, evaluate, pull the rest, damage, repair.
"""

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

import zoo
from tests.conftest import random_split
from tests.hub_client import use_hub
from tests.hub_server import HubServer
from tests.zoo.conftest import Outcome, file_entry, flip_bit, listing, sample_predictions
from tests.zoo.sources.servers import Behaviour, serve
from zoo.entry import Entry

pytestmark = pytest.mark.usefixtures("package")
Command = Callable[..., Outcome]
NAMES = ("a-seed1", "a-seed2")


@dataclass
class Place:
    """A source that can be pushed to, and pulled from, perhaps by another name.

    Attributes:
        to: for `zoo push --to`.
        source: for `--from` and `ZOO_SOURCE`.
        asked: paths that were asked for since it was last emptied, where that can be told.
        publish: what has to be done after a push.
    """

    to: str
    source: str
    asked: list[str] | None = None
    publish: Callable[[], None] = field(default=lambda: None)


@pytest.fixture
def folder(tmp_path: Path) -> Place:
    return Place(str(tmp_path / "team"), str(tmp_path / "team"))


@pytest.fixture
def web(tmp_path: Path) -> Iterator[Place]:
    behaviour = Behaviour()

    def publish() -> None:
        behaviour.files |= {f"/{path}": content for path, content in listing(tmp_path / "www").items()}

    with serve(behaviour) as server:
        yield Place(str(tmp_path / "www"), server.url, publish=publish)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Place]:
    with HubServer() as server:
        use_hub(server, monkeypatch, str(tmp_path / "hf"))
        server.tokens["hf_SecretSecretSecret"] = True
        monkeypatch.setenv("HF_TOKEN", "hf_SecretSecretSecret")
        yield Place("hf://team/zoo", "hf://team/zoo")


@pytest.fixture
def s3(request: pytest.FixtureRequest) -> Place:
    request.getfixturevalue("bucket")
    return Place("s3://zoo/team", "s3://zoo/team")


@pytest.fixture(params=["folder", "web", "hub", "s3"])
def place(request: pytest.FixtureRequest) -> Place:
    found: Place = request.getfixturevalue(request.param)
    return found


@pytest.fixture
def mine(tmp_path: Path) -> Path:
    """Return a folder of entries that get pushed."""
    for name in NAMES:
        file_entry(tmp_path / "mine", name, predictions=sample_predictions(), metrics={"test": {"flip": 0.9}})
    return tmp_path / "mine"


def test_the_whole_story(command: Command, place: Place, mine: Path, zoo_home: Path) -> None:
    pushed = command("push", *NAMES, "--from", mine, "--to", place.to)
    assert pushed == Outcome(0, "".join(f"{n}: pushed 0.0 MB to {place.to}/{n}\n" for n in NAMES), "")
    place.publish()

    listed = command("list", "--from", place.source, "--json")
    assert listed.code == 0
    rows = json.loads(listed.out)
    assert [(row["name"], row["accuracy"], row["state"]) for row in rows] == [(n, 0.9, "whole") for n in NAMES]
    assert command("info", "a-seed1", "--from", place.source).out.startswith("# a-seed1")
    assert not (zoo_home / "entries").exists(), "nothing is pulled by looking"

    would = command("pull", "a-*", "--from", place.source, "--dry-run")
    assert would == Outcome(0, "".join(f"{n}: would pull 0.0 MB from {place.source}/{n}\n" for n in NAMES), "")
    part = command("pull", "a-seed1", "--from", place.source, "--predictions-only")
    cache = zoo_home / "entries"
    assert part == Outcome(0, f"a-seed1: predictions only from {place.source}, in {cache / 'a-seed1'}\n", "")
    whole = listing(mine / "a-seed1")
    assert listing(cache / "a-seed1") == {n: c for n, c in whole.items() if n != "model.safetensors"}
    assert "the weights are not here" in command("verify", "a-seed1").out

    rest = command("pull", "a-seed1")
    assert (rest.code, rest.err) == (0, ""), "it knows where the entry came from"
    assert listing(cache / "a-seed1") == whole
    assert command("pull", "a-seed1") == Outcome(0, f"a-seed1: verified in {cache / 'a-seed1'}\n", "")

    flip_bit(cache / "a-seed1" / "model.safetensors", 99)
    damaged = command("verify", "--all")
    assert (damaged.code, damaged.out) == (1, "")
    assert "model.safetensors is damaged" in damaged.err
    fixed = command("verify", "--all", "--fix")
    assert (fixed.code, fixed.out) == (0, f"a-seed1: {len(whole) - 1} files match a-seed1/SHA256SUMS\n")
    assert listing(cache / "a-seed1") == whole


def test_a_name_of_a_source_is_enough(
    command: Command, place: Place, mine: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert command("push", *NAMES, "--from", mine, "--to", place.to, "-q").code == 0
    place.publish()
    monkeypatch.setenv("ZOO_SOURCE", place.source)
    assert "a-seed2" in command("list").out
    assert command("pull", "a-seed2", "-q") == Outcome(0, "", "")
    assert listing(zoo_home / "entries" / "a-seed2") == listing(mine / "a-seed2")
    missing = command("pull", "a-seed3")
    assert missing.code == 1
    assert "did you mean 'a-seed" in missing.err


def test_what_is_pushed_twice_and_what_differs(command: Command, place: Place, mine: Path, tmp_path: Path) -> None:
    if place.to != place.source:
        pytest.skip("nothing is pushed to the web itself")
    assert command("push", *NAMES, "--from", mine, "--to", place.to, "-q").code == 0
    again = command("push", "a-seed1", "--from", mine, "--to", place.to)
    assert again == Outcome(0, "a-seed1: there already, the same\n", "")
    file_entry(tmp_path / "other", "a-seed1", predictions=sample_predictions(), recipe="other")
    refused = command("push", "a-seed1", "--from", tmp_path / "other", "--to", place.to)
    assert (refused.code, refused.out) == (2, "")
    assert refused.err == f"error: {place.to} has another 'a-seed1' already (--replace replaces it)\n"
    assert command("push", "a-seed1", "--from", tmp_path / "other", "--to", place.to, "--replace").code == 0
    assert "other" in command("info", "a-seed1", "--from", place.to, "--json").out
    assert len(json.loads(command("list", "--from", place.to, "--json").out)) == 2


def test_revisions_pin(command: Command, hub: Place, mine: Path, tmp_path: Path, zoo_home: Path) -> None:
    assert command("push", "a-seed1", "--from", mine, "--to", f"{hub.to}@old", "-q").code == 0
    file_entry(tmp_path / "other", "a-seed1", predictions=sample_predictions(), recipe="newer")
    assert command("push", "a-seed1", "--from", tmp_path / "other", "--to", hub.to, "-q").code == 0
    for words, folder in (
        (("--from", hub.source, "--revision", "old"), mine),
        (("--from", f"{hub.source}@old"), mine),
        (("--from", hub.source), tmp_path / "other"),
    ):
        assert command("pull", "a-seed1", *words, "--replace", "-q").code == 0
        assert listing(zoo_home / "entries" / "a-seed1") == listing(folder / "a-seed1")
    gone = command("pull", "a-seed1", "--from", hub.source, "--revision", "none", "--replace")
    assert gone.code == 1
    assert gone.err.count("\n") == 1


def test_an_entry_may_be_a_repository(command: Command, hub: Place, mine: Path, zoo_home: Path) -> None:
    del hub
    assert command("push", "a-seed1", "--from", mine, "--to", "hf://team/a-seed1") == Outcome(
        0, "a-seed1: pushed 0.0 MB to hf://team/a-seed1\n", ""
    )
    assert command("pull", "a-seed1", "--from", "hf://team/a-seed1", "-q").code == 0
    assert listing(zoo_home / "entries" / "a-seed1") == listing(mine / "a-seed1")


def test_in_python_weights_come_when_they_are_needed(
    command: Command,
    web: Place,
    make_entry: Callable[..., Entry],
    tmp_path: Path,
    zoo_home: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    make_entry(tmp_path / "mine", "net-seed1", splits={"test": random_split(12)})
    assert command("push", "net-seed1", "--from", tmp_path / "mine", "--to", web.to, "-q").code == 0
    web.publish()
    monkeypatch.setenv("ZOO_SOURCE", web.source)
    weights = zoo_home / "entries" / "net-seed1" / "model.safetensors"
    assert len(zoo.find("net-seed1").predictions().splits) == 1
    assert not weights.exists(), "predictions need no weights"
    net, card = zoo.load("net-seed1")
    assert weights.exists()
    assert card.name == "net-seed1"
    assert net.training is False
