"""What `--members` may say, and what it answers to nonsense."""

from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from ensemble.members import check_weight, parse_members
from zoo.entry import Entry
from zoo.errors import MenagerieError, NotFoundError, UsageError

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo


@pytest.fixture(autouse=True)
def _prediction_files(zoo: "Zoo", tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two prediction files in the working directory; reading them is not this module's business."""
    del zoo
    monkeypatch.chdir(tmp_path)
    for name in ("other.npz", "folder/deep.safetensors"):
        Path(name).parent.mkdir(exist_ok=True)
        Path(name).touch()


def read(text: str) -> list[tuple[str, float]]:
    return [(member.name, member.weight) for member in parse_members(text)]


@pytest.mark.parametrize(
    ("text", "members"),
    [
        ("tiny-a", [("tiny-a", 1.0)]),
        ("tiny-b,tiny-a", [("tiny-b", 1.0), ("tiny-a", 1.0)]),
        ("tiny-a,tiny-b=1.2", [("tiny-a", 1.0), ("tiny-b", 1.2)]),
        (" tiny-a , tiny-b=2\n", [("tiny-a", 1.0), ("tiny-b", 2.0)]),
        ("tiny-*", [("tiny-a", 1.0), ("tiny-b", 1.0), ("tiny-c", 1.0)]),
        ("tiny-*=0.5", [("tiny-a", 0.5), ("tiny-b", 0.5), ("tiny-c", 0.5)]),
        ("tiny-[ab],tiny-c=3", [("tiny-a", 1.0), ("tiny-b", 1.0), ("tiny-c", 3.0)]),
        ("tiny-?=1e-3", [("tiny-a", 1e-3), ("tiny-b", 1e-3), ("tiny-c", 1e-3)]),
        ("other.npz=2", [("other.npz", 2.0)]),
        ("folder/deep.safetensors,tiny-a", [("folder/deep.safetensors", 1.0), ("tiny-a", 1.0)]),
        (
            "tiny-a,tiny-b=1.2,tiny-[c]=0.5,other.npz=2",
            [("tiny-a", 1), ("tiny-b", 1.2), ("tiny-c", 0.5), ("other.npz", 2)],
        ),
    ],
)
def test_names_patterns_files_and_weights(text: str, members: list[tuple[str, float]]) -> None:
    assert read(text) == members


def test_entries_and_files_are_told_apart_by_their_ending(zoo: "Zoo") -> None:
    entry, file = parse_members("tiny-a,other.npz")
    assert entry.origin == zoo.entry("tiny-a")
    assert isinstance(entry.origin, Entry)
    assert file.origin == Path("other.npz")
    assert entry.temperature == file.temperature == 1.0


@pytest.mark.parametrize(
    ("text", "kind", "says"),
    [
        ("tiny-x", NotFoundError, "did you mean 'tiny-"),
        ("tinya", NotFoundError, "did you mean 'tiny-a'"),
        ("tiny-a,tyni-b", NotFoundError, "did you mean 'tiny-b'"),
        ("zzzzzz", NotFoundError, "no entry 'zzzzzz'"),
        ("tinny-*", NotFoundError, "no entry matches 'tinny-*'"),
        ("lost.npz", NotFoundError, "'lost.npz' does not exist"),
        ("folder.npz", NotFoundError, "'folder.npz' does not exist"),
        ("tiny-a=0", UsageError, "'tiny-a' is 0;"),
        ("tiny-a=-1", UsageError, "'tiny-a' is -1;"),
        ("tiny-a=nan", UsageError, "'tiny-a' is nan;"),
        ("tiny-a=inf", UsageError, "'tiny-a' is inf;"),
        ("tiny-a=1e999", UsageError, "'tiny-a' is inf;"),
        ("tiny-a=0,tiny-b=0", UsageError, "'tiny-a' is 0;"),
        ("tiny-*=0", UsageError, "'tiny-*' is 0;"),
        ("other.npz=-0.0", UsageError, "'other.npz' is -0;"),
        ("tiny-a=heavy", UsageError, "'heavy', not a number"),
        ("tiny-a=", UsageError, "'', not a number"),
        ("tiny-a=1=2", UsageError, "'tiny-a=1'"),
        ("=2", UsageError, "not a valid entry name: ''"),
        ("tiny-a,tiny-a", UsageError, "'tiny-a' is named twice"),
        ("tiny-a=1,tiny-*=2", UsageError, "'tiny-a' is named twice"),
        ("other.npz,other.npz=2", UsageError, "'other.npz' is named twice"),
        ("", UsageError, "empty item"),
        ("tiny-a,,tiny-b", UsageError, "empty item"),
        ("tiny-a,", UsageError, "empty item"),
        ("..", UsageError, "not a valid entry name: '..'"),
        ("../source/tiny-a", UsageError, "not a valid entry name"),
        ("source/tiny-a", UsageError, "not a valid entry name"),
        ("/etc/passwd", UsageError, "not a valid entry name"),
        (".tiny-a", UsageError, "not a valid entry name"),
        ("Tiny-a", UsageError, "not a valid entry name"),
        ("tiny a", UsageError, "not a valid entry name"),
        ("tiny-a\0", UsageError, "not a valid entry name"),
        ("a" * 10_000, UsageError, "not a valid entry name"),
        ("../*", NotFoundError, "no entry matches '../*'"),
    ],
)
def test_nonsense_is_refused_in_a_line(text: str, kind: type[MenagerieError], says: str) -> None:
    Path("folder.npz").mkdir()
    with pytest.raises(kind) as caught:
        parse_members(text)
    message = str(caught.value)
    assert says in message
    assert "\n" not in message
    assert len(message) < 1000


@pytest.mark.parametrize("weight", [5e-324, 0.5, 1e308])
def test_any_finite_weight_above_zero_is_one(weight: float) -> None:
    assert check_weight(weight, "x") == weight


@pytest.mark.parametrize("what", ["weight", "temperature"])
def test_the_message_says_what_is_zero(what: str) -> None:
    with pytest.raises(UsageError, match=f"the {what} of 'x' is 0; it must be a finite number above 0"):
        check_weight(0.0, "x", what)
