"""Entry names: what is allowed, what would leave the folder, patterns and suggestions."""

import string
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from zoo.errors import NotFoundError, UsageError
from zoo.names import check_name, is_name, is_pattern, match, suggestion

FIRST = string.ascii_lowercase + string.digits
REST = FIRST + "._-"


@pytest.mark.parametrize("name", ["a", "7", "fastnet-seed1", "pyramid110-a270", "a..b", "x_y.z-", "a" * 128])
def test_good_names(name: str) -> None:
    assert is_name(name)
    assert check_name(name) == name


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "../a", "a/b", "/a", "a\\b", "-a", "_a", ".a", "A", "aB", "a b", "a\n", "a\0", "é", "٣", "a" * 129],
)
def test_bad_names(name: str) -> None:
    assert not is_name(name)
    with pytest.raises(UsageError, match="not a valid entry name"):
        check_name(name)


def test_a_long_bad_name_is_cut_in_its_message() -> None:
    with pytest.raises(UsageError) as caught:
        check_name("n" * 100_000)
    assert len(str(caught.value)) < 200


@settings(max_examples=60, database=None)
@given(st.text(alphabet=REST + "AZ/\\ \n\0é*", max_size=6) | st.text(max_size=4))
def test_names_are_what_the_contract_says_and_stay_in_their_folder(text: str) -> None:
    allowed = bool(text) and text[0] in FIRST and set(text) <= set(REST)
    assert is_name(text) is allowed
    if allowed:
        assert (Path("/zoo") / text).resolve().parent == Path("/zoo")


@pytest.mark.parametrize(
    ("text", "pattern"), [("fastnet-seed1", False), ("fastnet-*", True), ("a?", True), ("[ab]", True), ("", False)]
)
def test_is_pattern(text: str, pattern: bool) -> None:
    assert is_pattern(text) is pattern


def test_match_keeps_the_order_of_what_is_known() -> None:
    known = ["b-seed2", "a-seed1", "b-seed1"]
    assert match("b-*", known) == ["b-seed2", "b-seed1"]
    assert match("?-seed1", known) == ["a-seed1", "b-seed1"]
    assert match("[!b]-seed1", known) == ["a-seed1"]
    assert match("*", known) == known


def test_match_without_a_hit_suggests() -> None:
    with pytest.raises(NotFoundError, match=r"no entry matches 'fastent-seed1'.*'fastnet-seed1'"):
        match("fastent-seed1", ["resnet20-seed1", "fastnet-seed1"])


def test_match_is_of_the_whole_name_and_the_case() -> None:
    for pattern in ("fast", "FASTNET-*", "seed1"):
        with pytest.raises(NotFoundError):
            match(pattern, ["fastnet-seed1"])


def test_suggestion() -> None:
    known = ["fastnet-seed1", "resnet20-seed1"]
    assert "'resnet20-seed1'" in suggestion("resnet2-seed1", known)
    assert "'fastnet-seed1'" not in suggestion("resnet2-seed1", known)
    assert not suggestion("zzz", known)
    assert not suggestion("fastnet", [])
