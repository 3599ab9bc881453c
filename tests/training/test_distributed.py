"""Two processes against one: the same weights, the same metrics, and checkpoints that either continues."""

import os
import pickle
import shutil
import socket
import subprocess
import sys
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from tests.training.conftest import CPU, fit, plain_recipe, rich_recipe, toy_job
from training import loop
from training.distributed import World, joined, local_device
from training.job import Job
from training.loop import Trained, train
from training.prepare import prepare_network
from training.recipe import Average, Distill, Optimizer, Recipe, Sam
from training.run import RunFolder
from zoo.errors import InterruptedRun, MenagerieError, UsageError

ROOT = Path(__file__).parents[2]
STEPS = 8

# Statistics of nothing but one image, and draws that do not depend on the rank: two processes do what one does.
ALIKE: dict[str, Recipe] = {
    "plain": plain_recipe(),
    "clipped": plain_recipe(clip_norm=0.5, accumulate=2, average=Average("ema", decay=0.5)),
    "lookahead": plain_recipe(average=Average("lookahead", every=2, decay=0.8, ramp=1.0)),
    "adamw": plain_recipe(optimizer=Optimizer(0.01, "adamw"), label_smoothing=0.1, distill=Distill("self", 2.0)),
}


def jobs() -> dict[str, Job]:
    return {name: toy_job(recipe, seed=2) for name, recipe in ALIKE.items()}


def train_until(job: Job, folder: Path | None, steps: int, world: World | None = None) -> None:
    """Train, and stop as if asked to after some steps."""
    done: list[object] = []
    run = RunFolder(folder, job) if folder else None
    with pytest.raises(InterruptedRun):
        train(
            job,
            run,
            device=CPU,
            progress=done.append,
            stop=lambda: len(done) + 1 >= steps and bool(folder),  # one process alone is asked
            world=world,
        )


def said(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"


def work(folder: Path) -> None:
    """What each of the two processes does."""
    torch.set_num_threads(1)
    loop._LOOK_EVERY = 3  # so that they agree to stop in the middle of an epoch
    found: dict[str, Any] = {}
    with joined(CPU) as world:

        def run_of(job: Job, name: str) -> RunFolder | None:
            return RunFolder(folder / name, job) if world.leads else None

        def go(job: Job, name: str, **options: Any) -> Trained:  # noqa: ANN401
            return train(job, run_of(job, name), device=CPU, progress=lambda _row: None, world=world, **options)

        for name, job in jobs().items():
            found[name] = _plain(go(job, name))
        job = jobs()["plain"]
        found["begun by one"] = _plain(go(job, "begun by one"))
        train_until(job, folder / "begun by two" if world.leads else None, 3, world)
        for name, recipe in (("sam", plain_recipe(sam=Sam(0.05))), ("rich", rich_recipe())):
            found[name] = _plain(go(toy_job(recipe), name))
        train_until(toy_job(rich_recipe()), folder / "rich again" if world.leads else None, 6, world)
        found["rich again"] = _plain(go(toy_job(rich_recipe()), "rich again"))

        def spoilt(images: Tensor) -> Tensor:
            return torch.full((len(images), 3), torch.nan if world.rank == 1 else 0.0)

        failing = {
            "uneven": (toy_job(plain_recipe(batch_size=9)), {}),
            "nan": (toy_job(plain_recipe(distill=Distill())), {"teacher": spoilt}),
        }
        for name, (job, options) in failing.items():
            try:
                go(job, name, **options)
            except MenagerieError as error:
                found[name] = said(error)

        def fail() -> None:
            raise UsageError(f"said by {world.rank}")

        try:
            world.lead(fail)
        except UsageError as error:
            found["lead"] = said(error)
        found["led"] = world.lead(lambda: world.rank + 10)
        found["sum"] = float(world.sum(torch.tensor(world.rank + 1.0)))
        found["any"] = [world.any(flag, CPU) for flag in (False, True, world.rank == 1)]
        found["leads"] = world.leads
        net = nn.BatchNorm1d(2)
        net.running_mean = torch.full((2,), float(world.rank + 5))
        world.share_buffers(net)
        found["buffers"] = net.running_mean.tolist()
    (folder / f"found-{world.rank}").write_bytes(pickle.dumps(found))


def _plain(trained: Trained) -> tuple[dict[str, Any], list[dict[str, float]]]:
    rows = [{k: v for k, v in row.items() if k != "seconds"} for row in trained.rows]
    return {name: value.numpy() for name, value in trained.net.state_dict().items()}, rows


@pytest.fixture(scope="module")
def ranks(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[dict[str, Any]]]:
    """Let two processes work in a folder, and return what they found there."""
    folder = tmp_path_factory.mktemp("two")
    train_until(jobs()["plain"], folder / "begun by one", 3)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    code = "import sys, pathlib; from tests.training.test_distributed import work; work(pathlib.Path(sys.argv[1]))"
    about = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    with ExitStack() as stack:
        both = [
            stack.enter_context(
                subprocess.Popen(
                    [sys.executable, "-W", "error", "-c", code, str(folder)],
                    cwd=ROOT,
                    env={**os.environ, **about, "RANK": str(rank), "LOCAL_RANK": str(rank)},
                    stderr=subprocess.PIPE,
                    text=True,
                )
            )
            for rank in (0, 1)
        ]
        errors = [process.communicate(timeout=300)[1] for process in both]
        assert [process.returncode for process in both] == [0, 0], "\n".join(errors)
    return folder, [pickle.loads((folder / f"found-{rank}").read_bytes()) for rank in (0, 1)]  # noqa: S301  # our own


def assert_alike(found: tuple[dict[str, Any], list[dict[str, float]]], one: Trained) -> None:
    """Sums of fp32 numbers in another order: nothing else may differ."""
    weights, rows = found
    for name, value in one.net.state_dict().items():
        torch.testing.assert_close(torch.from_numpy(weights[name]), value, rtol=1e-4, atol=1e-5)
    assert len(rows) == len(one.rows)
    for row, own in zip(rows, one.rows, strict=True):
        assert row == pytest.approx({k: v for k, v in own.items() if k != "seconds"}, abs=3e-5)


@pytest.mark.parametrize("name", ALIKE)
def test_two_processes_train_what_one_trains(
    name: str, ranks: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    one = fit(jobs()[name], tmp_path, save_every=3600)
    start = prepare_network(jobs()[name])
    moved = [float((p - q).detach().norm()) for p, q in zip(one.net.parameters(), start.parameters(), strict=True)]
    assert min(moved) > 1e-3  # much more than the tolerance
    for found in ranks[1]:
        assert_alike(found[name], one)


def test_one_continues_what_two_began_and_the_other_way_round(
    ranks: tuple[Path, list[dict[str, Any]]], tmp_path: Path
) -> None:
    folder, (found, _) = ranks
    job = jobs()["plain"]
    one = fit(job, tmp_path / "one", save_every=3600)
    assert_alike(found["begun by one"], one)
    shutil.copytree(folder / "begun by two", tmp_path / "two")
    assert RunFolder(tmp_path / "two", job).step() == 3
    assert_alike(_plain(fit(job, tmp_path / "two", save_every=3600)), one)


@pytest.mark.parametrize("name", ["plain", "adamw", "sam", "rich"])
def test_all_processes_have_the_same_weights_and_metrics(name: str, ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    (weights, rows), (others, other_rows) = (found[name] for found in ranks[1])
    for key, value in weights.items():
        if name != "rich" or "running" not in key:  # each has the statistics of its own images; the first one's count
            assert (value == others[key]).all(), key
    drop = {"val_accuracy_average"}
    assert [{k: v for k, v in r.items() if k not in drop} for r in rows] == [
        {k: v for k, v in r.items() if k not in drop} for r in other_rows
    ]


def test_interrupted_with_two_processes_the_run_ends_the_same(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    (weights, rows), (again, again_rows) = (ranks[1][0][name] for name in ("rich", "rich again"))
    assert all((value == again[key]).all() for key, value in weights.items())
    assert rows == again_rows


def test_only_the_first_writes(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    folder, _ = ranks
    assert sorted(p.name for p in (folder / "plain").iterdir()) == [
        "metrics.csv",
        "recipe.toml",
        "run.json",
        "state.pt",
    ]
    assert len((folder / "plain" / "metrics.csv").read_text(encoding="utf-8").splitlines()) == 3
    state = RunFolder(folder / "plain", jobs()["plain"]).load()
    assert state is not None
    assert not any(name.startswith("module.") for name in state["net"])
    assert state["step"] == STEPS


def test_what_stops_one_stops_all(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    for found in ranks[1]:
        assert found["lead"] == "UsageError: said by 0"
        assert found["uneven"].startswith("UsageError: a batch of 9 images cannot be shared evenly by 2 processes")
        assert found["nan"].startswith("MenagerieError: the loss is nan after step 1; nothing was saved before")


def test_what_processes_tell_each_other(ranks: tuple[Path, list[dict[str, Any]]]) -> None:
    for rank, found in enumerate(ranks[1]):
        assert (found["led"], found["sum"], found["any"]) == (10, 3.0, [False, True, True])
        assert found["leads"] == (rank == 0)
        assert found["buffers"] == [5.0, 5.0]


def test_alone_everything_is_as_it_was() -> None:
    world, net = World(), nn.BatchNorm1d(2)
    assert world.leads
    assert world.wrap(net, CPU) is net
    assert float(world.sum(torch.tensor(3.0))) == 3
    assert (world.any(True, CPU), world.any(False, CPU)) == (True, False)
    assert world.lead(lambda: 5) == 5
    world.share_buffers(net)
    with joined(CPU) as found:
        assert found == world


def test_variables_that_are_incomplete_are_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("RANK", "MASTER_ADDR", "MASTER_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UsageError, match=r"^WORLD_SIZE is 2, but this is not a process of torchrun's: "), joined(CPU):
        pytest.fail("joined nobody")


@pytest.mark.parametrize(
    ("local", "cuda", "asked", "got"),
    [
        (None, True, None, None),
        (None, True, "cuda", "cuda"),
        ("1", True, None, "cuda:1"),
        ("1", True, "cuda", "cuda:1"),
        ("1", True, "cpu", "cpu"),
        ("1", True, "cuda:0", "cuda:0"),
        ("1", False, None, None),
    ],
)
def test_each_process_takes_its_own_gpu(
    local: str | None, cuda: bool, asked: str | None, got: str | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LOCAL_RANK", raising=False)
    if local is not None:
        monkeypatch.setenv("LOCAL_RANK", local)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: cuda)
    assert local_device(asked) == got


def test_a_batch_that_two_cannot_share_is_refused_by_each() -> None:
    job = toy_job(plain_recipe())
    with pytest.raises(UsageError, match="cannot be shared evenly by 3 processes"):
        train(replace(job), None, device=CPU, progress=lambda _row: None, world=World(0, 3))
