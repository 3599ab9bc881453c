"""Seconds to load a checkpoint of 220 MB: this project's beside PyTorch's, safetensors' and the Hub client's ways.

    python -m benchmarks.loading            # about a minute on two cores; needs 1 GB in the temporary folder

The network is wrn40-10 with random weights, in fp32, filed as an entry, as a file of `torch.save` and as one of
`safetensors.torch.save_file`. All files lie in the page cache, and all contenders end with the network in eval mode:

- `plain read`: the entry's file into a Python `bytes`, and no network: what loading should cost at most;
- `menagerie`: `Entry.load()`, sha256 checked before and recorded; `first time` without the record, so with hashing;
- `torch.load`, `safetensors`, `huggingface_hub`: as their documentation shows it, into a network made for it;
- `torch.load, lean` and `safetensors, lean`: likewise, but as fast as their users can have it: mapped, into a network
  on the meta device that takes the tensors over (`assign=True`).

They take turns, and the median of the rounds counts. `used` includes the sum over every weight, since what is mapped is
read only then. `at first` is the first load of a fresh process, PyTorch imported. `memory` is how much the peak of
resident memory grows there while the network is loaded and used, `of its own` the part of what is resident in the end
that no other process shares.
"""

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import huggingface_hub
import safetensors
import torch
from huggingface_hub import load_torch_model
from safetensors.torch import load_file, save_file
from torch import nn

from zoo import checkpoint, verified
from zoo.archs import create
from zoo.card import Card
from zoo.entry import WEIGHTS, Entry, write_entry

NAME, CLASSES = "wrn40-10-random", 10
TORCH_FILE, SAFETENSORS_FILE = "model.pt", "theirs.safetensors"
ROOT = Path(__file__).resolve().parent.parent
Load = Callable[[], nn.Module | None]


def make_files(folder: Path, arch: str) -> None:
    """Write one network with random weights to `folder`, in each contender's format."""
    torch.manual_seed(0)
    net = create(arch, CLASSES)
    card = Card(
        name=NAME,
        architecture=arch,
        dataset="cifar10",
        classes=tuple(f"class{i}" for i in range(CLASSES)),
        mean=(0.5, 0.5, 0.5),
        std=(0.25, 0.25, 0.25),
        input_size=(32, 32),
    )
    write_entry(folder / NAME, card, checkpoint.encode(net, torch.float32), None)
    torch.save(net.state_dict(), folder / TORCH_FILE)
    save_file(net.state_dict(), folder / SAFETENSORS_FILE)


def contenders(folder: Path, arch: str) -> dict[str, Load]:
    """Return what is compared: name -> a function that returns the network in eval mode, or None if there is none."""
    ours = folder / NAME
    theirs, pickled = folder / SAFETENSORS_FILE, folder / TORCH_FILE

    def lean(load: Callable[[], dict[str, torch.Tensor]]) -> nn.Module:
        with torch.device("meta"):
            net = create(arch, CLASSES)
        net.load_state_dict(load(), assign=True)
        return net.eval()

    def usual(load: Callable[[], dict[str, torch.Tensor]]) -> nn.Module:
        net = create(arch, CLASSES)
        net.load_state_dict(load())
        return net.eval()

    def plain() -> None:
        (ours / WEIGHTS).read_bytes()

    def menagerie() -> nn.Module:
        return Entry(NAME, ours, str(folder)).load()

    def first_time() -> nn.Module:
        verified.forget(ours)
        return menagerie()

    def hub() -> nn.Module:
        net = create(arch, CLASSES)
        load_torch_model(net, theirs, strict=True)
        return net.eval()

    return {
        "plain read": plain,
        "menagerie": menagerie,
        "menagerie, first time": first_time,
        "torch.load, lean": lambda: lean(lambda: torch.load(pickled, weights_only=True, mmap=True)),
        "torch.load": lambda: usual(lambda: torch.load(pickled, weights_only=True)),
        "safetensors, lean": lambda: lean(lambda: load_file(theirs)),
        "safetensors": lambda: usual(lambda: load_file(theirs)),
        "huggingface_hub": hub,
    }


def use(net: nn.Module | None) -> None:
    """Read every number of a network once."""
    if net is not None:
        for value in net.state_dict().values():
            value.sum()


def seconds(loads: dict[str, Load], rounds: int) -> dict[str, tuple[float, float]]:
    """Return medians by contender: seconds to load, and to load and use; in turns, after one round to warm up."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in loads}
    for _ in range(rounds + 1):
        for name, load in loads.items():
            began = time.perf_counter()
            net = load()
            loaded = time.perf_counter()
            use(net)
            times[name].append((loaded - began, time.perf_counter() - began))
    return {
        name: (statistics.median(row[0] for row in rows[1:]), statistics.median(row[1] for row in rows[1:]))
        for name, rows in times.items()
    }


def resident(key: str) -> int:
    """Return a figure of this process's resident memory in bytes, as Linux has it: `VmHWM` (peak), `RssAnon`."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(f"{key}:"))


def at_first(load: Load) -> tuple[float, int, int]:
    """Return the seconds of a load, and by how many bytes the peak of resident memory, and what is our own, grow."""
    Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak begins anew
    peak, own = resident("VmHWM"), resident("RssAnon")
    began = time.perf_counter()
    net = load()
    loaded = time.perf_counter() - began
    use(net)
    return loaded, resident("VmHWM") - peak, resident("RssAnon") - own


def in_fresh_process(name: str, folder: Path, arch: str) -> dict[str, float]:
    """Return what `at_first` finds in a process of its own, in seconds and MB."""
    command = [sys.executable, "-m", "benchmarks.loading", "--arch", arch, "--first", name, str(folder)]
    found = subprocess.run(command, check=True, capture_output=True, text=True, cwd=ROOT)  # noqa: S603  # ourselves
    first, peak, own = json.loads(found.stdout)
    return {"seconds_at_first": first, "peak_mb": peak / 1e6, "own_mb": own / 1e6}


def measure(folder: Path, arch: str, rounds: int) -> dict[str, dict[str, float]]:
    """Return the figures of each contender by name, in seconds and MB."""
    make_files(folder, arch)
    time.sleep(2.5)  # nothing is recorded of files that changed a moment ago
    loads = contenders(folder, arch)
    loads["menagerie"]()
    found: dict[str, dict[str, float]] = {}
    for name, (load, used) in seconds(loads, rounds).items():
        found[name] = {"seconds": load, "seconds_used": used}
        if sys.platform.startswith("linux"):
            found[name] |= in_fresh_process(name, folder, arch)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Measure, and print a table or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--arch", default="wrn40-10", help="the network; another one for a quick look")
    parser.add_argument("--rounds", type=int, default=11, help="turns that each contender gets; the median counts")
    parser.add_argument("--json", metavar="FILE", help="write the figures as JSON; - for stdout instead of the table")
    parser.add_argument("--first", nargs=2, metavar=("NAME", "FOLDER"), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.first:
        name, folder = options.first
        print(json.dumps(at_first(contenders(Path(folder), options.arch)[name])))
        return
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["ZOO_HOME"] = str(Path(temporary) / "home")
        found = measure(Path(temporary), options.arch, options.rounds)
        size = (Path(temporary) / NAME / WEIGHTS).stat().st_size / 1e6
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, safetensors {safetensors.__version__}"
    result = {
        "hardware": f"{platform.processor() or 'CPU'}, {os.cpu_count()} CPU cores, {torch.get_num_threads()} threads",
        "versions": f"{versions}, huggingface_hub {huggingface_hub.__version__}",
        "megabytes": size,
        "rounds": options.rounds,
        "contenders": found,
    }
    if options.json:
        text = json.dumps(result, indent=2)
        if options.json == "-":
            print(text)
            return
        Path(options.json).write_text(text + "\n", encoding="utf-8")
    print(f"{result['hardware']}; {result['versions']}; {size:.0f} MB, median of {options.rounds} rounds")
    print(f"{'':22s} {'load':>10s} {'and use':>10s} {'at first':>10s} {'memory':>10s} {'of its own':>10s}")
    for name, row in found.items():
        shown = [f"{1000 * row[key]:.0f} ms" for key in ("seconds", "seconds_used", "seconds_at_first") if key in row]
        shown += [f"{row[key]:.0f} MB" for key in ("peak_mb", "own_mb") if key in row]
        print(f"{name:22s} " + " ".join(f"{text:>10s}" for text in shown))


if __name__ == "__main__":
    main()
