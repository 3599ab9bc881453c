"""`ensemble.json`: written as DESIGN.md says, read back the same, and every malformation named."""

import hashlib
import json
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.cascade.stages import Stage
from ensemble.lockfile import FORMAT, Committee, read_lockfile, read_provenance, write_lockfile
from ensemble.members import Member
from zoo.errors import CorruptError, DataError, MenagerieError, NotFoundError, StorageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

FITTED = {"split": "val", "fingerprint": "ab" * 32, "images": 10, "objective": "nll"}


def committee_of(zoo: "Zoo") -> Committee:
    members = (
        Member("tiny-b", zoo.entry("tiny-b"), 0.1 + 0.2, 1.25),
        Member("tiny-a", zoo.entry("tiny-a"), 2.0, 0.7),
    )
    return Committee(members, "flip+shift1", "logits", 1.1)


@pytest.fixture
def lockfile(zoo: "Zoo", tmp_path: Path) -> Path:
    path = tmp_path / "ensemble.json"
    write_lockfile(path, committee_of(zoo), fitted_on=FITTED, metrics={"accuracy": 0.5})
    return path


def edit(path: Path, change: Callable[[dict[str, Any]], object]) -> None:
    table = json.loads(path.read_text(encoding="utf-8"))
    change(table)
    path.write_text(json.dumps(table), encoding="utf-8")


def test_round_trip(zoo: "Zoo", lockfile: Path) -> None:
    assert read_lockfile(lockfile) == committee_of(zoo)


@pytest.mark.parametrize("views", ["none", "flip", "flip+shift1", "crops5"])
@pytest.mark.parametrize("merge", ["probs", "logits", "vote"])
def test_round_trip_of_every_way_to_merge(zoo: "Zoo", tmp_path: Path, views: str, merge: Any) -> None:  # noqa: ANN401
    committee = replace(committee_of(zoo), views=views, merge=merge, temperature=1.0)
    write_lockfile(tmp_path / "x.json", committee, fitted_on=None, metrics={})
    assert read_lockfile(tmp_path / "x.json") == committee


def test_the_file_is_as_the_design_says(zoo: "Zoo", lockfile: Path) -> None:
    def digest(name: str) -> str:
        return hashlib.sha256((zoo.source / name / "model.safetensors").read_bytes()).hexdigest()

    assert json.loads(lockfile.read_text(encoding="utf-8")) == {
        "format": "menagerie.ensemble/1",
        "dataset": "cifar10",
        "classes": list(zoo.split.classes),
        "members": [
            {"name": "tiny-b", "sha256": digest("tiny-b"), "weight": 0.30000000000000004, "temperature": 1.25},
            {"name": "tiny-a", "sha256": digest("tiny-a"), "weight": 2.0, "temperature": 0.7},
        ],
        "views": "flip+shift1",
        "merge": "logits",
        "temperature": 1.1,
        "fitted_on": FITTED,
        "cascade": None,
        "metrics": {"accuracy": 0.5},
    }
    assert FORMAT == "menagerie.ensemble/1"


def test_equal_committees_are_equal_files(zoo: "Zoo", lockfile: Path, tmp_path: Path) -> None:
    write_lockfile(tmp_path / "again.json", committee_of(zoo), fitted_on=FITTED, metrics={"accuracy": 0.5})
    assert (tmp_path / "again.json").read_bytes() == lockfile.read_bytes()


def test_a_prediction_file_cannot_be_locked(zoo: "Zoo", tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", probs=np.ones(1))
    with pytest.raises(DataError, match="cannot be a member of a lockfile"):
        write_lockfile(
            tmp_path / "x.json",
            zoo.committee(f"tiny-a,{tmp_path / 'other.npz'}"),
            fitted_on=None,
            metrics={},
        )
    assert not (tmp_path / "x.json").exists()


def test_a_folder_that_is_not_there_is_a_storage_error(zoo: "Zoo", tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="cannot write"):
        write_lockfile(tmp_path / "no" / "x.json", committee_of(zoo), fitted_on=None, metrics={})


def test_other_weights_under_the_same_name_are_refused(
    zoo: "Zoo", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    shutil.copy(zoo.source / "tiny-c" / "model.safetensors", zoo.source / "tiny-a" / "model.safetensors")
    reseal(zoo.source / "tiny-a")
    with pytest.raises(DataError, match="other weights of 'tiny-a'"):
        read_lockfile(lockfile)


def test_another_sha256_names_the_member(lockfile: Path) -> None:
    edit(lockfile, lambda table: table["members"][1].update(sha256="0" * 64))
    with pytest.raises(DataError, match="other weights of 'tiny-a'"):
        read_lockfile(lockfile)


def test_a_lockfile_for_other_classes_is_refused(zoo: "Zoo", lockfile: Path) -> None:
    table = json.loads(lockfile.read_text(encoding="utf-8"))
    for key, value in (("dataset", "cifar100"), ("classes", list(reversed(zoo.split.classes)))):
        lockfile.write_text(json.dumps({**table, key: value}), encoding="utf-8")
        with pytest.raises(DataError, match="for other classes than its members have"):
            read_lockfile(lockfile)


def test_new_predictions_of_the_same_weights_are_not(
    zoo: "Zoo", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    (zoo.source / "tiny-a" / "README.md").write_text("a new card", encoding="utf-8")
    reseal(zoo.source / "tiny-a")
    assert read_lockfile(lockfile) == committee_of(zoo)


def test_a_member_that_no_source_has_any_more(zoo: "Zoo", lockfile: Path) -> None:
    shutil.rmtree(zoo.source / "tiny-a")
    with pytest.raises(NotFoundError, match="no entry 'tiny-a'"):
        read_lockfile(lockfile)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (b"", CorruptError),
        (b"not json", CorruptError),
        (b"{", CorruptError),
        (b"[]", CorruptError),
        (b"null", CorruptError),
        (b"7", CorruptError),
        (b'"menagerie.ensemble/1"', CorruptError),
        (b"\xff\xfe\x00", CorruptError),
        (b"\x80\x04K\x01.", CorruptError),  # a pickle
        (b"[" * 200_000, CorruptError),
        (b'{"format": "menagerie.ensemble/1"}', CorruptError),
        (b'{"format": "menagerie.ensemble/1", "members": ' + b"9" * 5000 + b"}", CorruptError),
    ],
)
def test_what_is_no_lockfile_at_all(tmp_path: Path, content: bytes, kind: type[MenagerieError]) -> None:
    path = tmp_path / "ensemble.json"
    path.write_bytes(content)
    with pytest.raises(kind) as caught:
        read_lockfile(path)
    assert str(path) in str(caught.value)
    assert len(str(caught.value)) < 500


def test_every_cut_of_a_good_file_is_refused(lockfile: Path) -> None:
    content = lockfile.read_bytes().rstrip()
    for end in range(0, len(content), 17):
        lockfile.write_bytes(content[:end])
        with pytest.raises(CorruptError):
            read_lockfile(lockfile)


def test_missing_file_and_folder(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError, match="No such file"):
        read_lockfile(tmp_path / "ensemble.json")
    with pytest.raises(NotFoundError, match="cannot read"):
        read_lockfile(tmp_path)


def with_cascade(zoo: "Zoo") -> Committee:
    stages = (
        Stage(("tiny-a",), "none", 1.2, 0.1 + 0.2),
        Stage(("tiny-a", "tiny-b"), "flip", 0.9, 1.0),
        Stage(("tiny-a", "tiny-b"), "flip+shift1", 1.1, 0.0),
    )
    return replace(committee_of(zoo), cascade=stages)


def test_round_trip_of_a_cascade(zoo: "Zoo", lockfile: Path) -> None:
    write_lockfile(lockfile, with_cascade(zoo), fitted_on=FITTED, metrics={})
    assert read_lockfile(lockfile) == with_cascade(zoo)
    assert json.loads(lockfile.read_text(encoding="utf-8"))["cascade"] == [
        {"members": ["tiny-a"], "views": "none", "temperature": 1.2, "threshold": 0.30000000000000004},
        {"members": ["tiny-a", "tiny-b"], "views": "flip", "temperature": 0.9, "threshold": 1.0},
        {"members": ["tiny-a", "tiny-b"], "views": "flip+shift1", "temperature": 1.1, "threshold": 0.0},
    ]


def test_what_is_no_cascade_of_its_ensemble_is_not_written(zoo: "Zoo", tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="the last stage is not the ensemble"):
        write_lockfile(tmp_path / "x.json", replace(with_cascade(zoo), temperature=2.0), fitted_on=None, metrics={})
    assert not (tmp_path / "x.json").exists()


def hold_out(zoo: "Zoo", name: str, mark: str | None, reseal: Callable[[Path], None]) -> None:
    """Let the card of an entry say what was held out when it trained."""
    about = None if mark is None else {"images": 90, "fingerprint": "1" * 64, "held_out": mark}
    folder = zoo.source / name
    (folder / "config.json").write_text(replace(zoo.entry(name).card, trained_on=about).to_json(), encoding="utf-8")
    reseal(folder)


def test_what_it_was_fitted_on_must_be_what_all_members_held_out(
    zoo: "Zoo", lockfile: Path, reseal: Callable[[Path], None]
) -> None:
    for name in ("tiny-a", "tiny-b"):
        hold_out(zoo, name, "ab" * 32, reseal)
    assert read_provenance(lockfile, read_lockfile(lockfile)) == FITTED
    for about, says in (
        (
            {"fingerprint": "cd" * 32},
            "split 'val' cdcdcdcd, but its member 'tiny-b' held out abababab: `ensemble select",
        ),
        ({"split": "test"}, "split 'test' abababab, but its member 'tiny-b' held out abababab: `ensemble select"),
    ):
        edit(lockfile, lambda table, about=about: table.update(fitted_on={**FITTED, **about}))  # type: ignore[misc]
        with pytest.raises(DataError, match=says):
            read_provenance(lockfile, read_lockfile(lockfile))
        assert read_provenance(lockfile) == {**FITTED, **about}
    edit(lockfile, lambda table: table.update(fitted_on=FITTED))
    hold_out(zoo, "tiny-a", "2" * 64, reseal)
    with pytest.raises(DataError, match="but its member 'tiny-a' held out 22222222"):
        read_provenance(lockfile, read_lockfile(lockfile))
    hold_out(zoo, "tiny-a", None, reseal)
    with pytest.raises(DataError, match="but its member 'tiny-a' does not say what it held out"):
        read_provenance(lockfile, read_lockfile(lockfile))
    edit(lockfile, lambda table: table.update(fitted_on=None))
    assert read_provenance(lockfile, read_lockfile(lockfile)) is None


def test_an_entry_without_weights_is_no_member(zoo: "Zoo", lockfile: Path, reseal: Callable[[Path], None]) -> None:
    (zoo.source / "tiny-a" / "model.safetensors").unlink()
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match=r"has no model\.safetensors, so it is no zoo entry"):
        read_lockfile(lockfile)
