"""A published entry against its network: rounded weights, stored predictions, and what the card says of them."""

import dataclasses
import hashlib
import json
import platform
import re
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
import safetensors.torch
import torch
from safetensors.numpy import load as load_arrays
from torch import nn

from tests.training.conftest import COLOURS, CPU, fastnet_recipe, toy_split
from training.job import Job
from training.loop import Trained
from training.publish import Made, file_network, multiply_adds, publish
from training.recipe import Distill
from zoo.archs import create
from zoo.data import MEAN_STD, Split
from zoo.entry import Entry
from zoo.errors import StorageError
from zoo.scores import accuracies

SIZE = 26
Floats = npt.NDArray[np.float64]


def noise(images: int, seed: int) -> Split:
    """Images that an untrained network tells apart, and their mirror images too."""
    pixels = np.random.default_rng(seed).integers(0, 256, (images, SIZE, SIZE, 3), dtype=np.uint8)
    return Split(pixels, np.arange(images, dtype=np.int64) % len(COLOURS), COLOURS)


@pytest.fixture(scope="module")
def job() -> Job:
    part, val = toy_split(30, 1, SIZE), noise(40, 2)
    return Job(fastnet_recipe(epochs=3), 11, "colours", part, val, *MEAN_STD["cifar10"])


@pytest.fixture(scope="module")
def test_split() -> Split:
    return noise(50, 3)


@pytest.fixture(scope="module")
def trained(job: Job) -> Trained:
    """A network that was never trained, with the statistics of noise."""
    torch.manual_seed(0)
    net = create("fastnet", len(COLOURS), **job.recipe.arch_args)
    for norm in net.modules():
        if isinstance(norm, nn.BatchNorm2d):
            nn.init.normal_(norm.bias, std=0.5)
    for _ in range(8):
        net(torch.randn(16, 3, SIZE, SIZE))
    return Trained(net.eval(), [{"epoch": 1, "seconds": 4.4}, {"epoch": 2, "seconds": 12.6}])


@pytest.fixture(scope="module")
def entry(job: Job, trained: Trained, test_split: Split, tmp_path_factory: pytest.TempPathFactory) -> Entry:
    made = Made(trained.net, trained.rows)
    return publish(job, made, test_split, tmp_path_factory.mktemp("zoo") / "toy-seed11", device=CPU)


def sorted_rows(split: Split) -> tuple[npt.NDArray[np.uint8], npt.NDArray[np.int64]]:
    """Images and labels by the sha256 of the image's bytes."""
    order = sorted(range(len(split)), key=lambda i: hashlib.sha256(split.images[i].tobytes()).hexdigest())
    return split.images[order], split.labels[order]


def forward(net: nn.Module, pixels: npt.NDArray[np.uint8]) -> Floats:
    """Logits in double precision."""
    mean, std = (np.array(v) for v in MEAN_STD["cifar10"])
    inputs = torch.from_numpy(((pixels / 255 - mean) / std).transpose(0, 3, 1, 2).copy())
    with torch.no_grad():
        out: Floats = net.double()(inputs).numpy()
    return out


def softmax(logits: Floats) -> Floats:
    powers = np.exp(logits - logits.max(1, keepdims=True))
    out: Floats = powers / powers.sum(1, keepdims=True)
    return out


def test_entry_is_complete_and_sound(entry: Entry) -> None:
    entry.verify()
    files = {"README.md", "SHA256SUMS", "config.json", "metrics.csv", "model.safetensors", "predictions.safetensors"}
    assert {p.name for p in entry.folder.iterdir()} == files
    sums = (entry.folder / "SHA256SUMS").read_text(encoding="utf-8").splitlines()
    for line in sums:
        digest, name = re.split(r"\s+", line)
        assert hashlib.sha256((entry.folder / name).read_bytes()).hexdigest() == digest
    assert len(sums) == len(files) - 1


def test_weights_are_the_trained_ones_rounded_to_fp16(entry: Entry, trained: Trained) -> None:
    stored = safetensors.torch.load((entry.folder / "model.safetensors").read_bytes())
    given = trained.net.state_dict()
    assert stored.keys() == given.keys()
    for name, value in given.items():
        assert torch.equal(stored[name], value.half() if value.is_floating_point() else value)
    loaded = entry.load()
    assert not loaded.training
    for name, value in loaded.state_dict().items():
        assert torch.equal(value, given[name].half().float() if value.is_floating_point() else given[name])


@pytest.mark.parametrize("name", ["val", "test"])
def test_stored_predictions_are_the_rounded_networks(entry: Entry, job: Job, test_split: Split, name: str) -> None:
    split = {"val": job.val, "test": test_split}[name]
    images, labels = sorted_rows(split)
    stored = load_arrays((entry.folder / "predictions.safetensors").read_bytes())
    assert {key for key in stored if key.startswith(name)} == {f"{name}.{key}" for key in ("none", "flip", "labels")}
    np.testing.assert_array_equal(stored[f"{name}.labels"], labels)
    net = entry.load()
    for view, pixels in (("none", images), ("flip", images[:, :, ::-1])):
        logits = stored[f"{name}.{view}"]
        assert logits.dtype == np.float16
        # fp16 keeps 11 bits; fp32 arithmetic adds a little of its own.
        np.testing.assert_allclose(logits, forward(net, pixels), rtol=2**-11, atol=2e-4)
    assert np.abs(stored[f"{name}.none"].astype(float) - stored[f"{name}.flip"]).max() > 0.01


def test_accuracies_are_those_of_the_plain_image_and_of_mean_probabilities(
    entry: Entry, job: Job, test_split: Split
) -> None:
    net, seen = entry.load(), set()
    for name, split in (("val", job.val), ("test", test_split)):
        plain = softmax(forward(net, split.images))
        merged = plain + softmax(forward(net, split.images[:, :, ::-1]))
        expected = {v: float((p.argmax(1) == split.labels).mean()) for v, p in (("none", plain), ("flip", merged))}
        assert entry.card.metrics[name] == pytest.approx(expected, abs=1e-5)
        seen |= {*expected.values()}
    assert len(seen) > 2  # else one number could stand in for another
    assert entry.card.accuracy() == entry.card.metrics["test"]["flip"]


def fingerprint(split: Split) -> str:
    pairs = sorted(
        (hashlib.sha256(x.tobytes()).hexdigest(), int(y)) for x, y in zip(split.images, split.labels, strict=True)
    )
    return hashlib.sha256("".join(f"{digest} {label}\n" for digest, label in pairs).encode()).hexdigest()


def test_card_says_what_was_done(entry: Entry, job: Job) -> None:
    card = json.loads((entry.folder / "config.json").read_text(encoding="utf-8"))
    del card["metrics"], card["multiply_adds"]
    del card["label_names"], card["model_args"], card["num_classes"], card["pretrained_cfg"]  # derived, for timm
    assert card == {
        "format": "menagerie.entry/1",
        "name": "toy-seed11",
        "architecture": "fastnet",
        "architecture_args": {"widths": [8, 8, 8]},
        "dataset": "colours",
        "classes": ["red", "green", "blue"],
        "mean": [0.4914, 0.4822, 0.4465],
        "std": [0.2470, 0.2435, 0.2616],
        "input_size": [26, 26],
        "license": "apache-2.0",
        "recipe": "toy",
        "seed": 11,
        "trained_on": {"images": 30, "fingerprint": fingerprint(job.part), "held_out": fingerprint(job.val)},
        # Whitening 24 x 12 and its bias; 3x3 kernels; scale and shift of six norms; the head.
        "parameters": 24 * 12 + 24 + 9 * 8 * (24 + 5 * 8) + 6 * 16 + 3 * 8,
        "training": {
            "epochs": 2,  # as many as there are rows
            "seconds": 13,
            "images_per_second": round(6 * 8 / 12.6),  # two epochs of three full batches
            "device": f"{torch.get_num_threads()} CPU cores",
            "versions": f"python {platform.python_version()}, torch {torch.__version__}",
        },
    }


def test_card_says_what_was_overridden_and_who_taught(
    job: Job, trained: Trained, test_split: Split, tmp_path: Path
) -> None:
    given = dataclasses.replace(job, overrides=("optimizer.lr=0.1", "epochs=3"), teacher="big@0123")
    entry = publish(given, Made(trained.net, trained.rows), test_split, tmp_path / "toy", device=CPU)
    assert entry.card.training["overrides"] == ["optimizer.lr=0.1", "epochs=3"]
    assert entry.card.training["teacher"] == "big@0123"


def test_card_of_a_committees_student(job: Job, trained: Trained, test_split: Split, tmp_path: Path) -> None:
    recipe = dataclasses.replace(job.recipe, distill=Distill("given", 2.0, 0.25))
    about = {"members": [{"name": "big", "sha256": "0" * 64}], "views": "flip", "fitted_on": {"split": "val"}}
    given = dataclasses.replace(job, recipe=recipe, teacher=about)
    entry = publish(given, Made(trained.net, trained.rows), test_split, tmp_path / "toy", device=CPU)
    assert Entry("toy", entry.folder, "here").card.training["teacher"] == about
    assert (entry.card.training["distill_temperature"], entry.card.training["hard_share"]) == (2.0, 0.25)
    assert "- teacher: `big` (views flip)\n" in (entry.folder / "README.md").read_text(encoding="utf-8")


def test_model_card_has_the_accuracies(entry: Entry) -> None:
    text = (entry.folder / "README.md").read_text(encoding="utf-8")
    rows = re.findall(r"\| (\w+) \| (\w+) \| ([\d.]+) % \|", text)
    metrics = entry.card.metrics
    assert {(s, v) for s, v, _ in rows} == {(s, v) for s in ("val", "test") for v in ("none", "flip")}
    assert all(float(value) == pytest.approx(100 * metrics[s][v], abs=0.0051) for s, v, value in rows)
    assert "recipe `toy`, seed 11, on 30 images" in text


def test_any_network_can_be_filed_with_the_splits_there_are(entry: Entry, test_split: Split, tmp_path: Path) -> None:
    card = dataclasses.replace(entry.card, name="other", recipe=None, seed=None, training={}, metrics={}, parameters=0)
    other = file_network(entry.load(), card, {"test": test_split}, tmp_path / "other", device=CPU)
    other.verify()
    assert other.sum_of("model.safetensors") == entry.sum_of("model.safetensors"), "fp16 numbers are kept"
    assert other.card == dataclasses.replace(
        card, parameters=entry.card.parameters, metrics={"test": entry.card.metrics["test"]}
    )
    assert other.predictions().splits.keys() == {"test"}
    assert accuracies(other.predictions().splits["test"]) == entry.card.metrics["test"]


def test_fingerprints_of_the_predictions_are_the_splits(entry: Entry, job: Job, test_split: Split) -> None:
    stored = entry.predictions().splits
    assert {name: split.fingerprint for name, split in stored.items()} == {
        "val": fingerprint(job.val),
        "test": fingerprint(test_split),
    }


def test_an_entry_is_replaced_only_when_asked(job: Job, trained: Trained, test_split: Split, tmp_path: Path) -> None:
    target = tmp_path / "toy"
    counted: list[int] = []
    publish(job, Made(trained.net, trained.rows), test_split, target, device=CPU, progress=counted.append)
    assert sum(counted) == len(job.val) + len(test_split)
    before = (target / "SHA256SUMS").read_bytes()
    torch.manual_seed(1)
    other = Trained(create("fastnet", len(COLOURS), **job.recipe.arch_args).eval(), trained.rows)
    with pytest.raises(StorageError, match="exists already"):
        publish(job, Made(other.net, other.rows), test_split, target, device=CPU)
    assert (target / "SHA256SUMS").read_bytes() == before
    publish(job, Made(other.net, other.rows), test_split, target, device=CPU, replace=True).verify()
    assert (target / "SHA256SUMS").read_bytes() != before
    assert [p.name for p in tmp_path.iterdir() if p.name != "zoo-home"] == ["toy"]


def test_equal_weights_give_equal_bytes(
    entry: Entry, job: Job, trained: Trained, test_split: Split, tmp_path: Path
) -> None:
    again = publish(job, Made(trained.net, trained.rows), test_split, tmp_path / "toy-seed11", device=CPU)
    assert again.sums == entry.sums


def test_multiply_adds_of_fastnet_by_hand() -> None:
    # Output pixels x inputs of each output value x output channels, layer by layer, for a 32 x 32 image.
    expected = (
        31**2 * (3 * 4) * 24
        + 31**2 * (24 * 9) * 64
        + 15**2 * (64 * 9) * 64
        + 15**2 * (64 * 9) * 256
        + 7**2 * (256 * 9) * 256
        + 7**2 * (256 * 9) * 256
        + 3**2 * (256 * 9) * 256
        + 256 * 10
    )
    with torch.device("meta"):
        net = create("fastnet", 10)
    assert multiply_adds(net, (32, 32)) == expected
    assert round(expected / 1e9, 2) == 0.12


def test_multiply_adds_of_strides_groups_and_size() -> None:
    net = nn.Sequential(
        nn.Conv2d(3, 8, 5, stride=2, padding=2),  # 20 x 12 -> 10 x 6
        nn.ReLU(),
        nn.Conv2d(8, 8, 3, padding=1, groups=4),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(8, 7),
    )
    assert multiply_adds(net, (20, 12)) == 60 * (3 * 25) * 8 + 60 * (2 * 9) * 8 + 8 * 7
