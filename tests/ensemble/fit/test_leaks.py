"""Nobody who may have seen the validation split takes part in a fit."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.selection import file_entries, made_up
from ensemble.fit.leaks import check_unseen, refuse_mixed, refuse_unknown
from ensemble.members import Member
from zoo.entry import Entry, write_entry
from zoo.errors import DataError, UsageError

HELD_OUT = "0" * 64


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    file_entries(made_up(1, 20, seed=0), tmp_path)
    return Entry("made-up-0000", tmp_path / "made-up-0000", str(tmp_path))


def other(entry: Entry, **changes: object) -> Entry:
    """Return an entry whose card differs."""
    card = replace(entry.card, **changes)  # type: ignore[arg-type]
    return write_entry(entry.folder.parent / card.name, card, b"weights", entry.predictions())


def test_who_held_the_split_out_may_take_part(entry: Entry) -> None:
    assert refuse_unknown([Member(entry.name, entry)]) == [entry]
    check_unseen(entry, HELD_OUT)


def test_who_says_nothing_may_not(entry: Entry) -> None:
    silent = [other(entry, name=f"silent-{n}", trained_on=None) for n in range(5)]
    with pytest.raises(DataError, match="'silent-0', 'silent-1', 'silent-2' and 2 more cannot take part in a fit"):
        refuse_unknown([Member(e.name, e) for e in (entry, *silent)])


def test_members_for_different_data_are_named_with_their_classes(entry: Entry, tmp_path: Path) -> None:
    hundred = tuple(f"class {i}" for i in range(100))
    strangers = [other(entry, name=f"stranger-{n}", dataset="cifar100", classes=hundred) for n in range(5)]
    refuse_mixed([Member(entry.name, entry), Member("file.npz", tmp_path / "file.npz")])
    refuse_mixed([Member(e.name, e) for e in strangers])
    with pytest.raises(DataError) as caught:
        refuse_mixed([Member(e.name, e) for e in (entry, *strangers)])
    said = str(caught.value)
    assert "give names or patterns of one of these" in said
    assert "10 classes of made-up (class0, class1, class2, ...): 'made-up-0000'; " in said
    assert said.endswith(
        "cifar100 (class 0, class 1, class 2, ...): 'stranger-0', 'stranger-1', 'stranger-2' and 2 more"
    )


def test_a_prediction_file_may_not(tmp_path: Path) -> None:
    np.savez(tmp_path / "other.npz", probs=np.ones((1, 2)))
    with pytest.raises(UsageError, match=r"other.npz' cannot take part .* does not say what its model trained on"):
        refuse_unknown([Member(str(tmp_path / "other.npz"), tmp_path / "other.npz")])


@pytest.mark.parametrize(
    "trained_on",
    [
        {"images": 1, "fingerprint": "1" * 64, "held_out": "2" * 64},
        {"images": 1, "fingerprint": HELD_OUT, "held_out": HELD_OUT},
        {"images": 1, "fingerprint": HELD_OUT, "held_out": "2" * 64},
    ],
)
def test_who_held_other_images_out_may_not(entry: Entry, trained_on: dict[str, object]) -> None:
    seen = other(entry, name="seen", trained_on=trained_on)
    with pytest.raises(DataError, match=r"'seen' cannot take part .* may have seen these images"):
        check_unseen(seen, HELD_OUT)
