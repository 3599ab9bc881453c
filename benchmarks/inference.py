"""Images a second of a committee, beside ttach, torch-uncertainty and a plain loop, on one machine in one run.

    python -m venv peer && peer/bin/pip install . ttach torch-uncertainty lightning
    python -m benchmarks.inference --peer peer/bin/python               # on the CPU, 2 threads; about ten minutes
    python -m benchmarks.inference --peer peer/bin/python --device cuda --images 10000

Every contender asks the same networks (the five fastnets that ship, with flip and equal weights) about
the same CIFAR-10 test images, each in a process of its own, in turns; who comes first changes from round to round:

- `plain`: a loop over networks and views, as tutorials show; fp32, the default memory layout;
- `ttach`: its `ClassificationTTAWrapper` around each network of a list;
- `torch-uncertainty`: its `deep_ensembles`, over the image and its mirror image;
- each of these again in small batches, 32 images at a time, as our frozen networks work on a CPU;
- `ours, theirs`: the frozen committee at their precision and layout, in a process like theirs;
- `ours`: `ensemble.freeze` as it ships, with the allocator's setting of our commands (`zoo.allocator`);
- `ours, compiled`: the same through `torch.compile`;
- `cascade`: the same committee in stages that `ensemble cascade` fits on the validation split.

`plain, small batches, our allocator` is no contender: it shows what both are worth to a plain loop. Each contender's
top classes are held to the plain loop's: this ends with 1 if one but the cascade agrees on less than 99.9 %. A ratio is
to the fastest peer of the same round; the median of the rounds is what counts. Then one image at a time, where the
distribution matters: median and 99th percentile, the medians of the rounds.
"""

import argparse
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

import ensemble
from ensemble.latency.measure import measure, shuffled_batches
from ensemble.lockfile import Committee, write_lockfile
from ensemble.members import parse_members
from tta.batches import device_batches
from tta.freeze import Setting
from zoo import store
from zoo.allocator import keep_freed_memory
from zoo.data import load_split

MEMBERS = [f"fastnet-seed{seed}" for seed in range(1, 6)]
LIBRARIES = ("ttach", "torch-uncertainty")
SMALL_BATCHES = ", small batches"
PEERS = ("plain", *LIBRARIES, *(name + SMALL_BATCHES for name in ("plain", *LIBRARIES)))
ALLOCATED = "plain, small batches, our allocator"
SHIPPED = ("ours", "ours, compiled", "cascade")
CONTENDERS = (*PEERS, ALLOCATED, "ours, theirs", *SHIPPED)
SMALL = 32
AGREEMENT = 0.999
ROOT = Path(__file__).resolve().parent.parent

Run = Callable[[Tensor], Tensor]
"""uint8 `[N, H, W, 3]` on the device -> probabilities `[N, C]`."""


def plain(nets: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return a loop over networks and views: normalised images -> mean probabilities."""
    return lambda x: torch.stack([net(view).softmax(1) for net in nets for view in (x, x.flip(-1))]).mean(0)


def ttach_list(nets: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return ttach's wrapper around each network; its mean is of what the network gives, here probabilities."""
    import ttach  # noqa: PLC0415  # a peer, in an environment of its own

    wrapped = [
        ttach.ClassificationTTAWrapper(nn.Sequential(net, nn.Softmax(1)), ttach.aliases.hflip_transform(), "mean")
        for net in nets
    ]
    return lambda x: torch.stack([net(x) for net in wrapped]).mean(0)


def deep_ensembles(nets: list[nn.Module]) -> Callable[[Tensor], Tensor]:
    """Return torch-uncertainty's ensemble, over the image and its mirror image."""
    from torch_uncertainty.methods import deep_ensembles as build  # noqa: PLC0415  # a peer

    committee = build(nets, task="classification").eval()
    shape = (len(nets), 2, -1)
    return lambda x: committee(torch.cat((x, x.flip(-1)))).softmax(1).unflatten(0, shape).mean((0, 1))


def build(name: str, device: torch.device, lockfile: Path) -> Run:
    """Return what a contender runs."""
    if name in {*PEERS, ALLOCATED}:
        nets = [store.find(member).load().eval().to(device) for member in MEMBERS]
        card = store.find(MEMBERS[0]).card
        mean, std = (torch.tensor(v, device=device).view(3, 1, 1) for v in (card.mean, card.std))
        make = {"ttach": ttach_list, "torch-uncertainty": deep_ensembles}.get(name.partition(",")[0], plain)
        run = make(nets)
        return lambda pixels: run((pixels.permute(0, 3, 1, 2).contiguous() / 255 - mean) / std)
    committee = ensemble.load(lockfile) if name == "cascade" else ensemble.load(",".join(MEMBERS), views="flip")
    if name == "ours, theirs":
        return ensemble.freeze(committee, Setting(device, channels_last=False))
    return ensemble.freeze(committee, Setting.best(device, compile=name == "ours, compiled"))


def versions(name: str) -> dict[str, str]:
    """Return the versions that a contender ran with."""
    return {package: metadata.version(package) for package in ("torch", *({name.partition(",")[0]} & set(LIBRARIES)))}


def run_one(name: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """Return a contender's images a second, its latencies one image at a time, and leave its answers in a file."""
    device = torch.device(arguments.device)
    if name in {*SHIPPED, ALLOCATED}:
        keep_freed_memory()
    images = load_split("cifar10", "test").images[: arguments.images]
    run = build(name, device, arguments.lockfile)
    with torch.inference_mode():
        size = SMALL if SMALL_BATCHES in name else arguments.batch_size
        for batch in device_batches(images[: 2 * size], size, device):
            run(batch)  # warm
        if name == "ours, compiled" and not all(net.compiled for net in run.nets):  # type: ignore[attr-defined]
            sys.exit("torch.compile failed: see above")
        began = time.perf_counter()
        answers = [run(batch).float() for batch in device_batches(images, size, device)]
        probs = torch.cat(answers).cpu()  # waits for the device
        seconds = time.perf_counter() - began
        np.save(arguments.answers, probs.argmax(1).numpy())
        result: dict[str, Any] = {"images_per_second": len(images) / seconds, "versions": versions(name)}
        if arguments.singly:
            batches = shuffled_batches(images, 1, seed=0, device=device)
            result["singly"] = measure(run, batches, device=device, seconds=arguments.singly).to_dict()
    return result


def fit_cascade(lockfile: Path, drop: float) -> None:
    """Write the committee and its cascade, fitted on the validation split by the command, as a lockfile."""
    committee, whole = Committee(tuple(parse_members(",".join(MEMBERS))), "flip"), lockfile.with_name("whole.json")
    write_lockfile(whole, committee, fitted_on=None, metrics={})
    program = "from ensemble.cli.cascade import command; command()"
    options = ["--max-accuracy-drop", str(drop), "-o", str(lockfile)]
    subprocess.run([sys.executable, "-c", program, str(whole), *options], cwd=ROOT, check=True, stdout=sys.stderr)  # noqa: S603  # ourselves


def measure_all(arguments: argparse.Namespace) -> Iterator[dict[str, dict[str, Any]]]:
    """Yield each round's results by contender, with the agreement with the plain loop."""
    names = [n for n in CONTENDERS if arguments.peer or n.partition(",")[0] not in LIBRARIES]
    with tempfile.TemporaryDirectory() as scratch:
        for number in range(arguments.rounds):
            results, tops = {}, {}
            for name in names[number % len(names) :] + names[: number % len(names)]:
                answers = Path(scratch) / "answers.npy"
                python = arguments.peer if name in PEERS and arguments.peer else sys.executable
                words = [python, "-m", "benchmarks.inference", "--one", name, "--answers", str(answers)]
                for option in ("device", "images", "batch_size", "threads", "lockfile"):
                    words += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
                words += ["--singly", str(arguments.singly)]
                done = subprocess.run(words, cwd=ROOT, check=True, stdout=subprocess.PIPE, text=True)  # noqa: S603  # ourselves
                tops[name] = np.load(answers)
                results[name] = json.loads(done.stdout.splitlines()[-1])
                print(f"  {name:<36}{results[name]['images_per_second']:>8,.0f} images/s", file=sys.stderr)
            for name in names:
                results[name]["agreement"] = float((tops[name] == tops["plain"]).mean())
            if len(torches := {result["versions"]["torch"] for result in results.values()}) > 1:
                sys.exit(f"the environments have different versions of torch: {', '.join(sorted(torches))}")
            yield results


def fastest(results: dict[str, dict[str, Any]]) -> float:
    """Return the images a second of the fastest peer of a round."""
    return max(float(results[name]["images_per_second"]) for name in PEERS if name in results)


def main() -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description="Inference of a committee beside other libraries.")
    parser.add_argument(
        "--peer", help="Python of an environment with ttach and torch-uncertainty; without, plain alone."
    )
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--images", type=int, default=2048, help="Of the test split; whole batches.")
    parser.add_argument("--batch-size", type=int, default=512)
    parser.add_argument(
        "--singly", type=float, default=4.0, help="Seconds of one image at a time, in each round; 0 for none."
    )
    parser.add_argument("--max-accuracy-drop", type=float, default=0.0005, help="Of the cascade, on validation.")
    parser.add_argument("--json", action="store_true")
    for hidden in ("--one", "--answers", "--lockfile"):
        parser.add_argument(hidden, type=str if hidden == "--one" else Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    if arguments.images % arguments.batch_size or arguments.images % SMALL:
        parser.error(f"--images {arguments.images} are no whole batches")
    if arguments.one:
        print(json.dumps(run_one(arguments.one, arguments)))
        return
    with tempfile.TemporaryDirectory() as folder:
        arguments.lockfile = Path(folder) / "cascade.json"
        fit_cascade(arguments.lockfile, arguments.max_accuracy_drop)
        rounds = list(measure_all(arguments))
    names = list(rounds[0])
    rows = {
        name: {
            "images_per_second": statistics.median(r[name]["images_per_second"] for r in rounds),
            "ratios": sorted(r[name]["images_per_second"] / fastest(r) for r in rounds),
            "agreement": min(r[name]["agreement"] for r in rounds),
            "singly": {
                key: statistics.median(r[name]["singly"][key] for r in rounds) for key in ("median_ms", "p99_ms")
            }
            if arguments.singly
            else None,
            "versions": rounds[0][name]["versions"],
        }
        for name in names
    }
    about = {
        "device": torch.cuda.get_device_name(0) if arguments.device != "cpu" else f"{arguments.threads} CPU threads",
        "versions": {"python": platform.python_version()}
        | {k: v for r in rows.values() for k, v in r["versions"].items()},
        "members": MEMBERS,
        "images": arguments.images,
        "batch_size": arguments.batch_size,
        "rounds": len(rounds),
    }
    if arguments.json:
        print(json.dumps({**about, "contenders": rows}))
    else:
        show(about, rows)
    if low := [name for name, row in rows.items() if row["agreement"] < AGREEMENT and name != "cascade"]:
        sys.exit(
            f"other answers than the plain loop's on more than {1 - AGREEMENT:.1%} of the images: {', '.join(low)}"
        )


def show(about: dict[str, Any], rows: dict[str, dict[str, Any]]) -> None:
    """Print the results as a table."""
    used = ", ".join(f"{package} {version}" for package, version in about["versions"].items())
    print(
        f"five fastnets with flip, {about['images']:,} test images in batches of {about['batch_size']}, "
        f"{about['rounds']} rounds; {about['device']}; {used}"
    )
    print(f"{'':<36} images/s   of the fastest peer   same class   one image: median, p99")
    for name, row in rows.items():
        ratio = f"{statistics.median(row['ratios']):.2f} ({row['ratios'][0]:.2f} to {row['ratios'][-1]:.2f})"
        singly = row["singly"]
        times = f"{singly['median_ms']:.1f} ms, {singly['p99_ms']:.1f} ms" if singly else ""
        same = f"{100 * row['agreement']:.2f} %"
        print(f"{name:<36}{row['images_per_second']:>9,.0f}   {ratio:>19}   {same:>10}   {times:>23}")


if __name__ == "__main__":
    main()
