"""Stored logits of many candidates, as one array."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.selection import CLASSES, file_entries
from ensemble.fit.pool import MissingViewsError, Pool, read_pool, views_of
from ensemble.members import Member, parse_members
from zoo.entry import Entry, write_entry
from zoo.errors import DataError, MenagerieError, NotFoundError, UsageError
from zoo.files import write_sums
from zoo.predictions import Predictions, SplitPredictions

BOTH = ("none", "flip")


@pytest.fixture
def filed(pool: Pool, tmp_path: Path) -> list[Member]:
    """The pool as entries, in no good order."""
    file_entries(pool, tmp_path)
    return [Member(name, Entry(name, tmp_path / name, str(tmp_path))) for name in reversed(pool.names)]


def test_filing_and_reading_a_pool_gives_it_back(pool: Pool, filed: list[Member]) -> None:
    found, entries, fingerprint = read_pool(filed, BOTH)
    assert (found.names, found.views, fingerprint) == (pool.names, BOTH, "0" * 64)
    assert list(entries) == list(pool.names)
    np.testing.assert_array_equal(found.logits, pool.logits)
    np.testing.assert_array_equal(found.labels, pool.labels)
    assert found.logits.dtype == np.float16


def test_only_the_views_that_are_asked_for_are_kept(pool: Pool, filed: list[Member]) -> None:
    found, _, _ = read_pool(filed, ("none",))
    assert found.views == ("none",)
    np.testing.assert_array_equal(found.logits, pool.logits[:, :1])


def test_the_test_split_does_not_matter(filed: list[Member], tmp_path: Path) -> None:
    """The same pool comes of entries whose test predictions are wrong, or not there."""
    before = read_pool(filed, BOTH)[0]
    rng = np.random.default_rng(0)
    for member in filed[:3]:
        assert isinstance(member.origin, Entry)
        val = member.origin.predictions().splits["val"]
        noise = {view: rng.standard_normal((40, 10)).astype(np.float16) for view in BOTH}
        test = SplitPredictions(noise, np.zeros(40, np.int64), member.name)
        stored = Predictions({"val": val, "test": test})
        write_entry(tmp_path / member.name, member.origin.card, b"weights", stored, replace=True)
    again = [Member(m.name, Entry(m.name, tmp_path / m.name, str(tmp_path))) for m in filed]
    np.testing.assert_array_equal(read_pool(again, BOTH)[0].logits, before.logits)


def test_probabilities_are_means_over_views(pool: Pool) -> None:
    temperatures = np.array([0.5, 3.0])
    found = pool.probs(np.array([4, 1]), "flip", temperatures)
    for row, (member, temperature) in enumerate(((4, 0.5), (1, 3.0))):
        powers = np.exp(pool.logits[member].astype(np.float64) / temperature)
        np.testing.assert_allclose(found[row], (powers / powers.sum(1, keepdims=True)).mean(0), rtol=1e-4, atol=1e-7)
    np.testing.assert_array_equal(pool.probs(slice(1, 5, 3), "flip", temperatures[::-1]), found[::-1])


def test_rows_are_images(pool: Pool) -> None:
    some = pool.rows(slice(0, None, 3))
    assert some.logits.shape == (7, 2, 10, 100)
    np.testing.assert_array_equal(some.labels, pool.labels[::3])


def test_views_of_several_sets_come_once() -> None:
    assert views_of(("none", "flip", "none")) == BOTH
    assert len(views_of(("flip+shift1", "crops5"))) == 10
    with pytest.raises(UsageError, match="did you mean 'flip'"):
        views_of(("flips",))


def spoil(filed: list[Member], change: Callable[[SplitPredictions], SplitPredictions | None], **card: object) -> None:
    """Write the last of the entries anew."""
    entry = filed[-1].origin
    assert isinstance(entry, Entry)
    val = change(entry.predictions().splits["val"])
    stored = Predictions({"val": val} if val else {})
    write_entry(entry.folder, replace(entry.card, **card), b"weights", stored, replace=True)  # type: ignore[arg-type]
    filed[-1] = Member(entry.name, Entry(entry.name, entry.folder, entry.source))


TRAINED = {"images": 1, "fingerprint": "1" * 64, "held_out": "7" * 64}


@pytest.mark.parametrize(
    ("change", "card", "kind", "says"),
    [
        (
            lambda _: None,
            {},
            NotFoundError,
            "'made-up-0000' cannot take part in a fit: no stored predictions for .* leave it out",
        ),
        (lambda val: val, {"trained_on": TRAINED}, DataError, "'made-up-0000' cannot take part"),
        (lambda val: val, {"trained_on": None}, DataError, "'made-up-0000' cannot take part"),
        (
            lambda val: replace(val, fingerprint="7" * 64),
            {"trained_on": TRAINED},
            DataError,
            "predictions for different validation images",
        ),
        (lambda val: val, {"classes": tuple(reversed(CLASSES))}, DataError, "same classes in the same order"),
        (
            lambda val: replace(val, views={"none": val.views["none"]}),
            {},
            NotFoundError,
            "of 1 candidate: run `ensemble eval --members made-up-0000 --tta flip --split val --data DIR --fresh`",
        ),
        (
            lambda val: replace(val, views={v: np.pad(z, ((0, 0), (0, 1))) for v, z in val.views.items()}),
            {},
            DataError,
            "do not fit its 10 classes",
        ),
    ],
)
def test_what_cannot_be_fitted_is_said(
    filed: list[Member],
    change: Callable[[SplitPredictions], SplitPredictions | None],
    card: dict[str, object],
    kind: type[MenagerieError],
    says: str,
) -> None:
    spoil(filed, change, **card)
    with pytest.raises(kind, match=says):
        read_pool(filed, BOTH)


def test_all_who_lack_views_are_in_one_command_a_view_set(filed: list[Member]) -> None:
    with pytest.raises(MissingViewsError) as caught:
        read_pool(filed[:3], ("none", "crops5", "flip+shift1"))
    names = ",".join(sorted(m.name for m in filed[:3]))
    assert str(caught.value) == (
        f"no stored predictions for --tta crops5 of 3 candidates: "
        f"run `ensemble eval --members {names} --tta crops5 --split val --data DIR --fresh`; "
        f"no stored predictions for --tta flip+shift1 of 3 candidates: "
        f"run `ensemble eval --members {names} --tta flip+shift1 --split val --data DIR --fresh` "
        "once, which keeps them (DIR has the training images)"
    )


def test_all_without_predictions_are_named(filed: list[Member]) -> None:
    for member in filed[1:3]:
        assert isinstance(member.origin, Entry)
        (member.origin.folder / "predictions.safetensors").unlink()
        (member.origin.folder / "SHA256SUMS").unlink()
        write_sums(member.origin.folder)
    again = [Member(m.name, Entry(m.name, m.origin.folder, "")) for m in filed if isinstance(m.origin, Entry)]
    silent = ", ".join(repr(name) for name in sorted(m.name for m in filed[1:3]))
    with pytest.raises(NotFoundError, match=f"^{silent} cannot take part in a fit: no stored .* leave them out"):
        read_pool(again, BOTH)


def test_the_shipped_entries_can_be_fitted() -> None:
    found, entries, fingerprint = read_pool(parse_members("fastnet-seed[1-5]"), BOTH)
    assert found.logits.shape == (5, 2, 10, 5000)
    assert {(entry.card.trained_on or {})["held_out"] for entry in entries.values()} == {fingerprint}
