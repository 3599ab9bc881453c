"""The cache of views: what is kept comes back, and nothing wrong with it can hurt."""

import json
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from ensemble import view_cache
from ensemble.view_cache import cached_views, keep_views
from tests.conftest import files_up_to
from zoo.data import Split
from zoo.errors import StorageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

ROWS = np.random.default_rng(0).standard_normal((60, 10)).astype(np.float32)


def kept_files(home: Path) -> list[Path]:
    return sorted((home / "views").glob("*.safetensors"))


def test_nothing_kept_is_nothing_found(zoo: "Zoo", zoo_home: Path) -> None:
    assert cached_views(zoo.entry("tiny-a"), "test", zoo.split.fingerprint) == {}
    assert not zoo_home.exists()


def test_what_is_kept_comes_back_in_half_precision(zoo: "Zoo") -> None:
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"shift-1-1": ROWS})
    found = cached_views(zoo.entry("tiny-a"), "test", zoo.split.fingerprint)
    assert list(found) == ["shift-1-1"]
    assert found["shift-1-1"].dtype == np.float16
    np.testing.assert_array_equal(found["shift-1-1"], ROWS.astype(np.float16))


def test_what_is_said_to_be_kept_is_what_comes_back(zoo: "Zoo") -> None:
    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS})
    said = keep_views(entry, "test", zoo.split, {"two": ROWS + 1})
    found = cached_views(entry, "test", zoo.split.fingerprint)
    assert sorted(said) == sorted(found) == ["one", "two"]
    for view, logits in found.items():
        assert said[view].dtype == logits.dtype
        np.testing.assert_array_equal(said[view], logits)


def test_views_add_up(zoo: "Zoo") -> None:
    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS, "two": ROWS})
    keep_views(entry, "test", zoo.split, {"two": ROWS + 1, "three": ROWS + 2})
    found = cached_views(entry, "test", zoo.split.fingerprint)
    assert sorted(found) == ["one", "three", "two"]
    np.testing.assert_array_equal(found["one"], ROWS.astype(np.float16))
    np.testing.assert_array_equal(found["two"], (ROWS + 1).astype(np.float16))


def test_weights_split_and_images_each_have_their_own(zoo: "Zoo") -> None:
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"one": ROWS})
    mark = zoo.split.fingerprint
    assert cached_views(zoo.entry("tiny-a"), "test", mark)
    assert cached_views(zoo.entry("tiny-b"), "test", mark) == {}
    assert cached_views(zoo.entry("tiny-a"), "val", mark) == {}
    assert cached_views(zoo.entry("tiny-a"), "test", "0" * 64) == {}


def test_the_order_of_the_images_does_not_matter(zoo: "Zoo") -> None:
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"one": ROWS})
    reversed_split = Split(zoo.split.images[::-1], zoo.split.labels[::-1], zoo.split.classes)
    assert list(cached_views(zoo.entry("tiny-a"), "test", reversed_split.fingerprint)) == ["one"]


@pytest.mark.parametrize(
    "how", ["cut in half", "one byte short", "empty", "a byte longer", "missing", "bit flipped in the header"]
)
def test_a_damaged_file_is_as_none(
    zoo: "Zoo", zoo_home: Path, how: str, tear: dict[str, Callable[[Path], object]]
) -> None:
    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS})
    (path,) = kept_files(zoo_home)
    tear[how](path)
    assert cached_views(entry, "test", zoo.split.fingerprint) == {}
    keep_views(entry, "test", zoo.split, {"one": ROWS})
    assert list(cached_views(entry, "test", zoo.split.fingerprint)) == ["one"]


def test_a_pickle_in_the_cache_is_not_loaded(zoo: "Zoo", zoo_home: Path, loads: list[str]) -> None:
    import pickle

    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS})
    (path,) = kept_files(zoo_home)
    path.write_bytes(pickle.dumps({"test": ROWS}))
    loads.clear()
    assert cached_views(entry, "test", zoo.split.fingerprint) == {}
    assert loads == []


def test_another_split_inside_is_as_none(zoo: "Zoo", zoo_home: Path) -> None:
    keep_views(zoo.entry("tiny-a"), "val", zoo.split, {"one": ROWS})
    (path,) = kept_files(zoo_home)
    path.rename(path.with_name(path.name.replace("-val-", "-test-")))
    assert cached_views(zoo.entry("tiny-a"), "test", zoo.split.fingerprint) == {}


def test_the_file_says_which_images_it_is_for(zoo: "Zoo", zoo_home: Path) -> None:
    keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"one": ROWS})
    (path,) = kept_files(zoo_home)
    content = path.read_bytes()
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
    assert zoo.split.fingerprint in header["__metadata__"]["menagerie.predictions"]
    assert header["test.one"] == {"dtype": "F16", "shape": [60, 10], "data_offsets": header["test.one"]["data_offsets"]}


def test_a_full_disk_leaves_the_old_views_alone(zoo: "Zoo", zoo_home: Path) -> None:
    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS})
    with files_up_to(1000), pytest.raises(StorageError, match="cannot write"):
        keep_views(entry, "test", zoo.split, {"two": ROWS})
    assert len(kept_files(zoo_home)) == 1
    assert list(cached_views(entry, "test", zoo.split.fingerprint)) == ["one"]


def test_two_that_keep_at_once_lose_nothing(zoo: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    entry, mark = zoo.entry("tiny-a"), zoo.split.fingerprint

    def slow(*words: Any) -> Mapping[str, Any]:  # noqa: ANN401
        found = cached_views(*words)
        time.sleep(0.05)
        return found

    monkeypatch.setattr(view_cache, "cached_views", slow)
    names = [f"view-{number}" for number in range(6)]
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda name: keep_views(entry, "test", zoo.split, {name: ROWS}), names))
    assert sorted(cached_views(entry, "test", mark)) == names


def test_what_cannot_be_read_is_as_none(zoo: "Zoo", monkeypatch: pytest.MonkeyPatch) -> None:
    entry = zoo.entry("tiny-a")
    keep_views(entry, "test", zoo.split, {"one": ROWS})

    def refuse(_path: Path) -> bytes:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path, "read_bytes", refuse)
    assert cached_views(entry, "test", zoo.split.fingerprint) == {}


def test_a_home_that_is_a_file(zoo: "Zoo", zoo_home: Path) -> None:
    zoo_home.write_text("", encoding="utf-8")
    with pytest.raises(StorageError, match="cannot write"):
        keep_views(zoo.entry("tiny-a"), "test", zoo.split, {"one": ROWS})
