"""`zoo import`: from someone's file to an entry, what is said of it, and what is refused."""

import hashlib
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from tests.conftest import random_split
from tests.zoo.conftest import Outcome, listing, write_mosaic
from tests.zoo.importing.published import pyramids, resnets
from tests.zoo.importing.published.parts import randomised
from zoo.data import MEAN_STD, Split
from zoo.entry import Entry
from zoo.images import normalize

WIDTHS = (4, 8, 16)
SPLIT = random_split(40)
Command = Callable[..., Outcome]
SMALL = ("--arch-arg", "depth=8", "--arch-arg", "widths=[4,8,16]")


@pytest.fixture
def zoo(command: Command, monkeypatch: pytest.MonkeyPatch) -> Command:
    """Return a function that runs `zoo import` with some arguments."""
    from zoo import cli

    monkeypatch.setattr("zoo.allocator.keep_freed_memory", lambda: True)
    monkeypatch.setitem(cli.group._modules, "import", ("zoo.cli.import_", ""))
    return lambda *words: command("import", *words)


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return write_mosaic(tmp_path / "data", {"test": SPLIT, "train-1": random_split(60, seed=1)})


@pytest.fixture
def theirs() -> nn.Module:
    torch.manual_seed(0)
    return randomised(resnets.chenyaofo(WIDTHS, 1))


@pytest.fixture
def file(tmp_path: Path, theirs: nn.Module) -> Path:
    torch.save({"net": theirs.state_dict(), "acc": 93.1}, tmp_path / "theirs.pth")
    return tmp_path / "theirs.pth"


@pytest.fixture
def cache(zoo_home: Path) -> Path:
    return zoo_home / "entries"


def logits(net: nn.Module, split: Split = SPLIT, stats: Any = MEAN_STD["cifar10"]) -> Any:  # noqa: ANN401
    with torch.no_grad():
        return net(normalize(torch.from_numpy(split.images[split.order]), *stats)).numpy()


def test_an_entry(zoo: Command, file: Path, data: Path, cache: Path, theirs: nn.Module) -> None:
    shown = zoo(file, "--arch", "resnet20", *SMALL, "--name", "theirs-seed7", "--data", data, "--device", "cpu")
    assert shown.code == 0
    entry = Entry("theirs-seed7", cache / "theirs-seed7", "cache")
    entry.verify()
    card = entry.card
    expected = logits(theirs)
    np.testing.assert_allclose(entry.predictions().splits["test"].views["none"], expected, rtol=2e-3, atol=2e-3)
    assert set(entry.predictions().splits) == {"test", "val"}
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(entry.load()(images), theirs(images), rtol=1e-4, atol=1e-4)
    right = float((expected.argmax(1) == SPLIT.labels[SPLIT.order]).mean())
    assert card.metrics["test"]["none"] == pytest.approx(right, abs=1e-5)
    assert shown.out.startswith(f"{entry.folder}: {len(theirs.state_dict())} tensors, paired by order and shape; ")
    assert f"{100 * right:.2f} % on the test split" in shown.out
    assert shown.err.splitlines()[-1].startswith("warning: ")
    assert "is near chance" in shown.err
    assert (card.architecture, card.architecture_args) == ("resnet20", {"depth": 8, "widths": [4, 8, 16]})
    assert (card.seed, card.recipe, card.trained_on, card.license) == (7, None, None, None)
    assert (card.mean, card.std) == MEAN_STD["cifar10"]
    assert card.parameters == sum(p.numel() for p in theirs.parameters())
    assert card.multiply_adds > 0
    assert card.training == {
        "imported_from": "theirs.pth",
        "sha256": hashlib.sha256(file.read_bytes()).hexdigest(),
        "paired_by": "order and shape",
        "weights": "float32",
    }


@pytest.mark.parametrize(
    ("flag", "stored", "filed"),
    [(None, "half", "F16"), (None, "bfloat16", "BF16"), ("fp16", "float", "F16"), (None, "double", "F32")],
)
def test_types(
    zoo: Command, tmp_path: Path, cache: Path, theirs: nn.Module, flag: str | None, stored: str, filed: str
) -> None:
    torch.save(getattr(theirs, stored)().state_dict(), tmp_path / "theirs.pth")
    words = ["--dtype", flag] if flag else []
    shown = zoo(tmp_path / "theirs.pth", "--arch", "resnet20", *SMALL, "--name", "t", "--no-predictions", *words)
    assert (shown.code, shown.err) == (0, "")
    assert f'"{filed}"' in (cache / "t" / "model.safetensors").read_bytes()[:5000].decode(errors="replace")
    assert Entry("t", cache / "t", "cache").card.metrics == {}


def test_what_is_given_is_filed(zoo: Command, file: Path, data: Path, tmp_path: Path, theirs: nn.Module) -> None:
    words = ("--mean", "0.5", "--std", "0.25,0.2,0.3", "--license", "mit", "--to", tmp_path / "team", "--json")
    shown = zoo(file, "--arch", "resnet20", *SMALL, "--name", "theirs", "--data", data, "--device", "cpu", *words)
    assert shown.code == 0
    entry = Entry("theirs", tmp_path / "team" / "theirs", "team")
    assert (entry.card.mean, entry.card.std, entry.card.license) == ((0.5, 0.5, 0.5), (0.25, 0.2, 0.3), "mit")
    stats = ((0.5, 0.5, 0.5), (0.25, 0.2, 0.3))
    found = entry.predictions().splits["test"].views["none"]
    np.testing.assert_allclose(found, logits(theirs, stats=stats), rtol=2e-3, atol=2e-3)
    result = json.loads(shown.out)
    assert result["folder"] == str(entry.folder)
    assert result["matched_by"] == "order and shape"
    assert result["metrics"] == json.loads((entry.folder / "config.json").read_text())["metrics"]


def test_a_better_network_gets_no_warning(zoo: Command, tmp_path: Path, data: Path, theirs: nn.Module) -> None:
    """The head is fitted to the labels, which 16 features nearly allow for 40 images."""
    features: list[torch.Tensor] = []
    theirs.get_submodule("fc").register_forward_hook(lambda _module, args, _out: features.append(args[0]))
    logits(theirs)
    design = torch.cat((features[0], torch.ones(40, 1)), 1).double()
    targets = nn.functional.one_hot(torch.from_numpy(SPLIT.labels[SPLIT.order]), 10).double()
    solution = torch.linalg.lstsq(design, targets).solution.float()
    theirs.load_state_dict({**theirs.state_dict(), "fc.weight": solution[:-1].T, "fc.bias": solution[-1]})
    torch.save(theirs.state_dict(), tmp_path / "good.pth")
    words = ("--arch", "resnet20", *SMALL, "--name", "good", "--data", data, "--device", "cpu", "-q")
    assert zoo(tmp_path / "good.pth", *words) == Outcome(0, "", "")


def test_own_weights_by_name(zoo: Command, tmp_path: Path, make_entry: Callable[..., Entry], cache: Path) -> None:
    entry = make_entry(tmp_path / "shelf", "tiny")
    words = ("--arch", "fastnet", "--arch-arg", "widths=[8,8,8]", "--name", "again", "--no-predictions")
    shown = zoo(entry.folder / "model.safetensors", *words)
    assert shown.out == f"{cache / 'again'}: {len(entry.load().state_dict())} tensors, paired by name\n"
    assert (cache / "again" / "model.safetensors").read_bytes() == (entry.folder / "model.safetensors").read_bytes()


def test_dry_run_shows_the_pairs(zoo: Command, file: Path, zoo_home: Path) -> None:
    words = (file, "--arch", "resnet20", *SMALL, "--name", "theirs", "--dry-run")
    shown = zoo(*words)
    assert shown.code == 0
    lines = [line.split() for line in shown.out.splitlines()]
    assert lines[0] == ["network", "file", "shape"]
    assert ["blocks.1.shortcut.0.weight", "layer2.0.downsample.0.weight", "8x4x1x1"] in lines
    assert shown.err == f"all {len(lines) - 1} tensors are paired by order and shape; nothing was filed\n"
    pairs = json.loads(zoo(*words, "--json").out)["pairs"]
    assert pairs["head.bias"] == "fc.bias"
    assert not zoo_home.exists()


def test_zero_channels(zoo: Command, tmp_path: Path, cache: Path) -> None:
    torch.manual_seed(1)
    theirs = randomised(resnets.akamaster(WIDTHS, 1))
    torch.save({"state_dict": {f"module.{k}": v for k, v in theirs.state_dict().items()}}, tmp_path / "r.th")
    words = ("--arch", "resnet20-a", *SMALL, "--no-predictions")
    missing = zoo(tmp_path / "r.th", *words, "--name", "r", "--from-dataparallel")
    assert (missing.code, missing.out) == (2, "")
    assert missing.err.startswith("error: --zero-channels is missing: ")
    assert zoo(tmp_path / "r.th", *words, "--name", "r", "--zero-channels", "both").code == 0
    with torch.no_grad():
        images = torch.randn(2, 3, 32, 32)
        torch.testing.assert_close(Entry("r", cache / "r", "").load()(images), theirs(images), rtol=1e-4, atol=1e-4)
    again = (cache / "r" / "model.safetensors", *words, "--name", "s")
    refused = zoo(*again, "--zero-channels", "both")
    assert refused.err.startswith("error: --zero-channels both: the tensors have this zoo's own names")
    assert zoo(*again).code == 0


def test_a_mismatch_is_a_table_and_a_line(zoo: Command, file: Path, zoo_home: Path) -> None:
    shown = zoo(file, "--arch", "resnet20-a", "--arch-arg", "depth=8", "--arch-arg", "widths=[4,8,16]", "--name", "t")
    assert (shown.code, shown.out) == (1, "")
    *table, error = shown.err.splitlines()
    assert table[0].split() == ["network", "shape", "file", "shape"]
    assert any(
        line.split() == ["layer2.0.downsample.0", "conv", "8x4x1x1", "not", "in", "the", "network"] for line in table
    )
    assert any("layers" in line and line.endswith("fit") for line in table)
    assert error.startswith(
        f"error: {file} does not fit resnet20-a: 0 of the network's 15 layers are not in the file, and 4"
    )
    assert not zoo_home.exists()


@pytest.mark.parametrize(
    ("arch", "hint"),
    [
        ("resnet20", ""),
        ("wrn16-2", "; its layers are those of resnet20"),
        ("resnet20-a", "; its layers are those of resnet20"),
    ],
)
def test_a_mismatch_names_what_would_fit(zoo: Command, tmp_path: Path, arch: str, hint: str) -> None:
    torch.save(resnets.chenyaofo((16, 32, 64), 3, 100).state_dict(), tmp_path / "cifar100.pth")
    shown = zoo(tmp_path / "cifar100.pth", "--arch", arch, "--name", "t")
    assert shown.code == 1
    assert shown.err.splitlines()[-1].endswith(f"are not the network's{hint}")
    if not hint:
        head = ["head", "linear", "10x64", "+", "bias", "fc", "linear", "100x64", "+", "bias", "differs"]
        assert head in [line.split() for line in shown.err.splitlines()]


def test_what_no_architecture_has(zoo: Command, tmp_path: Path) -> None:
    torch.save(pyramids.dyhan(5, 1).state_dict(), tmp_path / "odd.pth")
    shown = zoo(tmp_path / "odd.pth", "--arch", "pyramid110-a48", "--name", "t")
    assert shown.err.splitlines()[-1].endswith("of no architecture here, unless --arch-arg changes one")


def spoilt(theirs: nn.Module, name: str, value: Callable[[torch.Tensor], torch.Tensor]) -> dict[str, torch.Tensor]:
    return {key: value(tensor) if key == name else tensor for key, tensor in theirs.state_dict().items()}


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("layer1.0.conv1.weight", lambda t: torch.full_like(t, torch.nan), "has numbers that are not finite"),
        ("fc.weight", lambda t: t.double() * 1e300, "'fc.weight' has numbers that are not finite in fp32"),
        ("bn1.running_var", lambda t: -t, "'bn1.running_var' has variances below zero"),
        ("conv1.weight", lambda t: t.to(torch.int8), "'conv1.weight' has numbers of type int8"),
        ("conv1.weight", lambda t: t.bool(), "'conv1.weight' has numbers of type bool"),
        ("conv1.weight", lambda t: t.to(torch.complex64), "'conv1.weight' is complex"),
        ("fc.weight", lambda t: t.T.contiguous(), "does not fit resnet20"),
    ],
)
def test_weights_that_are_none(
    zoo: Command, tmp_path: Path, theirs: nn.Module, name: str, value: Callable[[torch.Tensor], torch.Tensor], said: str
) -> None:
    torch.save(spoilt(theirs, name, value), tmp_path / "bad.pth")
    shown = zoo(tmp_path / "bad.pth", "--arch", "resnet20", *SMALL, "--name", "t", "--no-predictions")
    assert (shown.code, shown.out) == (1, "")
    assert said in shown.err.splitlines()[-1]


def test_numbers_beyond_fp16(zoo: Command, tmp_path: Path, theirs: nn.Module, data: Path) -> None:
    torch.save(spoilt(theirs, "fc.weight", lambda t: t * 1e6), tmp_path / "large.pth")
    words = ("--arch", "resnet20", *SMALL, "--name", "t", "--data", data, "--device", "cpu", "-q")
    shown = zoo(tmp_path / "large.pth", *words, "--dtype", "fp16")
    assert (shown.code, shown.out) == (2, "")
    assert "has numbers beyond its range; give --dtype fp32" in shown.err
    assert "the logits on the test split are not all finite in fp16" in zoo(tmp_path / "large.pth", *words).err


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (("--arch", "resnet21", "--name", "t"), 2, "unknown architecture 'resnet21'"),
        (("--arch", "resnet20", "--name", "../t"), 2, "not a valid entry name"),
        (("--arch", "resnet20", "--name", "t", "--arch-arg", "depth"), 2, "--arch-arg 'depth' is not KEY=VALUE"),
        (("--arch", "resnet20", "--name", "t", "--arch-arg", "depth=9"), 2, "depth must be 6n + 2"),
        (("--arch", "resnet20", "--name", "t", "--mean", "125"), 2, "--mean '125': pixels count from 0 to 1"),
        (("--arch", "resnet20", "--name", "t", "--dataset", "pets"), 2, "give --mean and --std"),
        (("--arch", "resnet20", "--name", "t", "--key", "nett"), 2, "did you mean 'net'?"),
        (("--arch", "resnet20", "--name", "t", "--from-dataparallel"), 1, "do not begin with 'module.'"),
        (("--arch", "resnet20", "--name", "t", "--device", "gpu"), 2, "--device 'gpu' cannot be used"),
        (("--arch", "resnet20", "--name", "t", *SMALL, "--license", "No One's"), 2, "look at --license"),
        (("--arch", "resnet20", "--name", "t", *SMALL, "--zero-channels", "end"), 2, "resnet20 has no such shortcuts"),
        (("--arch", "resnet20", "--name", "t", "--dataset", "cifar100"), 1, "do not ship with this package"),
    ],
)
def test_errors_are_one_line(
    zoo: Command, file: Path, zoo_home: Path, words: tuple[str, ...], code: int, said: str
) -> None:
    shown = zoo(file, *words)
    assert (shown.code, shown.out) == (code, "")
    assert shown.err.startswith("error: ")
    assert said in shown.err
    assert shown.err.count("\n") == 1
    assert listing(zoo_home) == {}


def test_a_file_that_is_missing_or_would_run(zoo: Command, tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "net.pth")
    words = ("--arch", "resnet20", "--name", "t")
    assert "does not exist" in zoo(tmp_path / "missing.pth", *words).err
    assert "nothing that could run is loaded" in zoo(tmp_path / "net.pth", *words).err


def test_an_entry_that_exists(zoo: Command, file: Path, cache: Path) -> None:
    words = (file, "--arch", "resnet20", *SMALL, "--name", "t", "--no-predictions")
    assert zoo(*words).code == 0
    before = listing(cache)
    refused = zoo(*words, "--license", "mit")
    assert (refused.code, "--replace replaces it" in refused.err) == (2, True)
    assert listing(cache) == before
    assert zoo(*words, "--license", "mit", "--replace").code == 0
    assert Entry("t", cache / "t", "cache").card.license == "mit"


def test_the_help_shows_real_commands(zoo: Command) -> None:
    assert "zoo import resnet20.th --arch resnet20-a" in zoo("--help").out
