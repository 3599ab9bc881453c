"""A run's folder: whole files or none, one job a folder, and damage that is named."""

import csv
import errno
import hashlib
import json
import os
import pickle
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from tests.training.conftest import fastnet_recipe, rich_recipe, toy_job, toy_split
from training.job import Job
from training.recipe import Augment, Optimizer, ParamGroup, Schedule
from training.recipe_file import parse_recipe
from training.run import RunFolder
from zoo.data import Split
from zoo.errors import CorruptError, StorageError, UsageError

ROWS = [{"epoch": 1, "train_loss": 2.25, "val_accuracy": 0.5}, {"epoch": 2, "train_loss": 1.5, "val_accuracy": 0.75}]
FILES = ["metrics.csv", "recipe.toml", "run.json", "state.pt"]


@pytest.fixture(scope="module")
def job() -> Job:
    return toy_job(fastnet_recipe())


def state(step: int) -> dict[str, Any]:
    return {"step": step, "net": {"weight": torch.arange(4.0) + step}, "rng": torch.get_rng_state()}


def test_new_folder_is_made_and_empty(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path / "deep" / "run", job)
    assert run.load() is None
    assert run.step() == 0
    about = json.loads((run.path / "run.json").read_text(encoding="utf-8"))
    assert about["seed"] == 0
    in_order = hashlib.sha256(job.part.hashes.tobytes() + job.part.labels.tobytes()).hexdigest()
    assert about["data"] == in_order
    assert about["recipe"]["batch_size"] == 8
    assert sorted(p.name for p in run.path.iterdir()) == ["recipe.toml", "run.json"]


def test_saved_state_comes_back(job: Job, tmp_path: Path) -> None:
    saved = state(7)
    RunFolder(tmp_path, job).save(saved, ROWS)
    again = RunFolder(tmp_path, job)
    loaded = again.load()
    assert again.step() == 7
    assert loaded is not None
    assert loaded["rows"] == ROWS
    assert torch.equal(loaded["net"]["weight"], saved["net"]["weight"])
    assert torch.equal(loaded["rng"], saved["rng"])


def test_the_last_save_counts(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(3), ROWS[:1])
    run.save(state(9), ROWS)
    assert run.step() == 9
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == FILES


def test_metrics_have_a_row_for_each_epoch(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(1), [])
    assert not (tmp_path / "metrics.csv").exists()
    run.save(state(3), ROWS)
    assert (tmp_path / "metrics.csv").read_bytes() == b"epoch,train_loss,val_accuracy\n1,2.25,0.5\n2,1.5,0.75\n"
    with (tmp_path / "metrics.csv").open(encoding="utf-8", newline="") as file:
        assert [{k: float(v) for k, v in row.items()} for row in csv.DictReader(file)] == ROWS


def test_metrics_older_than_the_state_are_brought_up_to_date(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(1), ROWS[:1])
    stale = (tmp_path / "metrics.csv").read_bytes()
    run.save(state(2), ROWS)
    complete = (tmp_path / "metrics.csv").read_bytes()
    (tmp_path / "metrics.csv").write_bytes(stale)  # as if killed between the two files
    RunFolder(tmp_path, job).load()
    assert (tmp_path / "metrics.csv").read_bytes() == complete != stale


def test_a_full_disk_leaves_the_older_state(job: Job, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(3), ROWS[:1])
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}

    def full(_handle: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(StorageError, match="No space left on device"):
            run.save(state(9), ROWS)
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert run.step() == 3


def test_a_state_that_was_never_renamed_is_not_seen(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(3), ROWS[:1])
    (tmp_path / ".state.pt.killed").write_bytes((tmp_path / "state.pt").read_bytes()[:100])
    assert RunFolder(tmp_path, job).step() == 3


def relabelled(split: Split) -> Split:
    labels = split.labels.copy()
    labels[0] = (labels[0] + 1) % len(split.classes)
    return replace(split, labels=labels)


@pytest.mark.parametrize(
    "change",
    [
        lambda job: replace(job, seed=1),
        lambda job: replace(job, part=toy_split(34, seed=9)),
        lambda job: replace(job, part=job.part.subset(slice(33))),
        lambda job: replace(job, part=relabelled(job.part)),
        lambda job: replace(job, recipe=fastnet_recipe(epochs=3)),
        lambda job: replace(job, recipe=fastnet_recipe(augment=Augment("random", 2))),
        lambda job: replace(job, recipe=fastnet_recipe(arch_args={"widths": [8, 8, 16]})),
        lambda job: replace(job, recipe=fastnet_recipe(groups=(ParamGroup("*", Optimizer(0.1), Schedule()),))),
        lambda job: replace(job, recipe=fastnet_recipe(clip_norm=1.0)),
        lambda job: replace(job, val=toy_split(15, seed=9, size=26)),
        lambda job: replace(job, mean=(0.5, 0.5, 0.5)),
        lambda job: replace(job, teacher="somebody@0123"),
    ],
    ids=[
        *("seed", "images", "fewer", "label", "epochs", "augment", "arch_args", "groups", "clip"),
        *("validation", "mean", "teacher"),
    ],
)
def test_another_job_is_refused_and_harms_nothing(job: Job, tmp_path: Path, change: Callable[[Job], Job]) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(3), ROWS)
    before = {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()}
    with pytest.raises(
        UsageError, match=r"another recipe, seed, data or teacher: delete it, or give another --run-dir"
    ):
        RunFolder(tmp_path, change(job))
    assert {p.name: p.read_bytes() for p in tmp_path.iterdir() if p.is_file()} == before
    assert RunFolder(tmp_path, toy_job(fastnet_recipe())).step() == 3


class _Payload:
    """A pickle that makes a file when it is loaded."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.path,)


@pytest.mark.parametrize("damage", ["empty", "truncated", "overwritten", "pickle", "torch-pickle"])
def test_damaged_state_is_named_and_never_run(job: Job, tmp_path: Path, damage: str) -> None:
    run = RunFolder(tmp_path, job)
    run.save(state(3), ROWS)
    path, ran = tmp_path / "state.pt", tmp_path / "ran"
    content = path.read_bytes()
    if damage == "torch-pickle":
        torch.save({"step": _Payload(ran)}, path)
    else:
        path.write_bytes(
            {
                "empty": b"",
                "truncated": content[: len(content) // 2],
                "overwritten": b"\0" * len(content),
                "pickle": pickle.dumps(_Payload(ran)),
            }[damage]
        )
    with pytest.raises(CorruptError, match=r"state\.pt is damaged: delete .* to train from the start") as raised:
        run.load()
    assert "\n" not in str(raised.value)
    assert not ran.exists()


def test_a_file_in_the_folders_place_is_a_storage_error(job: Job, tmp_path: Path) -> None:
    (tmp_path / "run").write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write"):
        RunFolder(tmp_path / "run", job)


def test_the_same_images_in_another_order_are_another_run(job: Job, tmp_path: Path) -> None:
    RunFolder(tmp_path, job).save(state(7), ROWS)
    turned = replace(job, part=job.part.subset(np.arange(len(job.part))[::-1]))
    assert turned.part.fingerprint == job.part.fingerprint
    with pytest.raises(UsageError, match="another recipe, seed, data or teacher"):
        RunFolder(tmp_path, turned)


def test_a_folder_without_state_can_be_used_again(job: Job, tmp_path: Path) -> None:
    RunFolder(tmp_path, job)
    other = RunFolder(tmp_path, replace(job, seed=5))
    assert json.loads((other.path / "run.json").read_text(encoding="utf-8"))["seed"] == 5


def test_a_state_without_metrics_is_damage(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    torch.save({"step": 3}, tmp_path / "state.pt")
    with pytest.raises(CorruptError, match=r"state\.pt is damaged"):
        run.load()


def test_a_description_that_is_no_text_is_another_run(job: Job, tmp_path: Path) -> None:
    RunFolder(tmp_path, job).save(state(7), ROWS)
    (tmp_path / "run.json").write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="another recipe, seed, data or teacher"):
        RunFolder(tmp_path, job)


def test_what_a_kill_left_is_cleared_away(job: Job, tmp_path: Path) -> None:
    RunFolder(tmp_path, job).save(state(7), ROWS)
    (tmp_path / ".state.pt.a1b2").write_bytes(b"half a state")
    assert RunFolder(tmp_path, job).step() == 7
    assert not list(tmp_path.glob(".*"))


def test_the_resolved_recipe_is_kept_and_can_be_read(tmp_path: Path) -> None:
    recipe = rich_recipe()
    RunFolder(tmp_path, toy_job(recipe))
    assert parse_recipe("rich", (tmp_path / "recipe.toml").read_text(encoding="utf-8")) == recipe


def test_rows_are_those_of_the_metrics(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    assert run.rows() == []
    run.save(state(3), ROWS)
    assert run.rows() == ROWS


def test_a_network_that_was_kept_comes_back(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    kept, other = torch.nn.Linear(3, 2), torch.nn.Linear(3, 2)
    run.save_network("snapshot1", kept)
    run.load_network("snapshot1", other)
    assert torch.equal(other.weight, kept.weight)
    with pytest.raises(CorruptError, match=r"snapshot2\.pt is damaged: delete"):
        run.load_network("snapshot2", other)
    (tmp_path / "snapshot1.pt").write_bytes(b"")
    with pytest.raises(CorruptError, match=r"snapshot1\.pt is damaged: delete"):
        run.load_network("snapshot1", other)


def test_a_kept_network_of_another_architecture_is_damage(job: Job, tmp_path: Path) -> None:
    run = RunFolder(tmp_path, job)
    run.save_network("snapshot1", torch.nn.Linear(3, 2))
    with pytest.raises(CorruptError, match=r"snapshot1\.pt is damaged: delete"):
        run.load_network("snapshot1", torch.nn.Linear(4, 2))
