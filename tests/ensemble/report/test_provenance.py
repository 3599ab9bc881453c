"""What is said of fits, and which members count as having held the validation split out."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble.members import parse_members
from ensemble.report.provenance import held_out, is_fitted_on, said_of_fits, unseen

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

MARK = "0" * 64
PROPER = {"split": "val", "fingerprint": MARK, "images": 5, "objective": "nll"}
ALL = "Whatever was fitted or chosen was so on the validation split."
BUT = "Whatever was fitted or chosen for this page was so on the validation split. But "


@pytest.fixture
def make_silent(knowing: "Zoo", reseal: Callable[[Path], None]) -> Callable[[str], None]:
    """A function after which a member does not say what it trained on."""

    def silence(name: str) -> None:
        folder = knowing.source / name
        card = replace(knowing.entry(name).card, trained_on=None)
        (folder / "config.json").write_text(card.to_json(), encoding="utf-8")
        reseal(folder)

    return silence


@pytest.mark.parametrize(
    ("fitted", "said"),
    [
        (PROPER, ALL),
        (None, BUT + "e.json does not say what it was fitted on."),
        ({**PROPER, "split": "test"}, BUT + "e.json was fitted on the test split."),
        ({**PROPER, "split": "x" * 900}, BUT + f"e.json was fitted on the {'x' * 40} split."),
        (
            {**PROPER, "fingerprint": "7" * 64},
            BUT + "e.json was fitted on other validation images (77777777) than those that the members held out.",
        ),
    ],
)
def test_the_sentence_depends_on_the_truth(fitted: dict[str, Any] | None, said: str) -> None:
    assert said_of_fits({"e.json": fitted}, MARK, "test") == said
    assert is_fitted_on(fitted, MARK) == (said == ALL)


def test_each_doubtful_file_is_named_and_the_others_are_not() -> None:
    said = said_of_fits({"a": None, "b": PROPER, "c": {**PROPER, "split": "test"}}, MARK, "test")
    assert said == BUT + "a does not say what it was fitted on; c was fitted on the test split."
    assert "that no member is known to have held out" in said_of_fits({"b": PROPER}, None, "test")
    assert said_of_fits({}, None, "test") == ALL


def test_scores_on_the_validation_split_itself_are_called_too_good() -> None:
    assert said_of_fits({}, MARK, "val").endswith("on others, what was fitted or chosen is not as good.")


def test_only_who_held_the_split_out_counts(knowing: "Zoo", tmp_path: Path, make_silent: Callable[[str], None]) -> None:
    np.savez(tmp_path / "o.npz", logits=knowing.logits("tiny-a"), labels=knowing.split.labels)
    make_silent("tiny-a")
    members, validation = parse_members(f"{tmp_path / 'o.npz'},tiny-a,tiny-b"), knowing.split_source("val")
    mark = knowing.entry("tiny-b").predictions().splits["val"].fingerprint
    assert [unseen(member, validation) for member in members] == [None, None, mark]
    assert held_out(members, validation) == mark
    assert held_out(members[:2], validation) is None
