"""Entries: written whole or not at all, and nothing is read that was not published."""

import hashlib
import os
import pickle
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.conftest import files_up_to, random_split
from tests.zoo.conftest import WEIGHTS, again, file_entry, flip_bit, in_part, listing, refresh_sums, sample_card
from zoo.entry import CONFIG, PREDICTIONS, Entry, write_entry
from zoo.entry import WEIGHTS as WEIGHTS_FILE
from zoo.errors import CorruptError, NotFoundError, StorageError
from zoo.model_card import model_card
from zoo.origins import Origin, write_origin
from zoo.predictions import Predictions, SplitPredictions

SPLIT = SplitPredictions({v: np.ones((3, 10), np.float16) for v in ("none", "flip")}, np.arange(3), "ab" * 32)
STORED = Predictions({"test": SPLIT})


@pytest.fixture
def entry(tmp_path: Path) -> Entry:
    return file_entry(tmp_path / "zoo", "sample", predictions=STORED)


def test_what_is_written(entry: Entry) -> None:
    files = listing(entry.folder)
    assert files == {
        "README.md": model_card(sample_card()).encode(),
        "config.json": sample_card().to_json().encode(),
        "model.safetensors": WEIGHTS,
        "predictions.safetensors": STORED.encode(),
        "SHA256SUMS": files["SHA256SUMS"],
    }
    assert (CONFIG, WEIGHTS_FILE, PREDICTIONS) == ("config.json", "model.safetensors", "predictions.safetensors")
    assert entry.sums == {k: hashlib.sha256(v).hexdigest() for k, v in files.items() if k != "SHA256SUMS"}
    assert entry.size == sum(len(content) for name, content in files.items() if name != "SHA256SUMS")
    assert (entry.name, entry.folder, entry.source) == ("sample", entry.folder, str(entry.folder.parent))


def test_what_is_read(entry: Entry) -> None:
    entry.verify()
    assert entry.card == sample_card()
    assert entry.read("model.safetensors") == WEIGHTS
    assert np.array_equal(entry.predictions().splits["test"].labels, [0, 1, 2])


def test_an_entry_without_predictions(tmp_path: Path) -> None:
    entry = file_entry(tmp_path, "sample")
    entry.verify()
    with pytest.raises(NotFoundError, match=r"sample has no predictions\.safetensors"):
        entry.predictions()


@pytest.mark.parametrize("file", ["other", "../sample/config.json", "SHA256SUMS", ""])
def test_a_file_the_entry_does_not_have(entry: Entry, file: str) -> None:
    with pytest.raises(NotFoundError, match="sample has no"):
        entry.read(file)


@pytest.mark.parametrize("file", ["README.md", "config.json", "model.safetensors", "predictions.safetensors"])
def test_a_flipped_bit_anywhere_is_found(entry: Entry, file: str) -> None:
    path = entry.folder / file
    good = path.read_bytes()
    for position in {*range(0, len(good), 37), len(good) - 1}:
        flip_bit(path, position, position % 8)
        with pytest.raises(CorruptError, match=f"{path} is damaged: its sha256 is not the one in SHA256SUMS"):
            again(entry).read(file)
        path.write_bytes(good)
    flip_bit(path, 5)
    with pytest.raises(CorruptError, match="is damaged"):
        again(entry).verify()


def test_a_flipped_bit_in_the_sums_is_found(entry: Entry) -> None:
    path = entry.folder / "SHA256SUMS"
    good = path.read_bytes()
    for position in [i for i, byte in enumerate(good) if byte != ord("\n")][::5]:
        flip_bit(path, position)
        with pytest.raises(CorruptError):
            again(entry).verify()
        path.write_bytes(good)
    again(entry).verify()


@pytest.mark.parametrize("size", [0, 1, 9, len(WEIGHTS) - 1])
@pytest.mark.parametrize("file", ["model.safetensors", "predictions.safetensors", "config.json"])
def test_truncated_files(entry: Entry, file: str, size: int) -> None:
    path = entry.folder / file
    path.write_bytes(path.read_bytes()[:size])
    with pytest.raises(CorruptError, match="is damaged"):
        again(entry).verify()


def replaced(name: str, content: bytes) -> Callable[[Path], object]:
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(
    ("tamper", "message"),
    [
        (replaced("model.safetensors", pickle.dumps({"a": 1})), "model.safetensors is a pickle"),
        (replaced("model.safetensors", b"PK\x03\x04" + bytes(99)), "model.safetensors is a pickle"),
        (replaced("model.safetensors", WEIGHTS[:20]), "model.safetensors is not a safetensors file"),
        (replaced("predictions.safetensors", b""), "predictions.safetensors is not a safetensors file"),
        (replaced("predictions.safetensors", WEIGHTS), "predictions.safetensors is not a predictions file"),
        (replaced("config.json", b"{}"), "config.json is not the card"),
        (replaced("config.json", b"\xff\xfe"), "config.json is not the card"),
        (replaced("config.json", b"[" * 100_000), "config.json is not the card"),
        (replaced("config.json", sample_card("other").to_json().encode()), "is the card of 'other', not of 'sample'"),
        (lambda folder: (folder / "config.json").unlink(), "has no config.json"),
        (lambda folder: (folder / "model.safetensors").unlink(), "has no model.safetensors"),
    ],
)
def test_bad_files_under_good_sums(entry: Entry, tamper: Callable[[Path], object], message: str) -> None:
    tamper(entry.folder)
    refresh_sums(entry.folder)
    with pytest.raises(CorruptError, match=message):
        again(entry).verify()


@pytest.mark.parametrize("extra", ["extra.py", "sub/file"])
def test_a_file_that_no_sum_covers(entry: Entry, extra: str) -> None:
    path = entry.folder / extra
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(b"")
    with pytest.raises(CorruptError, match=f"{entry.folder / extra.partition('/')[0]} is not covered by SHA256SUMS"):
        again(entry).verify()


def test_what_the_system_leaves_behind_does_no_harm(entry: Entry) -> None:
    (entry.folder / ".DS_Store").write_bytes(b"")
    again(entry).verify()


def test_a_file_that_is_missing_or_a_folder(entry: Entry) -> None:
    path = entry.folder / "README.md"
    path.unlink()
    with pytest.raises(CorruptError, match=f"{path} cannot be read: No such file"):
        again(entry).verify()
    path.mkdir()
    with pytest.raises(CorruptError, match=f"{path} is no regular file"):
        again(entry).read("README.md")


@pytest.mark.parametrize("file", ["README.md", "config.json", "model.safetensors", "SHA256SUMS"])
def test_a_link_brings_nothing_in_whatever_it_points_to(entry: Entry, tmp_path: Path, file: str) -> None:
    path, outside = entry.folder / file, tmp_path / "outside"
    path.rename(outside)  # the published bytes, but who knows for how long
    path.symlink_to(outside)
    with pytest.raises(CorruptError, match=f"{path} is a symbolic link"):
        again(entry).verify()
    with pytest.raises(CorruptError, match="is a symbolic link"):
        again(entry).read(file if file in entry.sums else "README.md")
    outside.unlink()
    with pytest.raises(CorruptError, match="is a symbolic link"):
        again(entry).verify()


@pytest.mark.parametrize("file", ["model.safetensors", "README.md"])
def test_a_pipe_does_not_block(entry: Entry, file: str) -> None:
    (entry.folder / file).unlink()
    os.mkfifo(entry.folder / file)
    for use in (Entry.verify, Entry.load, lambda e: e.read(file)):
        if use is not Entry.load or file == "model.safetensors":
            with pytest.raises(CorruptError, match=f"{file} is no regular file"):
                use(again(entry))


@pytest.mark.parametrize("file", ["README.md", "config.json", "SHA256SUMS"])
def test_small_files_are_bounded(entry: Entry, file: str) -> None:
    with (entry.folder / file).open("ab") as opened:
        opened.truncate(2**40)
    with pytest.raises(CorruptError, match=r"1,099,511,627,776 bytes, where at most [0-9,]+ are sensible"):
        again(entry).read(file if file in entry.sums else "README.md")


def test_sums_that_point_out_of_the_entry(entry: Entry, tmp_path: Path) -> None:
    (tmp_path / "secret").write_bytes(b"secret")
    with (entry.folder / "SHA256SUMS").open("a") as file:
        file.write(f"{hashlib.sha256(b'secret').hexdigest()}  ../../secret\n")
    with pytest.raises(CorruptError, match="is malformed at"):
        again(entry).read("../../secret")


def test_no_sums_at_all(entry: Entry) -> None:
    (entry.folder / "SHA256SUMS").unlink()
    for use in (Entry.verify, Entry.predictions, Entry.load, lambda e: e.card, lambda e: e.size):
        with pytest.raises(CorruptError, match=r"SHA256SUMS cannot be read: .*nothing in this entry can be trusted"):
            use(again(entry))


def test_an_existing_entry_is_kept_unless_it_may_be_replaced(entry: Entry) -> None:
    before = listing(entry.folder.parent)
    other = sample_card(recipe="other")
    with pytest.raises(StorageError, match="exists already"):
        write_entry(entry.folder, other, WEIGHTS, None)
    assert listing(entry.folder.parent) == before
    write_entry(entry.folder, other, WEIGHTS, None, replace=True).verify()
    assert again(entry).card.recipe == "other"
    assert "predictions.safetensors" not in again(entry).sums


@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_leaves_nothing_half_written(tmp_path: Path, replace: bool) -> None:
    if replace:
        file_entry(tmp_path, "sample")
    before = listing(tmp_path)
    large = SplitPredictions({"none": np.ones((500, 10), np.float16)}, np.zeros(500, np.int64), "ab")
    with files_up_to(8000), pytest.raises(StorageError, match=r"cannot write .*File too large"):
        write_entry(tmp_path / "sample", sample_card(), WEIGHTS, Predictions({"test": large}), replace=replace)
    assert listing(tmp_path) == before
    assert len(list(tmp_path.iterdir())) == replace


def test_the_network_of_an_entry(tmp_path: Path, make_entry: Callable[..., Entry]) -> None:
    split = random_split(12, size=32)
    entry = again(make_entry(tmp_path, "tiny", splits={"test": split}))
    entry.verify()
    net = entry.load()
    pixels = torch.from_numpy(split.images[split.order]).permute(0, 3, 1, 2)
    with torch.no_grad():
        logits = net((pixels / 255 - 0.5) / 0.25)
    stored = entry.predictions().splits["test"].views["none"]
    np.testing.assert_allclose(logits.numpy(), stored, atol=0.01)
    assert stored.std() > 0.1
    assert entry.card.parameters == sum(p.numel() for p in net.parameters())


def test_weights_of_another_network(tmp_path: Path) -> None:
    entry = file_entry(tmp_path, "sample")
    with pytest.raises(CorruptError, match=f"{entry.folder / 'model.safetensors'} does not hold a fastnet"):
        entry.load()


def test_an_entry_of_predictions_alone(entry: Entry, zoo_home: Path) -> None:
    entry = in_part(entry, zoo_home)
    size = entry.size
    assert (entry.missing, entry.partial) == ((), False)
    (entry.folder / "model.safetensors").unlink()
    part = again(entry)
    assert (part.missing, part.partial) == (("model.safetensors",), True)
    part.verify()
    assert part.size == size - len(WEIGHTS)
    assert part.weights == ("model.safetensors",)
    assert part.weights_digest == hashlib.sha256(WEIGHTS).hexdigest()
    assert part.card == sample_card()
    assert part.predictions().splits.keys() == {"test"}
    for use in (Entry.load, Entry.tensors):
        with pytest.raises(NotFoundError, match=r"the weights of 'sample' are not here, .*: `zoo pull sample`"):
            use(part)


def test_weights_that_were_not_left_out_are_damage(entry: Entry, zoo_home: Path) -> None:
    pulled = in_part(entry, zoo_home)
    for one in (entry, pulled):
        (one.folder / "model.safetensors").unlink()
    assert again(pulled).partial
    write_origin("sample", Origin("far://away", pulled.publication, "all"))
    for one in (entry, pulled):
        assert not again(one).partial
        with pytest.raises(CorruptError, match=r"model\.safetensors cannot be read: No such file"):
            again(one).verify()
    again(entry).verify(weightless=True)
    write_origin("sample", Origin("far://away", "0" * 64, "predictions"))
    assert not again(pulled).partial, "the note is of another publication"


@pytest.mark.parametrize("file", ["README.md", "config.json", "predictions.safetensors"])
def test_anything_else_that_is_missing_is_damage(entry: Entry, zoo_home: Path, file: str) -> None:
    entry = in_part(entry, zoo_home)
    (entry.folder / "model.safetensors").unlink()
    (entry.folder / file).unlink()
    assert not again(entry).partial
    with pytest.raises(CorruptError, match="cannot be read: No such file"):
        again(entry).verify()


def test_without_predictions_the_weights_must_be_there(tmp_path: Path) -> None:
    entry = file_entry(tmp_path, "sample")
    (entry.folder / "model.safetensors").unlink()
    for use in (Entry.verify, Entry.load):
        with pytest.raises(CorruptError, match=r"model\.safetensors cannot be read: No such file"):
            use(again(entry))


def test_other_files_are_covered_too(tmp_path: Path) -> None:
    entry = write_entry(tmp_path / "sample", sample_card(), WEIGHTS, None, extra={"curve.csv": b"epoch\n1\n"})
    entry.verify()
    assert entry.read("curve.csv") == b"epoch\n1\n"
    (entry.folder / "curve.csv").write_bytes(b"epoch\n2\n")
    with pytest.raises(CorruptError, match=r"curve\.csv is damaged"):
        again(entry).verify()
