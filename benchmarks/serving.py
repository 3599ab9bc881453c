"""What serving costs over the bare session: images a second, latency, and twenty thousand mixed requests.

    ensemble export --members 'fastnet-seed[1-5]' --tta flip -o five.onnx --member-probs
    ensemble export --members fastnet-seed1 -o one.onnx --member-probs
    python -m benchmarks.serving five.onnx one.onnx        # about ten minutes on two CPU cores

For each graph a server is started, and measured beside the bare session (`export.runtime`, batches of 64) in turns, in
processes of their own; who comes first changes from round to round, and ratios are of one round. Client and server
share the machine; the client is one asyncio process that writes prepared bytes, and its share of a core is said.

- `64 x 16`: 64 clients, each with one connection and one request of 16 images (binary tensors) at a time;
- `1 x 1`: one client, one image at a time; the latency over the bare session's, and as many images a second;
- mixed: requests of 1 to 4 images as binary tensors or JSON, compressed or not, and pictures, 5 % of them malformed in
  many ways, over 64 connections, to the last graph. Every good one must be answered with its own images' probabilities
  (1e-4), every bad one with a 4xx, and the server's memory must not grow.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from benchmarks.serving_client import Connection, garble, infer, picture, right
from export.runtime import open_session
from zoo.data import load_split

ROOT = Path(__file__).resolve().parent.parent
SERVE = "import sys; from zoo.cli.group import run; from ensemble.cli.serve import command; sys.exit(run(command))"
CLIENTS, IMAGES, BATCH = 64, 16, 64
BAD = 0.05

Images = npt.NDArray[np.uint8]


async def load(port: int, name: str, clients: int, images: Images, seconds: float) -> dict[str, float]:
    """Ask again and again for some seconds, and return what came of it."""
    content = infer(name, images)
    latencies: list[float] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def client() -> None:
        connection = Connection(port)
        while time.perf_counter() < began + seconds:
            sent = time.perf_counter()
            status, body = await connection.ask(content)
            if status != 200:  # noqa: PLR2004
                sys.exit(f"the server answered {status}: {body[:200]!r}")
            latencies.append(time.perf_counter() - sent)
        connection.close()

    await asyncio.gather(*(client() for _ in range(clients)))
    took = time.perf_counter() - began
    return {
        "images_per_second": len(images) * len(latencies) / took,
        "median_ms": 1000 * statistics.median(latencies),
        "p99_ms": 1000 * float(np.percentile(latencies, 99)),
        "client_cpu": (time.process_time() - cpu) / took,
    }


def bare(session: Any, images: Images, seconds: float) -> dict[str, float]:  # noqa: ANN401  # a session of either kind
    """Return what a session does without a server."""
    found = {}
    for label, size in (("images_per_second", BATCH), ("median_ms", 1)):
        batches = [images[n : n + size] for n in range(0, len(images) - size + 1, size)]
        session.warm_up([size])
        took: list[float] = []
        while sum(took) < seconds / (1 if size == BATCH else 2):
            began = time.perf_counter()
            session.answer(batches[len(took) % len(batches)])
            took.append(time.perf_counter() - began)
        found[label] = size / statistics.fmean(took) if size == BATCH else 1000 * statistics.median(took)
    return found


async def mix(port: int, name: str, path: Path, number: int) -> dict[str, Any]:
    """Send mixed requests over many connections, and hold every answer to the session's own."""
    images = load_split("cifar10", "test").images[:256]
    wanted = open_session(path, device="cpu", spin=False).run(images)
    statuses: Counter[int] = Counter()
    wrong: list[str] = []
    left = iter(range(number))
    growth: list[int] = []
    pids = processes(port)

    async def client(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(port)
        for at in left:
            if at in {number // 10, number - 1}:
                growth.append(sum(memory(pid) for pid in pids))
            first, count = rng.randrange(252), rng.randint(1, 4)
            kind = rng.random()
            if kind < 0.1:  # noqa: PLR2004
                count, content = 1, picture(images[first])
            else:
                content = infer(name, images[first : first + count], binary=kind < 0.8, packed=0.2 < kind < 0.3)  # noqa: PLR2004
            bad = rng.random() < BAD
            status, body = await connection.ask(garble(content, rng) if bad else content)
            statuses[status] += 1
            if bad:
                if not 400 <= status < 500 or list(json.loads(body)) != ["error"]:  # noqa: PLR2004
                    wrong.append(f"a bad request was answered {status}: {body[:200]!r}")
            elif status != 200 or not right(body, wanted[first : first + count]):  # noqa: PLR2004
                wrong.append(f"a good request was answered {status}: {body[:200]!r}")
        connection.close()

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    before, after = growth[0], growth[-1]
    return {
        "requests": number,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
        "memory_mb": [round(before / 2**20, 1), round(after / 2**20, 1)],
        "memory_growth": after / before - 1,
    }


def processes(port: int) -> list[int]:
    """Return the processes that listen on a port: the replicas."""
    inodes = {
        fields[9]
        for line in Path("/proc/net/tcp").read_text().splitlines()[1:]
        if (fields := line.split())[1].endswith(f":{port:04X}") and fields[3] == "0A"
    }
    return [
        int(folder.name)
        for folder in Path("/proc").iterdir()
        if folder.name.isdigit() and any(_socket(link) in inodes for link in _links(folder))
    ]


def _links(folder: Path) -> list[Path]:
    try:
        return list((folder / "fd").iterdir())
    except OSError:  # it has ended, or is somebody else's
        return []


def _socket(link: Path) -> str:
    try:
        return str(link.readlink()).removeprefix("socket:[").rstrip("]")
    except OSError:
        return ""


def memory(pid: int) -> int:
    """Return the resident bytes of a process."""
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("VmRSS")]
    return 1024 * int(line.split()[1])


@contextmanager
def server(path: Path, options: list[str]) -> Iterator[tuple[int, str]]:
    """Yield the port of a server and the name of its model."""
    command = [sys.executable, "-c", SERVE, str(path), "--port", "0", "--json", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ourselves
        assert process.stdout is not None  # noqa: S101  # a pipe
        try:
            ready = json.loads(process.stdout.readline() or sys.exit("the server did not start: see above"))
            yield ready["port"], ready["model"]
        finally:
            process.terminate()


def measure(path: Path, port: int, name: str, images: Images, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a server beside the bare session, in turns."""
    session = open_session(path, device="cpu")
    seconds = arguments.seconds
    parts: dict[str, Callable[[], dict[str, float]]] = {
        "bare": lambda: bare(session, images, seconds),
        "many": lambda: asyncio.run(load(port, name, CLIENTS, images[:IMAGES], seconds)),
        "single": lambda: asyncio.run(load(port, name, 1, images[:1], seconds / 2)),
    }
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        names = list(parts)[number % 3 :] + list(parts)[: number % 3]
        one = {part: parts[part]() for part in names}
        share = one["many"]["images_per_second"] / one["bare"]["images_per_second"]
        one["ratios"] = {"throughput": share, "added_ms": one["single"]["median_ms"] - one["bare"]["median_ms"]}
        rounds.append(one)
        print(f"  {path.stem}, round {number + 1}: {share:.1%} of the bare session", file=sys.stderr)
    return {"rounds": rounds}


def median(found: dict[str, Any], part: str, key: str) -> float:
    """Return the median of the rounds."""
    return float(statistics.median(one[part][key] for one in found["rounds"]))


def table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report for people."""
    yield f"{'':<16}{'bare':>12}{'64 x 16':>12}{'of bare':>9}{'client':>8}{'bare, 1':>10}{'1 x 1':>10}{'added':>9}"
    for label, found in report.items():
        if label != "mixed":
            yield (
                f"{label:<16}{median(found, 'bare', 'images_per_second'):>8.0f} i/s"
                f"{median(found, 'many', 'images_per_second'):>8.0f} i/s{median(found, 'ratios', 'throughput'):>9.1%}"
                f"{median(found, 'many', 'client_cpu'):>8.1%}{median(found, 'bare', 'median_ms'):>7.2f} ms"
                f"{median(found, 'single', 'median_ms'):>7.2f} ms{median(found, 'ratios', 'added_ms'):>6.2f} ms"
            )
    if "mixed" in report:
        mixed = report["mixed"]
        yield (
            f"{mixed['requests']:,} mixed requests: {mixed['wrong']} answered wrongly, statuses {mixed['statuses']}, "
            f"memory {mixed['memory_mb'][0]} to {mixed['memory_mb'][1]} MB ({mixed['memory_growth']:+.1%})"
        )


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Serving beside the bare session.")
    parser.add_argument("graphs", nargs="+", type=Path, help="Exported with --member-probs or without.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of each measurement.")
    parser.add_argument("--requests", type=int, default=20_000, help="Mixed ones; 0 for none.")
    parser.add_argument(
        "--serve", action="append", default=[], metavar="OPTION", help="For the server, such as --serve=--threads=1."
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    images = load_split("cifar10", "test").images
    report: dict[str, Any] = {}
    for path in (path.resolve() for path in arguments.graphs):
        with server(path, arguments.serve) as (port, name):
            report[path.stem] = measure(path, port, name, images, arguments)
            if path == arguments.graphs[-1].resolve() and arguments.requests:
                report["mixed"] = asyncio.run(mix(port, name, path, arguments.requests))
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(table(report)))
    if report.get("mixed", {}).get("wrong"):
        sys.exit("\n".join(report["mixed"]["first_wrong"]))


if __name__ == "__main__":
    main()
