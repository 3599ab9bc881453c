"""Where entries come from, in which order, and how they get into the cache and out of it."""

import shutil
from pathlib import Path

import pytest

from tests.conftest import files_up_to
from tests.zoo.conftest import file_entry, flip_bit, listing
from zoo import store
from zoo.entry import Entry
from zoo.errors import CorruptError, NotFoundError, SourceError, StorageError, UsageError
from zoo.origins import Origin, write_origin
from zoo.store import FolderSource

pytestmark = pytest.mark.usefixtures("package")


@pytest.fixture
def shelf(tmp_path: Path) -> Path:
    """Return a source folder with three entries and things that are none."""
    folder = tmp_path / "shelf"
    for name in ("b-seed1", "a-seed2", "a-seed1"):
        file_entry(folder, name)
    (folder / "empty").mkdir()
    (folder / "file").write_text("")
    for name in (".a-seed3.xyz", "Not A Name", "no sums"):
        (folder / name).mkdir()
        (folder / name / "SHA256SUMS").write_text("")
    return folder


def test_a_folder_is_a_source(shelf: Path) -> None:
    source = FolderSource(shelf)
    assert source.label == str(shelf)
    assert source.names() == ["a-seed1", "a-seed2", "b-seed1"]
    entry = source.get("a-seed2")
    assert entry == Entry("a-seed2", shelf / "a-seed2", str(shelf))
    assert source.get("a-seed3") is None
    assert source.get("empty") is None
    assert FolderSource(shelf, "team").label == "team"


@pytest.mark.parametrize("name", ["../shelf/a-seed1", "a-seed1/", "/etc", "..", ".a-seed3.xyz"])
def test_a_source_looks_nowhere_else(shelf: Path, name: str) -> None:
    with pytest.raises(UsageError, match="not a valid entry name"):
        FolderSource(shelf).get(name)


def test_a_folder_that_does_not_exist_has_no_entries(tmp_path: Path) -> None:
    source = FolderSource(tmp_path / "missing")
    assert source.names() == []
    assert source.get("a-seed1") is None


def test_home(zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert store.home() == zoo_home
    assert store.cache_folder() == zoo_home / "entries"
    monkeypatch.setenv("HOME", str(tmp_path))
    for unset in ("", None):
        if unset is None:
            monkeypatch.delenv("ZOO_HOME")
        else:
            monkeypatch.setenv("ZOO_HOME", unset)
        assert store.home() == tmp_path / ".cache" / "menagerie"


def test_open_source(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", str(shelf.parent))
    for text in (str(shelf), "~/shelf"):
        assert store.open_source(text).names() == ["a-seed1", "a-seed2", "b-seed1"]
    for missing in (str(shelf / "missing"), str(shelf / "file")):
        with pytest.raises(NotFoundError, match="is not a folder"):
            store.open_source(missing)


def test_sources_of_another_kind() -> None:
    with pytest.raises(UsageError, match="not ftp://"):
        store.open_source("ftp://org/repo")


def test_sources_are_asked_in_order(
    package: Path, zoo_home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders = {
        "builtin": package / "builtin",
        "cache": zoo_home / "entries",
        "checkpoints": package.parent / "checkpoints",
        str(tmp_path / "one"): tmp_path / "one",
        str(tmp_path / "two"): tmp_path / "two",
    }
    for label, folder in reversed(folders.items()):
        file_entry(folder, "everywhere")
        file_entry(folder, "only-" + Path(label).name)
    monkeypatch.setenv("ZOO_SOURCE", f" {tmp_path / 'one'} ,, {tmp_path / 'two'}")
    assert [s.label for s in store.sources()] == list(folders)
    assert store.names() == ["everywhere", *sorted("only-" + Path(label).name for label in folders)]
    for label, folder in folders.items():
        assert store.find("everywhere") == Entry("everywhere", folder / "everywhere", label)
        assert store.find("only-" + Path(label).name).source == label
        shutil.rmtree(folder / "everywhere")
    with pytest.raises(NotFoundError, match="no entry 'everywhere'"):
        store.find("everywhere")


def test_asked(shelf: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file_entry(zoo_home / "entries", "mine")
    monkeypatch.setenv("ZOO_SOURCE", str(shelf))
    assert [s.label for s in store.asked(None)] == ["builtin", "cache", str(shelf)]
    assert [s.label for s in store.asked(None, afresh=True)] == ["builtin", str(shelf)]
    assert [s.label for s in store.asked(str(shelf))] == [str(shelf)]
    assert store.names(store.asked(str(shelf))) == ["a-seed1", "a-seed2", "b-seed1"]


def test_a_source_that_is_gone_is_said_when_it_matters(
    shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    gone = tmp_path / "gone"
    monkeypatch.setenv("ZOO_SOURCE", f"{gone},{shelf},http://127.0.0.1:1/zoo")
    assert [s.label for s in store.local(store.sources())] == ["builtin", "cache", str(shelf)]
    caplog.clear()
    assert store.find("a-seed1").source == str(shelf)
    assert [e.name for e in store.resolve("a-*")] == ["a-seed1", "a-seed2"]
    assert f"source '{gone}' is not a folder" in caplog.text
    assert "127.0.0.1" in caplog.text
    for pattern in ("c-seed1", "c-*"):
        with pytest.raises(NotFoundError, match="gone' is not a folder"):
            store.resolve(pattern)
    with pytest.raises(NotFoundError, match="gone' is not a folder"):
        store.names()


def test_find_and_resolve(shelf: Path) -> None:
    among = [FolderSource(shelf)]
    assert store.find("a-seed1", among).folder == shelf / "a-seed1"
    assert [e.name for e in store.resolve("a-*", among)] == ["a-seed1", "a-seed2"]
    assert [e.name for e in store.resolve("b-seed1", among)] == ["b-seed1"]
    with pytest.raises(NotFoundError, match=r"no entry 'a-sed1' in .*shelf.*did you mean 'a-seed[12]'"):
        store.find("a-sed1", among)
    with pytest.raises(NotFoundError, match=r"no entry matches 'c-\*'"):
        store.resolve("c-*", among)
    for use in (store.find, store.resolve):
        with pytest.raises(UsageError, match="not a valid entry name"):
            use("../a-seed1", among)


def test_check_new(package: Path, zoo_home: Path, tmp_path: Path) -> None:
    cache = zoo_home / "entries"
    file_entry(package / "builtin", "shipped")
    file_entry(cache, "mine")
    store.check_new("fresh", cache)
    store.check_new("shipped", tmp_path)
    store.check_new("mine", cache, replace=True)
    with pytest.raises(UsageError, match=r"'mine' exists already in .*--replace"):
        store.check_new("mine", cache)
    for replace in (False, True):
        with pytest.raises(UsageError, match="'shipped' is builtin and cannot be shadowed"):
            store.check_new("shipped", cache, replace=replace)
    with pytest.raises(UsageError, match="not a valid entry name"):
        store.check_new("../fresh", cache)


def test_pull_copies_once(shelf: Path, zoo_home: Path) -> None:
    source = FolderSource(shelf)
    assert not store.is_here(store.find("a-seed1", [source]))
    entry = store.pull(store.find("a-seed1", [source]))
    assert entry == Entry("a-seed1", zoo_home / "entries" / "a-seed1", "cache")
    assert listing(entry.folder) == listing(shelf / "a-seed1")
    assert store.find("a-seed1") == entry
    assert store.is_here(entry)
    assert store.pull(entry) == entry
    assert store.pull(store.find("a-seed1", [source])) == entry, "the same again is no other one"


def test_another_entry_of_the_name_does_not_replace_unasked(shelf: Path, tmp_path: Path) -> None:
    pulled = store.pull(store.find("a-seed1", [FolderSource(shelf)]))
    before = listing(pulled.folder)
    other = file_entry(tmp_path / "team", "a-seed1", recipe="theirs")
    with pytest.raises(UsageError, match=r"^'a-seed1' exists already in .*other content \(--replace replaces it\)$"):
        store.pull(other)
    assert listing(pulled.folder) == before
    assert store.pull(other, replace=True).card.recipe == "theirs"


def test_pull_replaces_what_is_damaged(shelf: Path, zoo_home: Path) -> None:
    published = store.find("a-seed1", [FolderSource(shelf)])
    pulled = store.pull(published)
    flip_bit(pulled.folder / "model.safetensors", 9)
    with pytest.raises(CorruptError, match="is damaged"):
        store.pull(store.find("a-seed1"))
    fresh = store.pull(published, replace=True)
    fresh.verify()
    assert [p.name for p in (zoo_home / "entries").iterdir()] == ["a-seed1"]


def test_a_builtin_entry_is_verified_where_it_lies_and_not_shadowed(package: Path, zoo_home: Path, shelf: Path) -> None:
    shipped = file_entry(package / "builtin", "a-seed1")
    assert store.pull(store.find("a-seed1")) == Entry("a-seed1", shipped.folder, "builtin")
    with pytest.raises(UsageError, match="cannot be shadowed"):
        store.pull(store.find("a-seed1", [FolderSource(shelf)]), replace=True)
    assert not (zoo_home / "entries").exists()
    flip_bit(shipped.folder / "model.safetensors", 9)
    with pytest.raises(CorruptError, match="is damaged"):
        store.pull(store.find("a-seed1"))


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "README.md", "SHA256SUMS"])
def test_damage_at_the_source_leaves_nothing(shelf: Path, zoo_home: Path, file: str) -> None:
    flip_bit(shelf / "a-seed1" / file, 11)
    with pytest.raises(CorruptError):
        store.pull(store.find("a-seed1", [FolderSource(shelf)]))
    assert listing(zoo_home / "entries") == {}


@pytest.mark.parametrize("replace", [False, True])
def test_a_full_disk_leaves_nothing_half_copied(tmp_path: Path, zoo_home: Path, replace: bool) -> None:
    big = file_entry(tmp_path / "shelf", "big", training={"log": "x" * 20_000})
    if replace:
        file_entry(zoo_home / "entries", "big")
    before = listing(zoo_home / "entries")
    with files_up_to(10_000), pytest.raises(StorageError, match=r"cannot write .*README\.md: File too large"):
        store.pull(big, replace=replace)
    assert listing(zoo_home / "entries") == before
    assert listing(zoo_home / "incoming") == {}
    assert listing(store.pull(big, replace=True).folder) == listing(big.folder)


def test_links_at_the_source_are_refused(shelf: Path, tmp_path: Path, zoo_home: Path) -> None:
    path = shelf / "a-seed1" / "model.safetensors"
    path.rename(tmp_path / "blob")
    path.symlink_to(tmp_path / "blob")
    with pytest.raises(CorruptError, match=r"model\.safetensors"):
        store.pull(store.find("a-seed1", [FolderSource(shelf)]))
    assert listing(zoo_home / "entries") == {}


def test_remove(shelf: Path, zoo_home: Path) -> None:
    for name in ("a-seed1", "b-seed1"):
        store.pull(store.find(name, [FolderSource(shelf)]))
    assert store.cached("a-seed1") == zoo_home / "entries" / "a-seed1"
    assert store.remove("a-seed1") == zoo_home / "entries" / "a-seed1"
    assert store.names() == ["b-seed1"]
    assert FolderSource(shelf).names() == ["a-seed1", "a-seed2", "b-seed1"]


def test_what_cannot_be_removed(package: Path, zoo_home: Path) -> None:
    shipped = file_entry(package / "builtin", "shipped")
    file_entry(zoo_home / "entries", "mine-seed1")
    for use in (store.cached, store.remove):
        with pytest.raises(UsageError, match="'shipped' is builtin"):
            use("shipped")
        with pytest.raises(NotFoundError, match=r"no entry 'mine-seed2' in the cache.*'mine-seed1'"):
            use("mine-seed2")
        with pytest.raises(UsageError, match="not a valid entry name"):
            use("../entries/mine-seed1")
    shipped.verify()
    assert store.names() == ["mine-seed1", "shipped"]


def test_a_linked_entry_is_not_followed_when_removed(shelf: Path, zoo_home: Path) -> None:
    (zoo_home / "entries").mkdir(parents=True)
    (zoo_home / "entries" / "a-seed1").symlink_to(shelf / "a-seed1")
    before = listing(shelf)
    store.remove("a-seed1")
    assert listing(shelf) == before
    assert list((zoo_home / "entries").iterdir()) == []


def test_what_is_removed_leaves_nothing(shelf: Path, zoo_home: Path) -> None:
    store.pull(store.find("a-seed1", [FolderSource(shelf)]))
    (zoo_home / "incoming" / "a-seed1").mkdir(parents=True)
    (zoo_home / "incoming" / "a-seed1" / "rest").write_text("of a pull")
    store.remove("a-seed1")
    assert [p for p in zoo_home.rglob("*") if p.is_file() and p.suffix != ".lock"] == []


def test_repair_brings_back_what_was_pulled(shelf: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(shelf.parent)
    entry = store.pull(store.find("a-seed1", [store.open_source("shelf")]))
    before = listing(entry.folder)
    monkeypatch.chdir("/")
    monkeypatch.setenv("ZOO_SOURCE", "")
    for damage in ("model.safetensors", "SHA256SUMS", "config.json"):
        flip_bit(entry.folder / damage, 9)
        store.repair(store.find("a-seed1"))
        assert listing(entry.folder) == before
    (entry.folder / "SHA256SUMS").unlink()
    (found,) = store.resolve("a-*")
    with pytest.raises(CorruptError, match="SHA256SUMS cannot be read"):
        found.verify()
    store.repair(found)
    assert listing(entry.folder) == before


def test_repair_never_takes_a_strangers_entry_for_ones_own(
    shelf: Path, zoo_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZOO_SOURCE", str(shelf))
    mine = file_entry(zoo_home / "entries", "a-seed1", recipe="mine")
    weights = (mine.folder / "model.safetensors").read_bytes()
    for damage in (lambda p: flip_bit(p, 3), Path.unlink):
        damage(mine.folder / "SHA256SUMS")
        before = listing(mine.folder)
        with pytest.raises((CorruptError, NotFoundError), match=r"nobody else can say|no source has 'a-seed1'"):
            store.repair(Entry("a-seed1", mine.folder, "cache"))
        assert listing(mine.folder) == before
    assert (mine.folder / "model.safetensors").read_bytes() == weights


def test_repair_asks_every_source(shelf: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    entry = store.pull(store.find("a-seed1", [FolderSource(shelf)]))
    write_origin("a-seed1", Origin("http://127.0.0.1:1/zoo", entry.publication, "all"))
    monkeypatch.setenv("ZOO_SOURCE", str(shelf))
    before = listing(entry.folder)
    flip_bit(entry.folder / "model.safetensors", 9)
    store.repair(Entry("a-seed1", entry.folder, "cache"))
    assert listing(entry.folder) == before
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "gone"))
    flip_bit(entry.folder / "model.safetensors", 9)
    shutil.rmtree(shelf)
    with pytest.raises((NotFoundError, SourceError)):
        store.repair(Entry("a-seed1", entry.folder, "cache"))


def test_an_empty_source_is_none() -> None:
    for text in ("", "  "):
        with pytest.raises(UsageError, match="not an empty word"):
            store.asked(text)
