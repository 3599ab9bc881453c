"""Trials on a Ray cluster: one that is really started here, whose workers are really killed."""

import importlib
import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from typing import Any

import pytest

from tests.training.stand_in import PROGRAM, ROOT, gone, starts, trial_in, until
from training.cluster import Cluster, run_on_cluster
from training.pool import run_here
from training.trial import Outcome, Trial
from zoo.errors import MenagerieError, UsageError


def run(trials: list[Trial], cluster: Cluster, shared: Path, **more: Any) -> list[Outcome]:  # noqa: ANN401
    told: list[Outcome] = []
    environment = {key: value for key, value in os.environ.items() if key.startswith(("ZOO_", "STAND_IN_"))}
    outcomes = run_on_cluster(
        trials, PROGRAM, cluster, shared=shared, environment=environment, report=told.append, **more
    )
    assert outcomes == told
    return outcomes


def test_what_is_finished_needs_no_cluster(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    trial = trial_in(tmp_path)
    run_here([trial], PROGRAM, report=lambda _outcome: None)
    monkeypatch.setattr(importlib, "import_module", lambda name: pytest.fail(f"{name} was imported"))
    (outcome,) = run([trial], Cluster(), tmp_path)
    assert outcome.skipped


def test_without_ray_one_line_says_how_to_install_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise ModuleNotFoundError(f"No module named {name!r}")

    monkeypatch.setattr(importlib, "import_module", missing)
    with pytest.raises(MenagerieError, match=r"^--cluster needs Ray: pip install '\.\[cluster\]'$"):
        run([trial_in(tmp_path)], Cluster(), tmp_path)


def test_no_cluster_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(address: str, **_options: object) -> None:
        raise ConnectionError(f"Could not find any running Ray instance at {address}.\nPlease ...")

    monkeypatch.setattr(importlib, "import_module", lambda _name: SimpleNamespace(init=refuse))
    with pytest.raises(MenagerieError, match=r"^no Ray cluster at 'auto': start one with `ray start --head`, or .*$"):
        run([trial_in(tmp_path)], Cluster(), tmp_path)


@pytest.mark.parametrize("form", ["127.0.0.1:{}", "ray://127.0.0.1:{}"])
def test_an_address_where_nothing_listens_is_not_tried_for_minutes(tmp_path: Path, form: str) -> None:
    pytest.importorskip("ray")
    with socket.socket() as unheard:
        unheard.bind(("127.0.0.1", 0))
        where = form.format(unheard.getsockname()[1])
        with pytest.raises(MenagerieError, match=f"^no Ray cluster at '{where}': start one"):
            run([trial_in(tmp_path)], Cluster(where), tmp_path)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """Start a cluster of one node with three cores, with `ray` quiet about what it would like to tell its makers."""
    utils = pytest.importorskip("ray.cluster_utils")
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(ROOT))
        patched.setenv("RAY_USAGE_STATS_ENABLED", "0")
        cluster = utils.Cluster(initialize_head=True, head_node_args={"num_cpus": 3, "num_gpus": 0})
        try:
            yield cluster.address
        finally:
            cluster.shutdown()


ray_test = [
    pytest.mark.slow,
    # Ray's, of its own files and processes.
    pytest.mark.filterwarnings("ignore::ResourceWarning", "ignore::FutureWarning", "ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning"),
]


class TestRay:
    """With a cluster."""

    pytestmark = ray_test

    def test_trials_are_trained_and_a_failure_stops_nothing_but_itself(self, address: str, tmp_path: Path) -> None:
        trials = [trial_in(tmp_path, seed) for seed in (1, 13, 2)]
        outcomes = run(trials, Cluster(address, cpus=1), tmp_path)
        assert {o.trial.seed: o.error for o in outcomes} == {
            1: None,
            13: "the loss is nan in epoch 2 (step 7): lower the learning rate",
            2: None,
        }
        assert {o.trial.seed: o.accuracy.get("flip") for o in outcomes} == {1: 0.901, 13: None, 2: 0.902}
        assert not list(tmp_path.glob(".shared-*"))
        assert len(starts(tmp_path / "runs" / trials[1].name)) == 1, "an error of its own is not tried again"

    @pytest.mark.parametrize("victim", ["worker", "trial"])
    def test_a_killed_worker_is_made_good_from_the_checkpoint(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, victim: str
    ) -> None:
        monkeypatch.setenv("STAND_IN_EPOCHS", "40")
        monkeypatch.setenv("STAND_IN_PAUSE", "0.1")
        trial = trial_in(tmp_path)
        folder = tmp_path / "runs" / trial.name
        killed: list[int] = []

        def kill() -> None:
            until(lambda: (folder / "state").exists() and int((folder / "state").read_text()) >= 3, 60)
            _, worker, own, _ = starts(folder)[0]
            os.kill(worker if victim == "worker" else own, signal.SIGKILL)
            killed.append(own)

        killer = Thread(target=kill)
        killer.start()
        (outcome,) = run([trial], Cluster(address, cpus=1), tmp_path)
        killer.join()
        assert outcome.error is None
        first, second = starts(folder)
        assert (first[0], first[2]) == (0, killed[0])
        assert second[0] >= 3, "from the checkpoint"
        assert second[2] != killed[0]
        assert gone(killed[0]), "the first process does not go on beside the second"

    def test_what_dies_again_and_again_is_given_up(self, address: str, tmp_path: Path) -> None:
        words = "import os, pathlib, sys; p = pathlib.Path(sys.argv[sys.argv.index('--run-dir') + 1]); "
        words += "p.mkdir(parents=True, exist_ok=True); (p / 'starts').open('a').write('x'); os.kill(os.getpid(), 9)"
        trial = trial_in(tmp_path)
        told: list[Outcome] = []
        cluster = Cluster(address, cpus=1, retries=2)
        run_on_cluster([trial], words, cluster, shared=tmp_path, environment={}, report=told.append)
        assert [o.error for o in told] == ["killed by SIGKILL"]
        assert (tmp_path / "runs" / trial.name / "starts").read_text() == "xxx"

    def test_asked_to_stop_the_trials_save_and_end(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setenv("STAND_IN_EPOCHS", "1000")
        monkeypatch.setenv("STAND_IN_PAUSE", "0.1")
        trials = [trial_in(tmp_path, seed) for seed in (1, 2)]
        states = [tmp_path / "runs" / trial.name / "state" for trial in trials]
        assert run(trials, Cluster(address, cpus=1), tmp_path, stopped=lambda: all(s.exists() for s in states)) == []
        for trial, state in zip(trials, states, strict=True):
            assert trial.log.read_text().endswith("error: stopped: go on with the same command\n")
            assert gone(starts(state.parent)[0][2])

    def test_a_folder_that_workers_do_not_see_is_named(
        self, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        # The file that shows it is written, but not where the worker looks.
        monkeypatch.setattr("training.cluster.atomic_write", lambda _path, _content: None)
        (outcome,) = run([trial_in(tmp_path)], Cluster(address, cpus=1), tmp_path)
        assert outcome.error is not None
        assert f"does not see {tmp_path}: put --out and ZOO_HOME where all machines see them" in outcome.error

    @pytest.mark.parametrize(("cpus", "message"), [(0, "has no GPU"), (64, "fewer than --cpus-per-trial 64")])
    def test_what_the_cluster_does_not_have_is_said(
        self, address: str, tmp_path: Path, cpus: int, message: str
    ) -> None:
        with pytest.raises(UsageError, match=message):
            run([trial_in(tmp_path)], Cluster(address, cpus=cpus), tmp_path)
