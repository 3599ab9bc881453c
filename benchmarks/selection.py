"""Seconds and memory to choose a committee, and its log-loss beside AutoGluon's, on images that neither was fitted on.

    python -m venv peer && peer/bin/pip install autogluon.core
    python -m benchmarks.selection --peer peer/bin/python        # about twenty minutes

First `ensemble select` as a command, start of Python and reading of files included, on a thousand entries of made-up
logits (10 classes, 5,000 images, two views: what a network of varied skill, scale and family would say), and the scores
of all 2^15 subsets of fifteen. Then one half of the validation images to fit on and the other to score: made-up pools,
and the networks that the package ships. AutoGluon's `EnsembleSelection` (greedy with replacement) gets the same logits,
as mean probabilities over the views, also of members that our temperatures have calibrated; each time it is scored as
it comes, and with a temperature fitted to its mixture as to ours. Its time is that of `fit` alone, ours includes all
temperatures and the weights. The last lines are beside the fastest and the best of its rows.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from ensemble.fit.limits import Limits
from ensemble.fit.objective import features
from ensemble.fit.pool import Pool, read_pool
from ensemble.fit.select import Selection, select
from ensemble.fit.subsets import score_subsets
from ensemble.fit.temperature import ensemble_temperature, fit_temperatures, tempered_losses
from ensemble.members import parse_members
from zoo.card import Card
from zoo.entry import write_entry
from zoo.errors import MenagerieError
from zoo.predictions import Predictions, SplitPredictions

CLASSES = tuple(f"class{number}" for number in range(10))
ROUNDS = 50  # of either greedy search
PROGRAM = "from ensemble.cli.select import command; command()"

PEER = """
import json, sys, time
import numpy as np
from autogluon.core.metrics import log_loss
from autogluon.core.models.greedy_ensemble.ensemble_selection import EnsembleSelection
with np.load(sys.argv[1]) as file:
    probs, labels = list(file["probs"]), file["labels"]
began = time.perf_counter()
fitted = EnsembleSelection(int(sys.argv[2]), "multiclass", log_loss).fit(probs, labels)
print(json.dumps({"seconds": time.perf_counter() - began, "weights": fitted.weights_.tolist()}))
"""


@dataclass(frozen=True)
class Outcome:
    """What a contender reached: seconds to fit, log-loss on the other half (nats), members."""

    name: str
    seconds: float
    loss: float
    members: int


def made_up(entries: int, images: int, seed: int) -> Pool:
    """Return a pool of logits: the truth by an image's ease, and noise shared by all, by a family, or by none."""
    rng = np.random.default_rng(seed)
    shape = (len(CLASSES), images)
    labels = rng.integers(0, shape[0], images)
    truth = np.zeros(shape, np.float32)
    truth[labels, np.arange(images)] = rng.gamma(2.0, 2.0, images)
    shared, *families = rng.standard_normal((9, *shape), np.float32)
    logits = np.empty((entries, 2, *shape), np.float16)
    for row in logits:
        own = rng.standard_normal(shape, np.float32)
        base = rng.uniform(0.6, 1.1) * truth + 0.8 * shared + 0.6 * families[rng.integers(8)] + 0.8 * own
        scale = np.exp(rng.normal(0, 0.5))
        for view in row:
            view[:] = scale * (base + 0.4 * rng.standard_normal(shape, np.float32))
    return Pool(tuple(f"made-up-{number:04}" for number in range(entries)), ("none", "flip"), logits, labels)


def shipped() -> Pool:
    """Return the networks that the package ships."""
    return read_pool(parse_members("fastnet-seed[1-5],wrn16-4-seed1"), ("none", "flip"))[0]


def file_entries(pool: Pool, folder: Path) -> None:
    """Write a pool as zoo entries, with a few bytes that stand for weights."""
    mark = "0" * 64
    for name, logits in zip(pool.names, pool.logits, strict=True):
        card = Card(
            name, "fastnet", "made-up", CLASSES, (0.5,) * 3, (0.25,) * 3, (32, 32), multiply_adds=10**8,
            trained_on={"images": 1, "fingerprint": "1" * 64, "held_out": mark},
        )  # fmt: skip
        views = {view: np.ascontiguousarray(values.T) for view, values in zip(pool.views, logits, strict=True)}
        stored = Predictions({"val": SplitPredictions(views, pool.labels, mark)})
        write_entry(folder / name, card, b"weights", stored)


@contextmanager
def two_cores() -> Iterator[None]:
    """Keep this process and its children on two cores, where the system can."""
    if not hasattr(os, "sched_setaffinity"):
        yield
        return
    before = os.sched_getaffinity(0)
    os.sched_setaffinity(0, set(sorted(before)[:2]))
    try:
        yield
    finally:
        os.sched_setaffinity(0, before)


def command(folder: Path, *options: str) -> tuple[float, float, float]:
    """Run `ensemble select` over the entries of a folder; return seconds, CPU seconds and largest memory in GB."""
    words = [sys.executable, "-c", PROGRAM, "--pool", "made-up-*", "--dry-run", "--json", "-q", *options]
    environment = {**os.environ, "ZOO_SOURCE": str(folder), "ZOO_HOME": str(folder / ".home")}
    began = time.perf_counter()
    child = os.posix_spawn(
        sys.executable, words, environment, file_actions=[(os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)]
    )
    _, status, usage = os.wait4(child, 0)
    if status:
        raise MenagerieError(f"{' '.join(words)} ended with status {status}")
    memory = usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024) / 1e9
    return time.perf_counter() - began, usage.ru_utime + usage.ru_stime, memory


def ours(fit: Pool, other: Pool) -> tuple[Outcome, Selection]:
    """Select on one half and score on the other."""
    began = time.perf_counter()
    chosen = select(fit, {"flip": Limits(np.zeros(len(fit.names)))})
    seconds = time.perf_counter() - began
    probs = other.probs(np.array(chosen.members), "flip", np.array(chosen.temperatures))
    merged = np.tensordot(np.array(chosen.weights), probs, 1)
    loss = float(tempered_losses(merged, other.labels, chosen.temperature).mean())
    return Outcome("menagerie", seconds, loss, len(chosen.members)), chosen


def autogluon(python: Path, name: str, fit: Pool, other: Pool, temperatures: npt.NDArray[np.float64]) -> list[Outcome]:
    """Let AutoGluon select on one half, from probabilities at these temperatures, and score it on the other.

    Returns:
        Its mixture as it comes, and with the temperature that is best for it on the first half.
    """
    everyone = slice(None)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "half.npz"
        probs = fit.probs(everyone, "flip", temperatures).transpose(0, 2, 1).astype(np.float64)
        np.savez(file, probs=probs, labels=fit.labels)
        words = [str(python), "-W", "ignore", "-c", PEER, str(file), str(ROUNDS)]
        answer = json.loads(subprocess.run(words, check=True, capture_output=True, text=True).stdout)  # noqa: S603
    weights = np.array(answer["weights"])
    inside, outside = (np.tensordot(weights, half.probs(everyone, "flip", temperatures), 1) for half in (fit, other))
    members = int(np.count_nonzero(weights))
    return [
        Outcome(name + added, answer["seconds"], float(tempered_losses(outside, other.labels, t).mean()), members)
        for added, t in (("", 1.0), (", then calibrated", ensemble_temperature(inside.T, fit.labels)))
    ]


def compare(label: str, pool: Pool, python: Path) -> list[Outcome]:
    """Fit on the even rows and score on the odd ones; rows are sorted by hash, so either half is a random one."""
    fit, other = pool.rows(slice(0, None, 2)), pool.rows(slice(1, None, 2))
    mine, chosen = ours(fit, other)
    found = [
        mine,
        *autogluon(python, "AutoGluon", fit, other, np.ones(len(pool.names))),
        *autogluon(python, "AutoGluon, of our calibrated members", fit, other, chosen.calibrated),
    ]
    for one in found:
        print(f"{label}, {one.name}: {one.seconds:.2f} s, log-loss {one.loss:.4f}, {one.members} members", flush=True)
    return found


def score_all_subsets(pool: Pool) -> None:
    """Score all subsets of a pool, by log-loss and by accuracy, and print the seconds."""
    columns, weights = pool.columns("flip")
    temperatures = fit_temperatures(pool.logits[:, columns], weights, pool.labels)
    contributions = {
        "log-loss": features(pool, "flip", temperatures, "nll"),
        "accuracy": features(pool, "flip", temperatures, "accuracy"),
    }
    for name, contribution in contributions.items():
        began = time.perf_counter()
        scores = score_subsets(contribution)
        print(f"{len(scores):,} subsets of {len(pool.names)} scored by {name}: {time.perf_counter() - began:.2f} s")


def main() -> None:
    """Measure, and print a line for each result."""
    parser = argparse.ArgumentParser(description="Choose committees, beside AutoGluon.")
    parser.add_argument(
        "--peer", type=Path, help="Python of an environment with autogluon.core; without it, ours alone"
    )
    parser.add_argument("--entries", type=int, default=1000)
    parser.add_argument("--images", type=int, default=5000)
    parser.add_argument("--subsets-of", type=int, default=15)
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()
    with two_cores():
        with tempfile.TemporaryDirectory() as folder:
            file_entries(made_up(arguments.entries, arguments.images, seed=0), Path(folder))
            for options in ((), ("--objective", "accuracy"), ("--max-members", "8", "--budget-macs", "1")):
                runs = [command(Path(folder), *options) for _ in range(arguments.rounds)]
                seconds, busy, memory = (statistics.median(values) for values in zip(*runs, strict=True))
                words = " ".join(("ensemble select", *options))
                print(
                    f"{words}: {seconds:.2f} s, CPU {busy:.2f} s, {memory:.2f} GB (median of {arguments.rounds})",
                    flush=True,
                )
        score_all_subsets(made_up(arguments.subsets_of, arguments.images, seed=0))
        if arguments.peer is None:
            return
        found = [
            compare(
                f"{arguments.entries} made up, seed {seed}",
                made_up(arguments.entries, arguments.images, seed),
                arguments.peer,
            )
            for seed in range(1, arguments.rounds + 1)
        ]
        found.append(compare("the shipped six", shipped(), arguments.peer))
        for mine, *peers in found:
            faster = min(peer.seconds for peer in peers) / mine.seconds
            lower = min(peer.loss for peer in peers) - mine.loss
            print(f"{faster:.1f} times as fast, log-loss lower by {lower:.4f}")


if __name__ == "__main__":
    main()
