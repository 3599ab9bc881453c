"""Stored evaluation: whose rows are merged, what is measured, and what is refused before anything is read."""

import json
import pickle
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pytest

import ensemble.evaluate
from ensemble.evaluate import SplitSource, common_dataset, file_vote, score, stored_ballots
from ensemble.members import Member
from ensemble.view_cache import keep_views
from tests.ensemble.conftest import DAMAGES
from zoo.data import Split, load_split
from zoo.entry import Entry
from zoo.errors import CorruptError, DataError, NotFoundError
from zoo.predictions import Predictions, SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

Array = npt.NDArray[np.float64]


def softmax(logits: npt.NDArray[Any]) -> Array:
    powers: Array = np.exp(logits.astype(np.float64))
    powers /= powers.sum(-1, keepdims=True)
    return powers


def write_predictions(
    zoo: "Zoo", name: str, change: Callable[[SplitPredictions], SplitPredictions], reseal: Callable[[Path], None]
) -> None:
    """Give an entry other predictions for the test split, with the right sums."""
    stored = zoo.entry(name).predictions().splits
    content = Predictions({**stored, "test": change(stored["test"])}).encode()
    (zoo.source / name / "predictions.safetensors").write_bytes(content)
    reseal(zoo.source / name)


def test_the_stored_rows_are_what_is_merged(zoo: "Zoo") -> None:
    ballots = stored_ballots(zoo.committee("tiny-a,tiny-b=2"), zoo.split_source())
    assert ballots.labels.tolist() == zoo.split.labels[zoo.split.order].tolist()
    for vote, name, weight in zip(ballots.votes, ("tiny-a", "tiny-b"), (1.0, 2.0), strict=True):
        views = zoo.entry(name).predictions().splits["test"].views
        np.testing.assert_array_equal(vote.logits, [views["none"], views["flip"]])
        assert list(vote.view_weights) == [0.5, 0.5]
        assert (vote.weight, vote.temperature) == (weight, 1.0)


def test_the_view_set_chooses_the_views(zoo: "Zoo") -> None:
    (vote,) = stored_ballots(zoo.committee("tiny-a", "none"), zoo.split_source()).votes
    np.testing.assert_array_equal(vote.logits, [zoo.entry("tiny-a").predictions().splits["test"].views["none"]])
    assert list(vote.view_weights) == [1.0]


def test_the_validation_split_has_rows_of_its_own(zoo: "Zoo") -> None:
    ballots = stored_ballots(zoo.committee("tiny-a"), zoo.split_source("val"))
    assert len(ballots.labels) == 10
    assert sorted(ballots.labels) == list(range(10))


def test_entries_alone_need_no_images(zoo: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **_options: object) -> Split:
        raise AssertionError("the images were read")

    monkeypatch.setattr(ensemble.evaluate, "load_split", refuse)
    assert len(stored_ballots(zoo.committee(), SplitSource("cifar10", "test")).labels) == 60
    with pytest.raises(AssertionError, match="were read"):
        _ = SplitSource("cifar10", "test").split


def test_a_split_is_read_once(zoo: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    reads: list[object] = []

    def count(dataset: str, split: str, folder: Path | None, **options: Any) -> Split:  # noqa: ANN401  # passed on
        reads.append(split)
        return load_split(dataset, split, folder, **options)

    monkeypatch.setattr(ensemble.evaluate, "load_split", count)
    source = zoo.split_source()
    assert source.split is source.split
    assert reads == ["test"]


@pytest.mark.parametrize("kind", ["logits", "probs"])
@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_a_file_of_a_networks_outputs_scores_as_the_entry_it_came_from(
    zoo: "Zoo", tmp_path: Path, suffix: str, kind: str
) -> None:
    from safetensors.numpy import save_file

    logits = zoo.logits("tiny-a")
    assert logits.std(0).min() > 0.02  # rows out of line would show
    values = logits if kind == "logits" else softmax(logits)
    path = tmp_path / f"same{suffix}"
    if suffix == ".npz":
        np.savez(path, allow_pickle=False, **{kind: values, "labels": zoo.split.labels})
    else:
        save_file({kind: values, "labels": zoo.split.labels}, path)
    committee = zoo.committee(f"tiny-a,{path}", "none")
    report = score(committee, stored_ballots(committee, zoo.split_source()), zoo.split_source(), source="stored")
    entry, file = report.members
    for key in ("accuracy", "nll", "ece"):
        assert file[key] == pytest.approx(entry[key], abs=1e-6)
    assert report.ensemble["nll"] == pytest.approx(entry["nll"], abs=1e-6)


def test_a_file_has_one_view_whatever_the_others_have(zoo: "Zoo", tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=zoo.logits("tiny-b"), labels=zoo.split.labels)
    ballots = stored_ballots(zoo.committee(f"tiny-a,{tmp_path / 'x.npz'}=3", "flip"), zoo.split_source())
    assert [vote.logits.shape for vote in ballots.votes] == [(2, 60, 10), (1, 60, 10)]
    assert ballots.votes[1].weight == 3
    np.testing.assert_allclose(
        ballots.votes[1].logits[0], zoo.entry("tiny-b").predictions().splits["test"].views["none"]
    )


def test_an_entry_is_no_prediction_file(zoo: "Zoo") -> None:
    with pytest.raises(TypeError, match="not a prediction file"):
        file_vote(Member("tiny-a", zoo.entry("tiny-a")), zoo.split)


def test_views_that_an_earlier_run_kept_are_used(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a", "flip+shift1")
    with pytest.raises(
        NotFoundError, match=r"'tiny-a' has no stored predictions for view 'shift-1-1' of --tta flip.shift1: run"
    ):
        stored_ballots(committee, zoo.split_source())
    names = ("shift-1-1", "flip+shift-1-1", "shift+1+1", "flip+shift+1+1")
    extra = {name: np.full((60, 10), i, np.float32) for i, name in enumerate(names)}
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, extra)
    (vote,) = stored_ballots(committee, zoo.split_source()).votes
    np.testing.assert_array_equal(vote.logits[2:, 0, 0], [0, 1, 2, 3])
    assert list(vote.view_weights) == [0.25, 0.25, 0.125, 0.125, 0.125, 0.125]


def test_kept_views_never_replace_published_ones(zoo: "Zoo") -> None:
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"flip": np.full((60, 10), 9.0, np.float32)})
    (vote,) = stored_ballots(zoo.committee("tiny-a", "flip"), zoo.split_source()).votes
    np.testing.assert_array_equal(vote.logits[1], zoo.entry("tiny-a").predictions().splits["test"].views["flip"])


def test_predictions_for_other_images_are_not_merged(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    write_predictions(zoo, "tiny-b", lambda stored: replace(stored, fingerprint="f" * 64), reseal)
    with pytest.raises(DataError, match=r"different test images: tiny-a \([0-9a-f]{8}\), tiny-b \(ffffffff\)"):
        stored_ballots(zoo.committee(), SplitSource("cifar10", "test"))
    with pytest.raises(DataError, match="--data"):
        stored_ballots(zoo.committee("tiny-b"), zoo.split_source())


def test_an_entry_without_predictions_asks_for_a_fresh_run(
    zoo: "Zoo", make_entry: Callable[..., Entry], tmp_path: Path
) -> None:
    make_entry(zoo.source, "bare")
    with pytest.raises(NotFoundError, match=r"bare has no predictions\.safetensors"):
        stored_ballots(zoo.committee("bare"), zoo.split_source())
    make_entry(zoo.source, "half", splits={"test": zoo.split})
    with pytest.raises(
        NotFoundError, match="'half' has no stored predictions for the val split: only `ensemble eval --fresh` runs"
    ):
        stored_ballots(zoo.committee("half"), zoo.split_source("val"))
    del tmp_path


@pytest.mark.parametrize(
    "change",
    [
        lambda s: replace(s, views={view: logits[:, :7] for view, logits in s.views.items()}),
        lambda s: replace(s, views={view: np.pad(logits, ((0, 0), (0, 3))) for view, logits in s.views.items()}),
        lambda s: replace(s, labels=np.where(s.labels == 3, 17, s.labels)),
        lambda s: replace(s, labels=s.labels[:0], views={view: logits[:0] for view, logits in s.views.items()}),
    ],
    ids=["columns missing", "columns too many", "a label too high", "no rows"],
)
def test_predictions_that_do_not_fit_the_card_are_refused(
    zoo: "Zoo", change: Callable[[SplitPredictions], SplitPredictions], reseal: Callable[[Path], None]
) -> None:
    write_predictions(zoo, "tiny-a", change, reseal)
    with pytest.raises(CorruptError, match=r"tiny-a.*(10 classes|is not a predictions file)"):
        stored_ballots(zoo.committee("tiny-a"), SplitSource("cifar10", "test"))


def damage_predictions_file(zoo: "Zoo", change: Callable[[dict[str, Any]], object]) -> bytes:
    """Return tiny-a's predictions with its tensors changed and the metadata kept."""
    from safetensors.numpy import load, save

    content = (zoo.source / "tiny-a" / "predictions.safetensors").read_bytes()
    tensors = load(content)
    change(tensors)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    return save(tensors, metadata=header["__metadata__"])


@pytest.mark.parametrize(
    "change",
    [
        lambda t: t.update({"test.none": np.full((60, 10), np.nan, np.float16)}),
        lambda t: t.update({"test.flip": np.full((60, 10), np.inf, np.float16)}),
        lambda t: t.update({"test.flip": t["test.flip"][:30]}),
        lambda t: t.update({"test.labels": t["test.labels"][:30]}),
        lambda t: t.pop("test.labels"),
        lambda t: (t.pop("test.none"), t.pop("test.flip")),
    ],
    ids=["NaN", "infinity", "half a view", "half the labels", "no labels", "no views"],
)
def test_senseless_predictions_with_the_right_sums_are_refused(
    zoo: "Zoo", change: Callable[[dict[str, Any]], object], reseal: Callable[[Path], None]
) -> None:
    content = damage_predictions_file(zoo, change)
    (zoo.source / "tiny-a" / "predictions.safetensors").write_bytes(content)
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match=r"predictions\.safetensors is not a predictions file"):
        stored_ballots(zoo.committee("tiny-a"), zoo.split_source())


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_predictions_are_caught_before_anything_is_read(
    zoo: "Zoo", how: str, tear: dict[str, Callable[[Path], object]], loads: list[str]
) -> None:
    committee = zoo.committee("tiny-a")
    tear[how](zoo.source / "tiny-a" / "predictions.safetensors")
    with pytest.raises(CorruptError, match=r"tiny-a/predictions\.safetensors"):
        stored_ballots(committee, zoo.split_source())
    assert loads == []


def test_good_predictions_do_reach_the_reader(zoo: "Zoo", loads: list[str]) -> None:
    stored_ballots(zoo.committee("tiny-a"), SplitSource("cifar10", "test"))
    assert loads == ["safetensors.numpy.load"]


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_even_with_the_right_sums(
    zoo: "Zoo", protocol: int, reseal: Callable[[Path], None], loads: list[str]
) -> None:
    (zoo.source / "tiny-a" / "predictions.safetensors").write_bytes(pickle.dumps({"x": [1] * 99}, protocol))
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match="is a pickle, not a safetensors file"):
        stored_ballots(zoo.committee("tiny-a"), zoo.split_source())
    assert loads == []


def test_members_of_one_dataset(zoo: "Zoo") -> None:
    members = list(zoo.committee("tiny-*").members)
    file = Member("x.npz", Path("x.npz"))
    assert common_dataset([*members, file]) == "cifar10"
    assert common_dataset([file], "cifar100") == "cifar100"
    assert common_dataset([file]) == "cifar10"


@pytest.mark.parametrize(
    ("dataset", "classes"),
    [
        ("cifar100", tuple(f"class{c}" for c in range(100))),
        ("cifar10", ("cat", "dog", "cow")),
        ("cifar10", ("truck", "ship", "horse", "frog", "dog", "deer", "cat", "bird", "automobile", "airplane")),
    ],
)
def test_members_with_other_classes_are_refused(
    zoo: "Zoo", make_entry: Callable[..., Entry], dataset: str, classes: tuple[str, ...]
) -> None:
    make_entry(zoo.source, "stranger", dataset=dataset, classes=classes)
    ours, theirs = (
        r"'tiny-a' has 10 of cifar10 \(airplane, ",
        rf"'stranger' has {len(classes)} of {dataset} \({classes[0]}, ",
    )
    with pytest.raises(DataError, match=f"same classes.*{ours}.*{theirs}"):
        common_dataset(zoo.committee("tiny-a,stranger").members)


def test_stored_evaluation_never_imports_torch(zoo: "Zoo", tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=zoo.logits("tiny-b"), labels=zoo.split.labels)
    program = (
        "import sys\n"
        "from ensemble.cli import group\n"
        "from zoo.cli.group import run\n"
        "code = run(group, sys.argv[1:])\n"
        "print('torch' in sys.modules, 'safetensors.numpy' in sys.modules, file=sys.stderr)\n"
        "sys.exit(code)\n"
    )
    words = ["eval", "--members", f"tiny-*,{tmp_path / 'x.npz'}", "--tta", "flip", "--data", str(zoo.data)]
    done = subprocess.run([sys.executable, "-c", program, *words], capture_output=True, text=True, check=True)
    assert done.stderr == "False True\n"
    assert "ensemble of 4" in done.stdout
