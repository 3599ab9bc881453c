"""Prediction files of other people's models: what is read, and what is refused before it could be."""

import pickle
import zipfile
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from safetensors.numpy import save_file

from ensemble.prediction_file import read_prediction_file
from zoo.data import Split
from zoo.errors import CorruptError, DataError, MenagerieError

Arrays = Mapping[str, npt.NDArray[np.generic]]
N, C = 30, 10
CLASSES = tuple(f"class{c}" for c in range(C))


@pytest.fixture(scope="module")
def split() -> Split:
    rng = np.random.default_rng(0)
    return Split(rng.integers(0, 256, (N, 4, 4, 3), dtype=np.uint8), rng.integers(0, C, N), CLASSES)


def distributions(seed: int = 0) -> npt.NDArray[np.float64]:
    return np.random.default_rng(seed).dirichlet(np.ones(C), N)


def write(path: Path, arrays: Arrays) -> Path:
    if path.suffix == ".npz":
        np.savez(path, **arrays)  # type: ignore[arg-type]
    else:
        save_file(dict(arrays), path)
    return path


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
@pytest.mark.parametrize("labels", [np.uint8, np.int32, np.int64, np.uint64])
def test_logits_come_back_sorted_by_the_images_hashes(
    tmp_path: Path, split: Split, suffix: str, kind: type[np.generic], labels: type[np.generic]
) -> None:
    logits = np.random.default_rng(1).standard_normal((N, C)).astype(kind)
    path = write(tmp_path / f"other{suffix}", {"logits": logits, "labels": split.labels.astype(labels)})
    rows = read_prediction_file(path, split)
    assert rows.dtype == np.float32
    hashes = split.hashes.tolist()
    by_hand = [logits[hashes.index(digest)].astype(np.float32) for digest in sorted(hashes)]
    np.testing.assert_array_equal(rows, by_hand)


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
def test_probabilities_come_back_as_their_logs(tmp_path: Path, split: Split, suffix: str) -> None:
    probs = distributions()
    path = write(tmp_path / f"other{suffix}", {"probs": probs, "labels": split.labels})
    np.testing.assert_allclose(np.exp(read_prediction_file(path, split)), probs[split.order], rtol=1e-5)


def test_a_probability_of_zero_is_a_trillionth(tmp_path: Path, split: Split) -> None:
    path = write(tmp_path / "sure.npz", {"probs": np.eye(C)[split.labels], "labels": split.labels})
    rows = read_prediction_file(path, split)
    assert np.isfinite(rows).all()
    np.testing.assert_allclose(np.exp(rows), np.eye(C)[split.labels[split.order]], atol=1.1e-12)


def test_half_precision_probabilities_of_a_hundred_classes_sum_well_enough(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    names = tuple(map(str, range(100)))
    wide = Split(rng.integers(0, 256, (N, 2, 2, 3), dtype=np.uint8), rng.integers(0, 100, N), names)
    probs = rng.dirichlet(np.ones(100), N).astype(np.float16)
    path = write(tmp_path / "half.npz", {"probs": probs, "labels": wide.labels})
    assert read_prediction_file(path, wide).shape == (N, 100)


def test_other_arrays_do_not_matter(tmp_path: Path, split: Split) -> None:
    extra: Arrays = {"logits": np.zeros((N, C), np.float32), "labels": split.labels, "ids": np.arange(3)}
    assert not read_prediction_file(write(tmp_path / "more.npz", extra), split).any()


def spoilt(split: Split) -> dict[str, tuple[Arrays, str]]:
    """Return name -> (arrays, what the error must say)."""
    labels, probs = split.labels, distributions()

    def changed(row: int, column: int, value: float) -> npt.NDArray[np.float64]:
        values = distributions()
        values[row, column] = value
        return values

    other = labels.copy()
    other[[3, 4, 5]] = (other[[3, 4, 5]] + 1) % C
    doubled = distributions()
    doubled[4] *= 2
    negative = distributions()
    negative[2, :2] = [-0.5, negative[2, 0] + negative[2, 1] + 0.5]
    return {
        "no labels": ({"probs": probs}, "it needs labels"),
        "neither probs nor logits": ({"labels": labels}, "either probs or logits"),
        "both probs and logits": ({"labels": labels, "probs": probs, "logits": probs}, "either probs or logits"),
        "other names": ({"predictions": probs, "targets": labels}, "predictions, targets"),
        "rows missing": ({"probs": probs[:-1], "labels": labels}, "[29, 10], the split needs floats [30, 10]"),
        "labels missing": ({"probs": probs, "labels": labels[:-1]}, "[29], the split needs integers [30]"),
        "both shorter": ({"probs": probs[:-1], "labels": labels[:-1]}, "[29, 10]"),
        "columns missing": ({"probs": probs[:, :-1], "labels": labels}, "[30, 9]"),
        "transposed": ({"probs": probs.T.copy(), "labels": labels}, "[10, 30]"),
        "a view axis": ({"probs": probs[None], "labels": labels}, "[1, 30, 10]"),
        "no axis": ({"probs": np.array(1.0), "labels": labels}, "[]"),
        "no rows": ({"probs": probs[:0], "labels": labels[:0]}, "[0, 10]"),
        "integer logits": ({"logits": np.ones((N, C), np.int32), "labels": labels}, "int32"),
        "boolean logits": ({"logits": np.ones((N, C), np.bool_), "labels": labels}, "bool"),
        "float labels": ({"probs": probs, "labels": labels.astype(np.float32)}, "float32"),
        "one-hot labels": ({"probs": probs, "labels": np.eye(C, dtype=np.int64)[labels]}, "[30, 10], the split needs"),
        "NaN": ({"probs": changed(7, 2, np.nan), "labels": labels}, "not finite, the first in row 7"),
        "infinity": ({"logits": changed(9, 0, np.inf), "labels": labels}, "not finite, the first in row 9"),
        "minus infinity": ({"logits": changed(1, 0, -np.inf), "labels": labels}, "not finite, the first in row 1"),
        "too large for float32": ({"logits": changed(5, 0, 1e300), "labels": labels}, "not finite, the first in row 5"),
        "sum of 2": ({"probs": doubled, "labels": labels}, "do not sum to 1"),
        "sum of 0": ({"probs": np.zeros((N, C)), "labels": labels}, "do not sum to 1"),
        "negative": ({"probs": negative, "labels": labels}, "negative"),
        "logits called probs": ({"probs": np.log(probs), "labels": labels}, "negative"),
        "other labels": ({"probs": probs, "labels": other}, "3 of 30 labels differ"),
        "another order": ({"probs": probs[split.order], "labels": labels[split.order]}, "labels differ"),
    }


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("case", spoilt(Split(np.zeros((N, 1, 1, 3), np.uint8), np.zeros(N, np.int64), CLASSES)))
def test_what_does_not_fit_is_refused(tmp_path: Path, split: Split, case: str, suffix: str) -> None:
    arrays, says = spoilt(split)[case]
    path = write(tmp_path / f"bad{suffix}", arrays)
    with pytest.raises(DataError) as caught:
        read_prediction_file(path, split)
    assert str(path) in str(caught.value)
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


class Bomb:
    """Leaves a file behind if anything unpickles it."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self) -> tuple[Callable[[Path], None], tuple[Path]]:
        return Path.touch, (self.mark,)


def npy_claiming(shape: str) -> bytes:
    header = f"{{'descr': '<f4', 'fortran_order': False, 'shape': {shape}, }}".encode().ljust(117) + b"\n"
    return b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header


def zip_of(path: Path, members: Mapping[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as file:
        for name, content in members.items():
            file.writestr(name, content)


def torch_file(path: Path) -> None:
    import torch

    torch.save({"probs": torch.full((N, C), 0.1), "labels": torch.zeros(N)}, path)


def bomb(path: Path) -> npt.NDArray[np.object_]:
    return np.array([Bomb(path.with_name("exploded"))], dtype=object)


def bare_array(path: Path) -> None:
    with path.open("wb") as file:
        np.save(file, distributions())


LABELS = np.zeros(N, np.int64)
FORGERIES: dict[str, Callable[[Path], object]] = {
    "object array": lambda path: np.savez(path, allow_pickle=True, probs=bomb(path), labels=LABELS),
    "object array beside good ones": lambda path: np.savez(
        path, allow_pickle=True, probs=distributions(), labels=LABELS, more=bomb(path)
    ),
    "pickle": lambda path: path.write_bytes(pickle.dumps(bomb(path))),
    "torch file": torch_file,
    "bare array": bare_array,
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("0.1,0.9\n" * 100, encoding="utf-8"),
    "zip of something else": lambda path: zip_of(path, {"probs.npy": b"no array", "labels.npy": b"no array"}),
    "more memory than there is": lambda path: zip_of(
        path, {"probs.npy": npy_claiming("(1000000000000, 10)"), "labels.npy": npy_claiming("(30,)")}
    ),
    "header longer than the file": lambda path: path.write_bytes((10**6).to_bytes(8, "little") + b'{"probs":{}}'),
    "header without sense": lambda path: path.write_bytes((16).to_bytes(8, "little") + b'{"probs": [1,2]}'),
}


@pytest.mark.parametrize("suffix", [".npz", ".safetensors"])
@pytest.mark.parametrize("case", FORGERIES)
def test_forgeries_are_refused_and_nothing_is_unpickled(tmp_path: Path, split: Split, case: str, suffix: str) -> None:
    path = tmp_path / f"forged{suffix}"
    FORGERIES[case](path.with_suffix(".npz"))
    path.with_suffix(".npz").replace(path)
    with pytest.raises((CorruptError, DataError)) as caught:
        read_prediction_file(path, split)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "exploded").exists()


def test_the_bomb_works(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Bomb(tmp_path / "exploded")))  # noqa: S301  # our own
    assert (tmp_path / "exploded").exists()


def test_whatever_bit_flips_or_is_cut_off_the_answer_is_an_error_of_ours_or_numbers(
    tmp_path: Path, split: Split
) -> None:
    probs, labels = np.full((N, C), 0.1, np.float32), split.labels
    np.savez(tmp_path / "plain.npz", probs=probs, labels=labels)
    np.savez_compressed(tmp_path / "packed.npz", probs=probs, labels=labels)
    save_file({"probs": probs, "labels": labels}, tmp_path / "safe.safetensors")
    rng = np.random.default_rng(0)
    errors: list[tuple[Path, str]] = []
    for path in sorted(tmp_path.iterdir()):
        content = path.read_bytes()
        for position in rng.choice(len(content), 80, replace=False):
            torn = bytearray(content)
            torn[position] ^= 1 << int(rng.integers(8))
            for version in (bytes(torn), content[:position]):
                path.write_bytes(version)
                try:
                    assert np.isfinite(read_prediction_file(path, split)).all()
                except MenagerieError as error:
                    errors.append((path, str(error)))
    assert len(errors) > 300
    assert all(str(path) in error for path, error in errors)
