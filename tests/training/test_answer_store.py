"""Stored answers: those of the teacher to the very images a student sees, whenever and however often it is stopped."""

import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import CPU, fastnet_recipe, toy_job
from training import answer_store
from training.answer_store import AnswerStore
from training.augment import Batches
from training.job import Job
from training.recipe import Augment
from zoo.errors import CorruptError, InterruptedRun, MenagerieError, StorageError, UsageError

ABOUT = {"members": ["big@0123"]}


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(answer_store, "_BATCH", 8)


def job_with(**changes: Any) -> Job:  # noqa: ANN401
    return toy_job(fastnet_recipe(augment=replace(Augment("alternating", 2), **changes)))


def teacher() -> nn.Module:
    torch.manual_seed(5)
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * 26 * 26, 3)).eval()


class Counting:
    """A teacher that counts what it is asked, and stops being asked at some point."""

    def __init__(self, images: int = 10**9) -> None:
        self.net, self.asked, self.images = teacher(), 0, images

    def __call__(self, images: Tensor) -> Tensor:
        self.asked += len(images)
        out: Tensor = self.net(images)
        return out

    def enough(self) -> bool:
        return self.asked >= self.images


def files(store: AnswerStore) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(store.path.glob("*.npz"))}


@pytest.mark.parametrize("both", [False, True])
def test_they_are_what_the_teacher_would_say_of_what_the_student_sees(both: bool, tmp_path: Path) -> None:
    job, net = job_with(), teacher()
    store = AnswerStore(tmp_path, job, ABOUT, both_sides=both)
    store.fill(net, range(3), device=CPU)
    answers = store.load(3, CPU)
    assert answers.logits.shape == (3, 1 + both, 34, 3)
    batches = Batches(job.part, job.recipe.augment, 8, 1, *job.stats, CPU, answers=answers)
    sides = set()
    for epoch in range(4):
        for images, _, said in batches.taught(epoch):
            assert said is not None
            fits = [torch.isclose(net(seen), said, atol=4e-3).all(1) for seen in (images, images.flip(3))]
            assert bool((fits[0] if both else fits[0] | fits[1]).all())
            sides |= {bool(fit) for fit in fits[0]}
    assert sides == ({True} if both else {True, False})


def test_a_run_that_is_stopped_goes_on_with_the_same_bits(tmp_path: Path) -> None:
    job = job_with()
    whole = AnswerStore(tmp_path / "whole", job, ABOUT, both_sides=True)
    whole.fill(teacher(), range(3), device=CPU)
    assert whole.done(3) == 3 * 34
    counted, done, said_why = 0, 0, set[str]()
    store = AnswerStore(tmp_path / "parts", job, ABOUT, both_sides=True)
    for _ in range(50):
        asked = Counting(images=2 * 8)
        said: list[int] = []
        try:
            store.fill(asked, range(3), device=CPU, stop=asked.enough, progress=said.append)
        except InterruptedRun as error:
            said_why.add(str(error))
        counted += asked.asked
        done += sum(said)
        assert done == store.done(3)
        if done == 3 * 34:
            break
    assert counted == 2 * 3 * 34  # nothing twice
    assert said_why == {f"stopped; the answers so far are in {store.path}"}
    assert files(store) == files(whole)
    assert store.load(3, CPU).digest == whole.load(3, CPU).digest


def test_what_is_killed_loses_no_more_than_what_was_not_saved(tmp_path: Path) -> None:
    job = job_with()
    store = AnswerStore(tmp_path, job, ABOUT, both_sides=False)

    def dies(images: Tensor) -> Tensor:
        if store.done(1) == 16:
            raise KeyboardInterrupt
        return teacher()(images)  # type: ignore[no-any-return]  # a module's call

    with pytest.raises(KeyboardInterrupt):
        store.fill(dies, range(2), device=CPU, save_every=0.0)
    assert store.done(2) == 16
    store.fill(teacher(), range(2), device=CPU)
    whole = AnswerStore(tmp_path / "whole", job, ABOUT, both_sides=False)
    whole.fill(teacher(), range(2), device=CPU)
    assert files(store) == files(whole)


def test_more_crops_add_to_those_there_are_and_nothing_is_asked_twice(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, job_with(), ABOUT, both_sides=False)
    for crops, asked in ((2, 2 * 34), (5, 3 * 34), (3, 0)):
        teaching = Counting()
        store.fill(teaching, range(crops), device=CPU)
        assert teaching.asked == asked
    few, many = store.load(2, CPU), store.load(5, CPU)
    assert len(many) == 5
    assert torch.equal(few.logits, many.logits[:2])
    assert torch.equal(few.offsets, many.offsets[:2])
    assert few.digest != many.digest


def test_processes_at_once_ask_for_each_crop_once(tmp_path: Path) -> None:
    job = job_with()
    asked = [Counting(), Counting()]

    def fill(mine: Counting) -> None:
        def slow(images: Tensor) -> Tensor:
            time.sleep(0.01)
            return mine(images)

        AnswerStore(tmp_path, job, ABOUT, both_sides=False).fill(slow, range(3), device=CPU)

    threads = [threading.Thread(target=fill, args=(mine,)) for mine in asked]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert sum(mine.asked for mine in asked) == 3 * 34
    assert AnswerStore(tmp_path, job, ABOUT, both_sides=False).done(3) == 3 * 34


def test_waiting_for_another_process_can_be_stopped(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, job_with(), ABOUT, both_sides=False)
    with store._turn(0, lambda: False), pytest.raises(InterruptedRun, match=r"^stopped; the answers so far are in"):
        store.fill(teacher(), range(1), device=CPU, stop=lambda: True)


def test_each_teacher_image_set_and_augmentation_has_a_folder_of_its_own(tmp_path: Path) -> None:
    def folder(job: Job, about: Any = ABOUT, both: bool = False) -> Path:  # noqa: ANN401
        return AnswerStore(tmp_path, job, about, both_sides=both).path

    others = [
        folder(job_with()),
        folder(job_with(), {"members": ["small"]}),
        folder(job_with(), both=True),
        folder(job_with(crop_padding=1)),
        folder(job_with(crop_fill="zeros")),
        folder(toy_job(job_with().recipe, images=35)),
    ]
    assert len(set(others)) == len(others)
    assert folder(toy_job(job_with().recipe, seed=9)) == others[0]  # seeds share
    assert folder(job_with(flip="random"), both=False) == others[0]
    assert folder(job_with(flip="none"), both=True) == others[0]  # no mirror images are shown


def test_what_cannot_be_stored_or_used_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"augment\.cutout"):
        AnswerStore(tmp_path, job_with(cutout=3), ABOUT, both_sides=False)
    store = AnswerStore(tmp_path, job_with(), ABOUT, both_sides=False)
    with pytest.raises(UsageError, match=r"^26 crops of an image: .* 1\.\.25$"):
        store.fill(teacher(), range(26), device=CPU)
    with pytest.raises(MenagerieError, match=r"^the teacher's answers to crop 1 are not all numbers$"):
        store.fill(lambda images: torch.full((len(images), 3), torch.nan), range(1, 2), device=CPU)
    with pytest.raises(CorruptError, match=r"000\.npz is not complete"):
        store.load(1, CPU)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(path.read_bytes()[:-3]),
        lambda path: np.savez(path, answers=np.zeros((1, 34, 3), np.float32)),
        lambda path: np.savez(path, answers=np.zeros((1, 35, 3), np.float16)),
        lambda path: np.savez(path, answers=np.zeros((34, 3), np.float16)),
        lambda path: np.savez(path, others=np.zeros((1, 34, 3), np.float16)),
        lambda path: np.savez(path, answers=np.array([{}], object)),
    ],
)
def test_damaged_answers_are_asked_again(damage: Any, tmp_path: Path) -> None:  # noqa: ANN401
    store = AnswerStore(tmp_path, job_with(), ABOUT, both_sides=False)
    store.fill(teacher(), range(2), device=CPU)
    whole, digest = files(store), store.load(2, CPU).digest
    damage(store.path / "001.npz")
    assert store.done(2) == 34
    with pytest.raises(CorruptError, match=r"001\.npz is not complete$"):
        store.load(2, CPU)
    asked = Counting()
    store.fill(asked, range(2), device=CPU)
    assert (asked.asked, files(store), store.load(2, CPU).digest) == (34, whole, digest)


def test_no_changed_byte_changes_an_answer(tmp_path: Path) -> None:
    store = AnswerStore(tmp_path, job_with(), ABOUT, both_sides=False)
    store.fill(teacher(), range(1), device=CPU)
    path, answers = store.path / "000.npz", store.load(1, CPU).logits
    content, noticed = path.read_bytes(), 0
    for place, byte in enumerate(content):
        path.write_bytes(content[:place] + bytes([byte ^ 0xFF]) + content[place + 1 :])
        if store.done(1) == 34:
            assert torch.equal(store.load(1, CPU).logits, answers)
        else:
            noticed += 1
    assert noticed > answers.nbytes


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "answers").write_text("")
    with pytest.raises(StorageError, match=r"^cannot write"):
        AnswerStore(tmp_path / "answers", job_with(), ABOUT, both_sides=False)
