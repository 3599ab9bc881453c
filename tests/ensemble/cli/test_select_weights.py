"""What `ensemble select` says of the weights, and of whom it can give any."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest

from tests.ensemble.cli.conftest import refile
from zoo.predictions import SplitPredictions

if TYPE_CHECKING:
    from tests.ensemble.conftest import Outcome, Zoo

Cli = Callable[..., "Outcome"]


@pytest.mark.parametrize(
    ("images", "most", "says"),
    [
        (9, 3, "equal weights: too few images to tell; "),
        (9, 1, None),
        (400, 3, "equal weights: the data speaks for no others; "),
        (400, 1, None),
    ],
)
def test_weights_are_spoken_of_where_there_is_something_to_weigh(
    zoo: "Zoo",
    cli: Cli,
    reseal: Callable[[Path], None],
    images: int,
    most: int,
    says: str | None,
) -> None:
    labels = np.arange(images) % 10

    def say(number: int, split: str, kept: SplitPredictions) -> SplitPredictions:
        if split != "val":
            return kept
        noise = np.random.default_rng(number).standard_normal((images, 10))
        logits = (noise + np.eye(10)[labels]).astype(np.float16)
        return SplitPredictions(dict.fromkeys(("none", "flip"), logits), labels, kept.fingerprint)

    refile(zoo, reseal, say)
    done = cli("select", "--pool", "tiny-*", "--max-members", most, "--dry-run", "-q")
    assert done.code == 0
    last = done.out.splitlines()[-1]
    assert last.startswith(f"exhaustive search by nll; {says or ''}")
    assert ("weights" in last) == (says is not None)
