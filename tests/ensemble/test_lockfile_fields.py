"""Whatever is wrong in an `ensemble.json` is said in one line that names the file, the field and what it has."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.cascade.stages import Stage
from ensemble.evaluate import stored_ballots
from ensemble.lockfile import Committee, read_lockfile, read_provenance, write_lockfile
from ensemble.lockfile_fields import choice, items, number, table_of, text, texts
from ensemble.merge import Merge, merge
from zoo.errors import CorruptError, NotFoundError

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.ensemble.conftest import Zoo

    Change = Callable[[dict[str, Any]], object]

FITTED = {"split": "val", "fingerprint": "ab" * 32, "images": 10, "objective": "nll"}
NAN, INFINITY, LONG = float("nan"), float("inf"), 10**400


def staged(zoo: "Zoo") -> Committee:
    stages = (
        Stage(("tiny-a",), "none", 1.2, 0.9),
        Stage(("tiny-a", "tiny-b"), "flip", 0.9, 1.0),
        Stage(("tiny-a", "tiny-b"), "flip+shift1", 1.1, 0.0),
    )
    return replace(zoo.committee("tiny-b,tiny-a=2", "flip+shift1", "logits", 1.1), cascade=stages)


@pytest.fixture
def lockfile(zoo: "Zoo", tmp_path: Path) -> Path:
    path = tmp_path / "cascade.json"
    write_lockfile(path, staged(zoo), fitted_on=FITTED, metrics={})
    return path


def edit(path: Path, change: "Change") -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def put(value: object, *place: str | int) -> "Change":
    """Return what puts a value somewhere into a lockfile."""

    def change(table: Any) -> None:  # noqa: ANN401
        for key in place[:-1]:
            table = table[key]
        table[place[-1]] = value

    return change


def drop(*place: str | int) -> "Change":
    """Return what takes something out of a lockfile."""

    def change(table: Any) -> None:  # noqa: ANN401
        for key in place[:-1]:
            table = table[key]
        del table[place[-1]]

    return change


ENSEMBLE: dict[str, tuple["Change", str]] = {
    **{f"no {k}": (drop(k), f"the ensemble has no '{k}'") for k in ("members", "views", "merge", "temperature")},
    **{f"no {k}": (drop(k), f"the ensemble has no '{k}'") for k in ("dataset", "classes")},
    "no member": (put([], "members"), "members of the ensemble: [] is not a list with something in it"),
    "members null": (put(None, "members"), "members of the ensemble: None"),
    "members by name": (put({"tiny-a": 1.0}, "members"), "members of the ensemble: {'tiny-a': 1.0}"),
    "members as words": (put(["tiny-a", "tiny-b"], "members"), "member 1: 'tiny-a' is not a table"),
    "unknown views": (put("rotate", "views"), "views of the ensemble: 'rotate' is not one of none, flip"),
    "views as a list": (put(["none"], "views"), "views of the ensemble: ['none']"),
    "views null": (put(None, "views"), "views of the ensemble: None"),
    "unknown merge": (put("mean", "merge"), "merge of the ensemble: 'mean' is not one of probs, logits"),
    "merge as a list": (put(["probs"], "merge"), "merge of the ensemble: ['probs']"),
    "dataset a number": (put(10, "dataset"), "dataset of the ensemble: 10 is not text"),
    "classes a word": (put("cat", "classes"), "classes of the ensemble: 'cat' is not a list"),
    "classes numbers": (put([0, 1], "classes"), "classes of the ensemble: 0 is not text"),
    "classes null": (put([None, "cat"], "classes"), "classes of the ensemble: None is not text"),
}
MEMBERS: dict[str, tuple["Change", str]] = {
    **{
        f"no {k}": (drop("members", 1, k), f"member 'tiny-a' has no '{k}'") for k in ("sha256", "weight", "temperature")
    },
    "no name": (drop("members", 0, "name"), "member 1 has no 'name'"),
    "twice": (lambda t: t["members"].append(dict(t["members"][0])), "member 'tiny-b' is there twice"),
    "name with dots": (
        put("../source/tiny-a", "members", 1, "name"),
        "name of member 2: '../source/tiny-a' is not a valid entry name",
    ),
    "name with a slash": (put("/etc/passwd", "members", 1, "name"), "is not a valid entry name"),
    "name with a line break": (put("tiny\na" * 99, "members", 1, "name"), "is not a valid entry name"),
    "name empty": (put("", "members", 1, "name"), "name of member 2: '' is not text with something in it"),
    "name null": (put(None, "members", 1, "name"), "name of member 2: None is not text"),
    "sha256 empty": (put("", "members", 1, "sha256"), "sha256 of member 'tiny-a': ''"),
    "sha256 null": (put(None, "members", 1, "sha256"), "sha256 of member 'tiny-a': None"),
    "sha256 a number": (put(7, "members", 1, "sha256"), "sha256 of member 'tiny-a': 7"),
    "sha256 short": (put("12ab", "members", 1, "sha256"), "sha256 of member 'tiny-a': '12ab' is not 64 hexadecimal"),
}
NUMBERS: dict[str, tuple[object, str]] = {
    "zero": (0, "0 is not from "),
    "negative": (-0.5, "-0.5 is not from "),
    "nan": (NAN, "nan is not from "),
    "infinite": (INFINITY, "inf is not from "),
    "minus infinity": (-INFINITY, "-inf is not from "),
    "tiny": (1e-300, "1e-300 is not from "),
    "huge": (1e300, "1e+300 is not from "),
    "of 400 digits": (LONG, "1000000000000000000000000000000000000000... is not from "),
    "a word": ("0.5", "'0.5' is not a number"),
    "null": (None, "None is not a number"),
    "true": (True, "True is not a number"),
    "a list": ([1.0], "[1.0] is not a number"),
}
PLACES: dict[str, tuple[str | int, ...]] = {
    "weight of member 'tiny-a'": ("members", 1, "weight"),
    "temperature of member 'tiny-a'": ("members", 1, "temperature"),
    "temperature of the ensemble": ("temperature",),
    "temperature of stage 1": ("cascade", 0, "temperature"),
}
STAGES: dict[str, tuple["Change", str]] = {
    "empty": (put([], "cascade"), "cascade of the ensemble: [] is not a list with something in it"),
    "zero": (put(0, "cascade"), "cascade of the ensemble: 0"),
    "false": (put(False, "cascade"), "cascade of the ensemble: False"),
    "an empty word": (put("", "cascade"), "cascade of the ensemble: ''"),
    "a table": (put({"members": ["tiny-a"]}, "cascade"), "cascade of the ensemble: {'members': ['tiny-a']}"),
    "a number": (put(7, "cascade"), "cascade of the ensemble: 7"),
    "numbers": (put([1, 2], "cascade"), "stage 1: 1 is not a table"),
    "nulls": (put([None, None], "cascade"), "stage 1: None is not a table"),
    "one stage": (lambda t: t["cascade"].__delitem__(slice(2)), "a cascade has at least two stages, not 1"),
    "no last stage": (drop("cascade", 2), "stage 2 of 2 has the threshold 1.0: it is in (0, 1], and 0 of the last"),
    "another order": (lambda t: t["cascade"].reverse(), "stage 1 of 3 has the threshold 0.0"),
    "not rising": (lambda t: t["cascade"].insert(0, t["cascade"].pop(1)), "stage 2 does not contain the one before"),
    "a stage twice": (lambda t: t["cascade"].insert(0, t["cascade"][0]), "stage 2 does not contain the one before"),
    **{f"no {k}": (drop("cascade", 1, k), f"stage 2 has no '{k}'") for k in ("members", "views", "threshold")},
    "members a word": (put("tiny-a", "cascade", 0, "members"), "members of stage 1: 'tiny-a' is not a list"),
    "members numbers": (put([0], "cascade", 0, "members"), "members of stage 1: 0 is not text"),
    "members empty": (put([], "cascade", 0, "members"), "members of stage 1: []"),
    "members null": (put(None, "cascade", 0, "members"), "members of stage 1: None"),
    "member unknown": (put(["tiny-c"], "cascade", 0, "members"), "has the member 'tiny-c', which the ensemble has not"),
    "member with a line break": (put(["tiny\na" * 999], "cascade", 0, "members"), "has the member 'tiny\\na"),
    "member twice": (put(["tiny-a"] * 2, "cascade", 0, "members"), "stage 1 of 3 has no member, or one twice"),
    "views unknown": (put("rotate" * 99, "cascade", 0, "views"), "views of stage 1: 'rotaterotate"),
    "views a list": (put(["none"], "cascade", 0, "views"), "views of stage 1: ['none']"),
    "views not the ensemble's": (put("crops5", "cascade", 0, "views"), "stage 2 does not contain the one before"),
    "threshold zero": (put(0, "cascade", 0, "threshold"), "stage 1 of 3 has the threshold 0.0"),
    "threshold below 0": (
        put(-0.1, "cascade", 0, "threshold"),
        "threshold of stage 1: -0.1 is not from 0 to 1",
    ),
    "threshold above 1": (put(1.5, "cascade", 0, "threshold"), "threshold of stage 1: 1.5 is not from 0 to 1"),
    "threshold nan": (put(NAN, "cascade", 0, "threshold"), "threshold of stage 1: nan is not from 0 to 1"),
    "threshold null": (put(None, "cascade", 0, "threshold"), "threshold of stage 1: None is not a number"),
    "threshold long": (put(LONG, "cascade", 0, "threshold"), "threshold of stage 1: 1000"),
    "last threshold not 0": (put(0.5, "cascade", 2, "threshold"), "stage 3 of 3 has the threshold 0.5"),
    "another temperature": (put(1.2, "temperature"), "the last stage is not the ensemble"),
    "other views": (put("flip", "views"), "its stages have views that the ensemble has not"),
    "a vote": (put("vote", "merge"), "a vote cannot have a cascade"),
}
FITS: dict[str, tuple["Change", str]] = {
    "a number": (put(7, "fitted_on"), "'fitted_on': 7 is not a table"),
    "a list": (put(["val"], "fitted_on"), "'fitted_on': ['val'] is not a table"),
    **{f"no {k}": (drop("fitted_on", k), f"'fitted_on' has no '{k}'") for k in FITTED},
    "split a number": (put(1, "fitted_on", "split"), "split of 'fitted_on': 1 is not text"),
    "fingerprint a word": (
        put("abc", "fitted_on", "fingerprint"),
        "fingerprint of 'fitted_on': 'abc' is not 64 hexadecimal digits",
    ),
    "fingerprint null": (put(None, "fitted_on", "fingerprint"), "fingerprint of 'fitted_on': None is not text"),
    "images a word": (put("many", "fitted_on", "images"), "images of 'fitted_on': 'many' is not a number"),
    "images none": (put(0, "fitted_on", "images"), "images of 'fitted_on': 0 is not from 1"),
    "images in parts": (put(1.5, "fitted_on", "images"), "images of 'fitted_on': 1.5 is not a whole number"),
    "images infinite": (put(INFINITY, "fitted_on", "images"), "images of 'fitted_on': inf"),
    "objective a list": (
        put([], "fitted_on", "objective"),
        "objective of 'fitted_on': [] is not one of nll, accuracy",
    ),
}
ALL = {
    f"{kind}, {case}": found
    for kind, cases in (("ensemble", ENSEMBLE), ("member", MEMBERS), ("cascade", STAGES), ("fit", FITS))
    for case, found in cases.items()
} | {
    f"{of}: {case}": (put(value, *place), f"{of}: {says}")
    for of, place in PLACES.items()
    for case, (value, says) in NUMBERS.items()
}


TABLE = {
    "format": "menagerie.ensemble/1",
    "dataset": "cifar10",
    "classes": ["cat", "dog"],
    "members": [
        {"name": "tiny-b", "sha256": "0" * 64, "weight": 1.0, "temperature": 1.0},
        {"name": "tiny-a", "sha256": "1" * 64, "weight": 2.0, "temperature": 0.7},
    ],
    "views": "flip+shift1",
    "merge": "logits",
    "temperature": 1.1,
    "fitted_on": FITTED,
    "cascade": [
        {"members": ["tiny-a"], "views": "none", "temperature": 1.2, "threshold": 0.9},
        {"members": ["tiny-a", "tiny-b"], "views": "flip", "temperature": 0.9, "threshold": 1.0},
        {"members": ["tiny-a", "tiny-b"], "views": "flip+shift1", "temperature": 1.1, "threshold": 0.0},
    ],
    "metrics": {},
}


@pytest.mark.parametrize("case", ALL)
def test_malformed_files_are_refused_in_a_line(tmp_path: Path, case: str) -> None:
    lockfile = tmp_path / "cascade.json"
    lockfile.write_text(json.dumps(TABLE), encoding="utf-8")
    with pytest.raises(NotFoundError, match="no entry 'tiny-b'"):  # nothing else is wrong with it
        read_lockfile(lockfile)
    change, says = ALL[case]
    edit(lockfile, change)
    with pytest.raises(CorruptError) as caught:
        read_lockfile(lockfile)
    said = str(caught.value)
    assert said.startswith(f"{lockfile} is malformed: ")
    assert says in said
    assert "\n" not in said
    assert len(said) < len(str(lockfile)) + 200


def test_a_member_that_nobody_has_is_named_with_the_file(lockfile: Path) -> None:
    edit(lockfile, lambda t: (t.pop("cascade"), put("tinya", "members", 1, "name")(t)))
    with pytest.raises(NotFoundError) as caught:
        read_lockfile(lockfile)
    assert str(caught.value).startswith(f"{lockfile}: no entry 'tinya' in ")
    assert "did you mean 'tiny-a'" in str(caught.value)


def test_stages_without_temperatures_have_1_and_the_last_the_ensembles(zoo: "Zoo", lockfile: Path) -> None:
    for stage in range(3):
        edit(lockfile, drop("cascade", stage, "temperature"))
    found = read_lockfile(lockfile)
    assert [stage.temperature for stage in found.cascade] == [1.0, 1.0, 1.1]
    assert replace(found, cascade=()) == replace(staged(zoo), cascade=())


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
@pytest.mark.parametrize("weights", [(1e-12, 1e12), (1e-12, 1e-12), (1e12, 1e12)])
def test_whatever_is_read_can_be_reckoned_with(zoo: "Zoo", tmp_path: Path, temperature: float, weights: Any) -> None:  # noqa: ANN401
    import torch

    from ensemble.tensor_merge import merge_log_probs

    plain = zoo.committee("tiny-a,tiny-b", "flip", "probs", temperature)
    members = (replace(m, weight=w, temperature=temperature) for m, w in zip(plain.members, weights, strict=True))
    path = tmp_path / "x.json"
    write_lockfile(path, replace(plain, members=tuple(members)), fitted_on=None, metrics={})
    committee = read_lockfile(path)
    votes = stored_ballots(committee, zoo.split_source()).votes
    hows: tuple[Merge, ...] = ("probs", "logits")
    for how in hows:
        probs = merge(votes, how, committee.temperature)[0]
        np.testing.assert_allclose(probs.sum(1), 1, rtol=1e-6)
        logs = torch.tensor(np.stack([v.logits for v in votes])).float() / torch.tensor(temperature)
        shares = torch.tensor([m.weight / max(weights) for m in committee.members])
        for some in ([0], [1], [0, 1]):
            own = shares[some] / shares[some].sum()
            said, _, _ = merge_log_probs(logs[some].log_softmax(-1), own, torch.ones(2) / 2, how, temperature)
            torch.testing.assert_close(said.sum(1), torch.ones(60), atol=1e-3, rtol=0)


def test_what_an_ensemble_was_fitted_on(lockfile: Path) -> None:
    edit(lockfile, put({**FITTED, "by": "somebody"}, "fitted_on"))
    assert read_provenance(lockfile) == FITTED
    for nothing in (put(None, "fitted_on"), drop("fitted_on")):
        edit(lockfile, nothing)
        assert read_provenance(lockfile) is None
    lockfile.write_text("{}", encoding="utf-8")
    with pytest.raises(CorruptError, match="is not an ensemble of format"):
        read_provenance(lockfile)


def test_fields_alone() -> None:
    table: dict[str, Any] = {"n": 3, "t": "word", "l": ["a", "b"], "d": {"k": 1}}
    assert (number(table, "n", "it", 3, 3), text(table, "t", "it")) == (3.0, "word")
    assert isinstance(number(table, "n", "it", 0, 9), float)
    assert (items(table, "l", "it"), texts(table, "l", "it")) == (["a", "b"], ("a", "b"))
    assert choice(table, "t", "it", ("other", "word")) == "word"
    assert table_of(table["d"], "it") == {"k": 1}
    with pytest.raises(ValueError, match=r"^it has no 'x'$"):
        text(table, "x", "it")
