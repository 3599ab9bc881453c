"""Fresh runs: the networks' outputs in the right rows, and nothing run that would fail later."""

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
import pytest
import torch

from ensemble.evaluate import Ballots, score, stored_ballots
from ensemble.fresh import fresh_ballots, keep_ballots
from ensemble.lockfile import Committee
from ensemble.view_cache import cached_views
from tests.ensemble.conftest import DAMAGES
from tta import view_set
from zoo.data import Split
from zoo.entry import WEIGHTS, Entry
from zoo.errors import CorruptError, DataError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CPU = torch.device("cpu")


def by_hash(split: Split, limit: int) -> list[int]:
    """Row numbers of the first `limit` images, sorted as stored predictions are: by the sha256 of the pixels."""
    return sorted(range(limit), key=lambda i: bytes(split.hashes[i]))


def plain_outputs(entry: Entry, images: npt.NDArray[np.uint8]) -> npt.NDArray[np.float32]:
    """Run a network on one image after the other, without anything of `tta`."""
    net, rows = entry.load(), []
    mean, std = (torch.tensor(values)[:, None, None] for values in (entry.card.mean, entry.card.std))
    with torch.inference_mode():
        for image in images:
            pixels = torch.from_numpy(image).permute(2, 0, 1).float() / 255
            rows.append(net(((pixels - mean) / std)[None])[0].numpy())
    return np.stack(rows)


def file_of(zoo: "Zoo", name: str, path: Path) -> Path:
    """Write a network's plain outputs as a prediction file, rows in the split's own order."""
    np.savez(path, logits=plain_outputs(zoo.entry(name), zoo.split.images), labels=zoo.split.labels)
    return path


def test_fresh_is_stored_within_half_precision(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a,tiny-b=2", "flip")
    fresh = fresh_ballots(committee, zoo.split_source(), device=CPU)
    keep_ballots(committee, fresh, zoo.split_source())
    stored = stored_ballots(committee, zoo.split_source())
    assert fresh.labels.tolist() == stored.labels.tolist()
    for run, kept in zip(fresh.votes, stored.votes, strict=True):
        assert run.logits.shape == (2, 60, 10)
        assert run.logits.dtype == np.float32
        np.testing.assert_allclose(run.logits, kept.logits.astype(np.float32), rtol=2**-10, atol=1e-4)
        assert (run.weight, list(run.view_weights)) == (kept.weight, list(kept.view_weights))
        assert run.logits.std(1).min() > 0.02  # rows out of line would show,
        assert np.abs(run.logits[0] - run.logits[1]).mean() > 0.002  # and so would views
    reports = [score(committee, b, zoo.split_source(), source="x").ensemble for b in (fresh, stored)]
    assert reports[0]["nll"] == pytest.approx(reports[1]["nll"], abs=1e-3)
    assert reports[0]["brier"] == pytest.approx(reports[1]["brier"], abs=1e-3)


def test_rows_are_the_networks_outputs_on_the_images_of_their_labels(zoo: "Zoo") -> None:
    ballots = fresh_ballots(zoo.committee("tiny-c", "none"), zoo.split_source(), device=CPU)
    rows = by_hash(zoo.split, 60)
    wanted = plain_outputs(zoo.entry("tiny-c"), zoo.split.images[rows])
    np.testing.assert_allclose(ballots.votes[0].logits[0], wanted, atol=1e-4)
    assert ballots.labels.tolist() == zoo.split.labels[rows].tolist()


@pytest.mark.parametrize("limit", [1, 7, 59, 60, 1000])
def test_limit_runs_the_first_images_of_the_splits_own_order(zoo: "Zoo", tmp_path: Path, limit: int) -> None:
    path = file_of(zoo, "tiny-b", tmp_path / "b.npz")
    committee = zoo.committee(f"tiny-b,{path}=2", "none")
    ballots = fresh_ballots(committee, zoo.split_source(), device=CPU, limit=limit)
    rows = by_hash(zoo.split, min(limit, 60))
    wanted = plain_outputs(zoo.entry("tiny-b"), zoo.split.images[rows])
    assert ballots.labels.tolist() == zoo.split.labels[rows].tolist()
    for vote in ballots.votes:
        np.testing.assert_allclose(vote.logits, wanted[None], atol=1e-4)


def test_a_file_scores_as_the_entry_it_came_from(zoo: "Zoo", tmp_path: Path) -> None:
    path = file_of(zoo, "tiny-a", tmp_path / "a.npz")
    committee = zoo.committee(f"tiny-a,{path}", "none")
    for limit in (None, 13):
        ballots = fresh_ballots(committee, zoo.split_source(), device=CPU, limit=limit)
        entry, file = score(committee, ballots, zoo.split_source(), source="fresh").members
        for key in ("accuracy", "nll", "ece"):
            assert file[key] == pytest.approx(entry[key], abs=1e-4)


def test_twins_among_the_images_keep_labels_and_rows_together(
    zoo: "Zoo", tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    images = zoo.split.images[[0, 1, 0, 2, 0, 1]]
    twins = Split(images, np.array([5, 1, 3, 2, 4, 1]), zoo.split.classes)
    source = zoo.split_source()
    monkeypatch.setattr(type(source), "split", twins)
    outputs = plain_outputs(zoo.entry("tiny-a"), images)
    np.savez(tmp_path / "a.npz", logits=outputs, labels=twins.labels)
    committee = zoo.committee(f"tiny-a,{tmp_path / 'a.npz'}", "none")
    for limit in (3, 4, 6):
        entry, file = (ballots := fresh_ballots(committee, source, device=CPU, limit=limit)).votes
        np.testing.assert_allclose(file.logits, entry.logits, atol=1e-4)
        assert sorted(ballots.labels) == sorted(twins.labels[:limit])


def test_files_alone(zoo: "Zoo", tmp_path: Path) -> None:
    path = file_of(zoo, "tiny-a", tmp_path / "a.npz")
    committee = zoo.committee(str(path), "flip")
    fresh = fresh_ballots(committee, zoo.split_source(), device=CPU)
    np.testing.assert_array_equal(fresh.votes[0].logits, stored_ballots(committee, zoo.split_source()).votes[0].logits)


def test_each_member_is_run_with_the_statistics_of_its_own_card(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    config = zoo.source / "tiny-b" / "config.json"
    text = config.read_text(encoding="utf-8")
    shutil.copy(zoo.source / "tiny-a" / WEIGHTS, zoo.source / "tiny-b" / WEIGHTS)
    config.write_text(text.replace("0.25", "0.5"), encoding="utf-8")
    reseal(zoo.source / "tiny-b")
    first, second = fresh_ballots(zoo.committee("tiny-a,tiny-b", "none"), zoo.split_source(), device=CPU).votes
    assert np.abs(first.logits - second.logits).max() > 0.05
    wanted = plain_outputs(zoo.entry("tiny-b"), zoo.split.images[by_hash(zoo.split, 60)])
    np.testing.assert_allclose(second.logits[0], wanted, atol=1e-4)


def test_bf16_is_about_the_same(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a", "none")
    full, half = (
        fresh_ballots(committee, zoo.split_source(), device=CPU, precision=precision).votes[0].logits
        for precision in ("fp32", "bf16")
    )
    assert 0 < np.abs(full - half).max() < 0.3 * np.ptp(full)
    assert half.dtype == np.float32


def test_progress_counts_every_image_of_every_network(zoo: "Zoo", tmp_path: Path) -> None:
    seen: list[tuple[int, str]] = []
    path = file_of(zoo, "tiny-c", tmp_path / "c.npz")
    fresh_ballots(
        zoo.committee(f"tiny-a,{path},tiny-b", "flip"),
        zoo.split_source(),
        device=CPU,
        limit=11,
        progress=lambda done, name: seen.append((done, name)),
    )
    assert seen == [(11, "tiny-a"), (11, "tiny-b")]


def test_other_views_are_kept_for_stored_runs(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-a,tiny-b", "flip+shift1")
    fresh = fresh_ballots(committee, zoo.split_source(), device=CPU)
    keep_ballots(committee, fresh, zoo.split_source())
    stored = stored_ballots(committee, zoo.split_source())
    for run, kept in zip(fresh.votes, stored.votes, strict=True):
        assert run.logits.shape == kept.logits.shape == (6, 60, 10)
        np.testing.assert_allclose(run.logits, kept.logits.astype(np.float32), rtol=2**-10, atol=1e-4)
    kept_names = set(cached_views(zoo.entry("tiny-a"), "test", zoo.split.fingerprint))
    assert kept_names == {view.name for view in view_set("flip+shift1")} - {"none", "flip"}


def test_published_views_are_not_kept(zoo: "Zoo", zoo_home: Path) -> None:
    committee = zoo.committee("tiny-a", "flip")
    keep_ballots(committee, fresh_ballots(committee, zoo.split_source(), device=CPU), zoo.split_source())
    assert not (zoo_home / "views").exists()


def run(zoo: "Zoo", committee: Committee) -> Ballots:
    """Run a committee that must fail before any network sees an image."""

    def refuse(done: int, name: str) -> None:
        raise AssertionError(f"{name} ran over {done} images")

    return fresh_ballots(committee, zoo.split_source(), device=CPU, progress=refuse)


@pytest.mark.parametrize("how", DAMAGES)
def test_damaged_weights_are_caught_before_anything_is_loaded(
    zoo: "Zoo", how: str, tear: dict[str, Callable[[Path], object]], loads: list[str]
) -> None:
    tear[how](zoo.source / "tiny-a" / WEIGHTS)
    with pytest.raises(CorruptError, match=r"tiny-a/model\.safetensors"):
        run(zoo, zoo.committee("tiny-a"))
    assert loads == []


def test_good_weights_do_reach_the_loader(zoo: "Zoo", loads: list[str]) -> None:
    fresh_ballots(zoo.committee("tiny-a"), zoo.split_source(), device=CPU, limit=1)
    assert set(loads) == {"torch.frombuffer"}


def test_the_last_member_is_checked_before_the_first_one_runs(
    zoo: "Zoo", tear: dict[str, Callable[[Path], object]]
) -> None:
    tear["bit flipped in the middle"](zoo.source / "tiny-c" / WEIGHTS)
    with pytest.raises(CorruptError, match="is damaged"):
        run(zoo, zoo.committee("tiny-*"))


def test_a_bad_file_is_found_before_a_network_runs(zoo: "Zoo", tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", logits=np.full((60, 10), np.nan), labels=zoo.split.labels)
    with pytest.raises(DataError, match="not finite"):
        run(zoo, zoo.committee(f"tiny-a,{tmp_path / 'x.npz'}"))


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_is_refused_even_with_the_right_sums(
    zoo: "Zoo", protocol: int, reseal: Callable[[Path], None], loads: list[str]
) -> None:
    (zoo.source / "tiny-a" / WEIGHTS).write_bytes(pickle.dumps({"weight": [0.0] * 99}, protocol))
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match="is a pickle, not a safetensors file"):
        run(zoo, zoo.committee("tiny-a"))
    assert loads == []


def test_a_torch_file_is_refused_even_with_the_right_sums(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    torch.save(zoo.entry("tiny-a").load().state_dict(), zoo.source / "tiny-a" / WEIGHTS)
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match="is a pickle, not a safetensors file"):
        run(zoo, zoo.committee("tiny-a"))


@pytest.mark.parametrize("keep", [0.3, 0.999])
def test_truncated_weights_with_the_right_sums(zoo: "Zoo", keep: float, reseal: Callable[[Path], None]) -> None:
    path = zoo.source / "tiny-a" / WEIGHTS
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content))])
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match="safetensors file"):
        run(zoo, zoo.committee("tiny-a"))


def test_weights_of_another_architecture_with_the_right_sums(zoo: "Zoo", reseal: Callable[[Path], None]) -> None:
    from safetensors.torch import save_file

    save_file({"fc.weight": torch.zeros(10, 3)}, zoo.source / "tiny-a" / WEIGHTS)
    reseal(zoo.source / "tiny-a")
    with pytest.raises(CorruptError, match="does not hold a fastnet"):
        run(zoo, zoo.committee("tiny-a"))


@pytest.mark.parametrize("views", ["none", "flip+shift1"])
def test_a_network_that_gives_nan_is_an_error_and_nothing_is_kept(
    zoo: "Zoo", zoo_home: Path, views: str, reseal: Callable[[Path], None]
) -> None:
    from safetensors.torch import load_file, save_file

    path = zoo.source / "tiny-a" / WEIGHTS
    tensors = {k: torch.full_like(v, torch.nan) if v.is_floating_point() else v for k, v in load_file(path).items()}
    save_file(tensors, path)
    reseal(zoo.source / "tiny-a")
    with pytest.raises(DataError, match="'tiny-a' gives logits that are not finite"):
        fresh_ballots(zoo.committee("tiny-a", views), zoo.split_source(), device=CPU)
    assert not (zoo_home / "views").exists()


def test_images_of_other_classes_or_sizes_are_refused(
    zoo: "Zoo", make_entry: Callable[..., Entry], monkeypatch: pytest.MonkeyPatch
) -> None:
    make_entry(zoo.source, "reversed", classes=zoo.split.classes[::-1])
    make_entry(zoo.source, "three", classes=("cat", "dog", "cow"))
    for name in ("reversed", "three"):
        with pytest.raises(DataError, match=f"'{name}'.*classes"):
            run(zoo, zoo.committee(name))
    source = zoo.split_source()
    larger = Split(np.zeros((10, 64, 64, 3), np.uint8), np.arange(10), zoo.split.classes)
    monkeypatch.setattr(type(source), "split", larger)
    with pytest.raises(DataError, match="'tiny-a' takes 32 x 32 pixels, the data has 64 x 64"):
        run(zoo, zoo.committee("tiny-a"))


@pytest.mark.gpu
def test_a_gpu_gives_the_same(zoo: "Zoo") -> None:
    committee = zoo.committee("tiny-*", "flip")
    fresh = fresh_ballots(committee, zoo.split_source(), device=torch.device("cuda"))
    stored = stored_ballots(committee, zoo.split_source())
    for run_, kept in zip(fresh.votes, stored.votes, strict=True):
        np.testing.assert_allclose(run_.logits, kept.logits.astype(np.float32), atol=0.05)
