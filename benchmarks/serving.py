"""What serving costs over the bare session: images a second, latency, and twenty thousand mixed requests.

    ensemble export --members 'fastnet-seed[1-5]' --tta flip -o five.onnx --member-probs
    ensemble export --members fastnet-seed1 -o one.onnx --member-probs
    python -m benchmarks.serving five.onnx=0.9 one.onnx=0.65        # about ten minutes on two CPU cores

For each graph a server is started, and measured beside the bare session (`export.runtime`, batches of 64) in turns, in
processes of their own; who comes first changes from round to round, and ratios are of one round. Client and server
share the machine; the client is one asyncio process that writes prepared bytes, and its share of a core is said.

- `64 x 16`: 64 clients, each with one connection and one request of 16 images of its own at a time, as tritonclient
  sends them: binary tensors, all outputs;
- `64 x 1`: the same with one image;
- `1 x 1`: one client, one image at a time: the latency, and what it is over the bare session's;
- mixed: requests of 1 to 4 images as binary tensors or JSON, compressed or not, and pictures, 5 % of them malformed in
  sixty ways, over 64 connections, to a fresh server of the last graph.

Every answer is held to the session's own (1e-4), after the clock has stopped; every bad request must get a 4xx and a
sentence. Memory is that of all processes of the server, Ray's among them, before the first mixed request and after the
last; and that of the replicas, which a leak would be a larger part of, from the first tenth of the requests on: until
then they meet each size of batch and each kind of request for the first time.

Exits with 1 where something falls short: a graph's share of the bare session in `64 x 16` below what is given after its
`=`, a median latency 5 ms over the bare session's or more, a wrong answer, or memory that grows by 5 % or more.
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
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import psutil

from benchmarks.serving_client import Connection, infer, infer_all, picture, right
from benchmarks.serving_malformed import malformed
from export.runtime import open_session
from zoo.data import load_split

ROOT = Path(__file__).resolve().parent.parent
SERVE = "import sys; from zoo.cli.group import run; from ensemble.cli.serve import command; sys.exit(run(command))"
CLIENTS, IMAGES, BATCH = 64, 16, 64
BAD, PICTURES = 0.05, 0.1
MOST_ADDED_MS, MOST_GROWTH = 5.0, 0.05

Images = npt.NDArray[np.uint8]
Said = tuple[int, int, bytes]


async def load(port: int, name: str, parts: Sequence[Images], seconds: float) -> tuple[dict[str, float], list[Said]]:
    """Let clients ask again and again for some seconds, and return what came of it.

    Args:
        port: of the server.
        name: of its model.
        parts: the images of each client.
        seconds: how long.

    Returns:
        Images a second, latencies, the client's share of a core; and the answers: the client's number, the status, and
        the body.
    """
    contents = [infer_all(name, images) for images in parts]
    latencies: list[float] = []
    answers: list[Said] = []
    began, cpu = time.perf_counter(), time.process_time()

    async def client(number: int) -> None:
        connection = Connection(port)
        while time.perf_counter() < began + seconds:
            sent = time.perf_counter()
            status, body = await connection.ask(contents[number])
            latencies.append(time.perf_counter() - sent)
            answers.append((number, status, body))
        connection.close()

    await asyncio.gather(*map(client, range(len(parts))))
    took = time.perf_counter() - began
    found = {
        "images_per_second": sum(len(parts[number]) for number, _, _ in answers) / took,
        "median_ms": 1000 * statistics.median(latencies),
        "p99_ms": 1000 * float(np.percentile(latencies, 99)),
        "client_cpu": (time.process_time() - cpu) / took,
    }
    return found, answers


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


async def mix(port: int, name: str, path: Path, number: int, pid: int) -> dict[str, Any]:
    """Send mixed requests over many connections, and hold every answer to the session's own.

    Args:
        port: of the server.
        name: of its model.
        path: of its graph.
        number: of requests.
        pid: of the server: its memory and that of all below it is looked at every tenth of the requests.
    """
    images = load_split("cifar10", "test").images[:256]
    session = open_session(path, device="cpu", spin=False)
    wanted = session.run(images)
    bad = malformed(name, images[:2], random.Random(0))
    statuses: Counter[int] = Counter()
    kinds: Counter[str] = Counter()
    wrong: list[str] = []
    left = iter(range(number))
    sizes = [memory(pid, port)]

    async def client(seed: int) -> None:
        rng, connection = random.Random(seed), Connection(port)
        for at in left:
            if (at + 1) % max(1, number // 10) == 0:
                sizes.append(memory(pid, port))
            if rng.random() < BAD:
                kind = rng.choice(list(bad))
                status, body = await connection.ask(bad[kind])
                kinds[kind] += 1
                if not refused(status, body):
                    wrong.append(f"{kind}: answered {status}: {body[:200]!r}")
            else:
                first, count, how = rng.randrange(252), rng.randint(1, 4), rng.random()
                count = 1 if how < PICTURES else count
                some = images[first : first + count]
                binary, packed = rng.random() < 0.75, rng.random() < 0.15  # noqa: PLR2004
                content = picture(some[0]) if how < PICTURES else infer(name, some, binary=binary, packed=packed)
                status, body = await connection.ask(content)
                if status != 200 or not right(body, wanted[first : first + count], session.classes):  # noqa: PLR2004
                    wrong.append(f"a good request was answered {status}: {body[:200]!r}")
            statuses[status] += 1
        connection.close()

    await asyncio.gather(*(client(seed) for seed in range(CLIENTS)))
    return {
        "requests": number,
        "statuses": {str(status): count for status, count in sorted(statuses.items())},
        "malformed": dict(sorted(kinds.items())),
        "wrong": len(wrong),
        "first_wrong": wrong[:3],
        "memory_mb": {part: [round(size[part] / 2**20, 1) for size in sizes] for part in sizes[0]},
        "memory_growth": {part: sizes[-1][part] / sizes[at][part] - 1 for part, at in (("all", 0), ("replicas", 1))},
    }


def refused(status: int, body: bytes) -> bool:
    """Say whether an answer is a refusal with a sentence."""
    table = json.loads(body)
    return 400 <= status < 500 and list(table) == ["error"] and " " in table["error"]  # noqa: PLR2004


def memory(pid: int, port: int) -> dict[str, int]:
    """Return the bytes of a process and of all below it, and those of the ones that listen on a port: the replicas.

    What several share is divided among them.
    """
    head = psutil.Process(pid)
    found = {"replicas": 0, "all": 0}
    for process in (head, *head.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):  # Ray's come and go
            size = process.memory_full_info().pss
            found["all"] += size
            listens = any(one.status == "LISTEN" and one.laddr.port == port for one in process.net_connections("tcp"))
            found["replicas"] += size * (listens and process != head)  # which only holds the port for them
    return found


@contextmanager
def server(path: Path, options: list[str]) -> Iterator[dict[str, Any]]:
    """Yield what a server says of itself once it is ready: its port, the name of its model, its pid."""
    command = [sys.executable, "-c", SERVE, str(path), "--port", "0", "--json", *options]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:  # noqa: S603  # ourselves
        assert process.stdout is not None  # noqa: S101  # a pipe
        try:
            yield json.loads(process.stdout.readline() or sys.exit("the server did not start: see above"))
        finally:
            process.terminate()


def measure(path: Path, port: int, name: str, images: Images, arguments: argparse.Namespace) -> dict[str, Any]:
    """Measure a server beside the bare session, in turns."""
    session = open_session(path, device="cpu")
    wanted = session.run(images[: CLIENTS * IMAGES])
    seconds = arguments.seconds
    wrong = 0

    def served(clients: int, size: int, seconds: float) -> dict[str, float]:
        nonlocal wrong
        parts = [images[size * n : size * (n + 1)] for n in range(clients)]
        found, answers = asyncio.run(load(port, name, parts, seconds))
        for number, status, body in answers:
            good = status == 200 and right(body, wanted[size * number : size * (number + 1)], session.classes)  # noqa: PLR2004
            wrong += not good
        return found

    parts: dict[str, Callable[[], dict[str, float]]] = {
        "bare": lambda: bare(session, images, seconds),
        "many": lambda: served(CLIENTS, IMAGES, seconds),
        "singles": lambda: served(CLIENTS, 1, seconds / 2),
        "single": lambda: served(1, 1, seconds / 2),
    }
    rounds: list[dict[str, dict[str, float]]] = []
    for number in range(arguments.rounds):
        first = number % len(parts)
        one = {part: parts[part]() for part in [*list(parts)[first:], *list(parts)[:first]]}
        share = one["many"]["images_per_second"] / one["bare"]["images_per_second"]
        one["ratios"] = {"throughput": share, "added_ms": one["single"]["median_ms"] - one["bare"]["median_ms"]}
        rounds.append(one)
        print(f"  {path.stem}, round {number + 1}: {share:.1%} of the bare session", file=sys.stderr)
    return {"rounds": rounds, "wrong": wrong}


def median(found: dict[str, Any], part: str, key: str) -> float:
    """Return the median of the rounds."""
    return float(statistics.median(one[part][key] for one in found["rounds"]))


def table(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of a report for people."""
    heads = ("bare", "64 x 16", "of bare", "client", "64 x 1", "bare, 1", "1 x 1", "added")
    yield f"{'':<12}" + "".join(f"{head:>11}" for head in heads)
    for label, found in report["graphs"].items():
        cells = (
            f"{median(found, 'bare', 'images_per_second'):.0f} i/s",
            f"{median(found, 'many', 'images_per_second'):.0f} i/s",
            f"{median(found, 'ratios', 'throughput'):.1%}",
            f"{median(found, 'many', 'client_cpu'):.1%}",
            f"{median(found, 'singles', 'images_per_second'):.0f} i/s",
            f"{median(found, 'bare', 'median_ms'):.2f} ms",
            f"{median(found, 'single', 'median_ms'):.2f} ms",
            f"{median(found, 'ratios', 'added_ms'):.2f} ms",
        )
        yield f"{Path(label).stem:<12}" + "".join(f"{cell:>11}" for cell in cells)
    if "mixed" in report:
        mixed = report["mixed"]
        grown = ", ".join(
            f"{part} {' '.join(f'{size:.0f}' for size in sizes)} MB ({mixed['memory_growth'][part]:+.1%})"
            for part, sizes in mixed["memory_mb"].items()
        )
        yield (
            f"{mixed['requests']:,} mixed requests: {mixed['wrong']} answered wrongly, statuses {mixed['statuses']}, "
            f"{len(mixed['malformed'])} kinds of malformed ones; memory, a tenth at a time: {grown}"
        )


def shortfalls(report: dict[str, Any], least: dict[str, float]) -> Iterator[str]:
    """Yield what of a report falls short.

    Args:
        report: as it is printed.
        least: label of a graph -> the share of the bare session's images a second that there should be.
    """
    for label, found in report["graphs"].items():
        share, added = median(found, "ratios", "throughput"), median(found, "ratios", "added_ms")
        if share < least.get(label, 0):
            yield f"{label}: {share:.1%} of the bare session, not {least[label]:.0%}"
        if added >= MOST_ADDED_MS:
            yield f"{label}: {added:.1f} ms over the bare session's latency"
        if found["wrong"]:
            yield f"{label}: {found['wrong']} wrong answers"
    mixed = report.get("mixed", {"wrong": 0, "memory_growth": {}})
    if mixed["wrong"]:
        yield f"{mixed['wrong']} wrong answers to mixed requests, such as: {'; '.join(mixed['first_wrong'])}"
    for part, growth in mixed["memory_growth"].items():
        if growth >= MOST_GROWTH:
            yield f"memory of {part} grew by {growth:.1%}"


def graph(text: str) -> tuple[Path, float | None]:
    """Return the file and the share of `FILE=SHARE`, or of `FILE`."""
    name, _, share = text.partition("=")
    return Path(name).resolve(), float(share) if share else None


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Serving beside the bare session.")
    parser.add_argument("graphs", nargs="+", type=graph, metavar="GRAPH[=SHARE]", help="Files of `ensemble export`.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=4.0, help="Of each measurement.")
    parser.add_argument("--requests", type=int, default=20_000, help="Mixed ones; 0 for none.")
    parser.add_argument(
        "--serve", action="append", default=[], metavar="OPTION", help="For the server, such as --serve=--threads=1."
    )
    parser.add_argument("--json", action="store_true")
    arguments = parser.parse_args()
    images = load_split("cifar10", "test").images
    report: dict[str, Any] = {"graphs": {}}
    for path, _ in arguments.graphs:
        with server(path, arguments.serve) as ready:
            report["graphs"][str(path)] = measure(path, ready["port"], ready["model"], images, arguments)
    if arguments.requests:
        path = arguments.graphs[-1][0]
        with server(path, arguments.serve) as ready:
            mixed = mix(ready["port"], ready["model"], path, arguments.requests, ready["pid"])
            report["mixed"] = asyncio.run(mixed)
    print(json.dumps(report, indent=1) if arguments.json else "\n".join(table(report)))
    short = list(shortfalls(report, {str(path): share for path, share in arguments.graphs if share is not None}))
    if short:
        sys.exit("\n".join(short))


if __name__ == "__main__":
    main()
