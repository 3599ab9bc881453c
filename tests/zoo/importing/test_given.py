"""What the user says of a network: arguments, mean and std, the seed in its name."""

import pytest

from zoo.data import MEAN_STD
from zoo.errors import UsageError
from zoo.importing.given import parse_arguments, parse_stats, seed_of


def test_arguments() -> None:
    given = ["shakedrop=0.5", "widths=[16, 32]", "projection=false", "norm=group", "note=a=b"]
    assert parse_arguments(given) == {
        "shakedrop": 0.5,
        "widths": [16, 32],
        "projection": False,
        "norm": "group",
        "note": "a=b",
    }
    assert parse_arguments([]) == {}


@pytest.mark.parametrize("item", ["shakedrop", "=0.5", "not a key=1", ""])
def test_what_is_no_argument(item: str) -> None:
    with pytest.raises(UsageError, match="is not KEY=VALUE"):
        parse_arguments([item])
    with pytest.raises(UsageError, match="'a=2' gives a key twice"):
        parse_arguments(["a=1", "a=2"])


def test_mean_and_std() -> None:
    mean, std = MEAN_STD["cifar100"]
    assert parse_stats(None, None, "cifar100") == (mean, std)
    assert parse_stats("0.5", None, "cifar100") == ((0.5, 0.5, 0.5), std)
    assert parse_stats("0.485, 0.456,0.406", "0.229,0.224,0.225", "pets") == (
        (0.485, 0.456, 0.406),
        (0.229, 0.224, 0.225),
    )


@pytest.mark.parametrize(
    ("mean", "std", "said"),
    [
        ("125.3,123,113.9", None, "divide what is in 0..255 by 255"),
        (None, "63", "divide what is in 0..255 by 255"),
        (None, "0", "pixels count from 0 to 1"),
        ("-0.1", None, "pixels count from 0 to 1"),
        ("nan", None, "pixels count from 0 to 1"),
        ("0.5,0.5", None, "neither one number nor three"),
        ("a,b,c", None, "neither one number nor three"),
        ("", None, "neither one number nor three"),
    ],
)
def test_what_is_no_mean_or_std(mean: str | None, std: str | None, said: str) -> None:
    with pytest.raises(UsageError, match=said):
        parse_stats(mean, std, "cifar10")


@pytest.mark.parametrize(("mean", "std"), [(None, None), ("0.5", None), (None, "0.5")])
def test_unknown_data_needs_both(mean: str | None, std: str | None) -> None:
    with pytest.raises(UsageError, match="give --mean and --std"):
        parse_stats(mean, std, "pets")


def test_seeds() -> None:
    named = {"theirs-seed1": 1, "a-seed2-seed30": 30, "theirs": None, "seed1": None, "a-seed": None, "a-seed1b": None}
    assert {name: seed_of(name) for name in named} == named
