"""Entries of predictions only."""

import json
from pathlib import Path

import numpy as np
import pytest

from tests.conftest import files_up_to, random_split
from tests.zoo.conftest import listing, sample_card
from zoo.card import EXTERNAL
from zoo.errors import DataError, StorageError
from zoo.importing.external import to_stored, write_external
from zoo.predictions import Predictions

SPLIT = random_split(30)
LOGITS = np.random.default_rng(0).standard_normal((30, 10)).astype(np.float32)


def test_logits_become_fp16_beside_the_labels_in_order() -> None:
    stored = to_stored({"none": LOGITS}, SPLIT)
    np.testing.assert_array_equal(stored.views["none"], LOGITS.astype(np.float16))
    np.testing.assert_array_equal(stored.labels, SPLIT.labels[SPLIT.order])
    assert stored.fingerprint == SPLIT.fingerprint


@pytest.mark.parametrize("value", [np.nan, np.inf, 70_000.0, -70_000.0])
def test_logits_beyond_fp16(value: float) -> None:
    logits = LOGITS.copy()
    logits[3, 4] = value
    with pytest.raises(DataError, match="view 'flip' are not all finite numbers of at most 65,504"):
        to_stored({"none": LOGITS, "flip": logits}, SPLIT)


def test_what_is_written(tmp_path: Path) -> None:
    card = sample_card("theirs", architecture=EXTERNAL)
    entry = write_external(tmp_path / "theirs", card, Predictions({"test": to_stored({"none": LOGITS}, SPLIT)}))
    assert sorted(listing(tmp_path / "theirs")) == ["README.md", "SHA256SUMS", "config.json", "predictions.safetensors"]
    assert set(entry.sums) == {"README.md", "config.json", "predictions.safetensors"}
    assert json.loads((entry.folder / "config.json").read_text())["architecture"] == "external"
    assert entry.card == card
    assert list(entry.predictions().splits["test"].views) == ["none"]


def test_whole_or_not_at_all(tmp_path: Path) -> None:
    predictions = Predictions({"test": to_stored({"none": LOGITS}, SPLIT)})
    with files_up_to(500), pytest.raises(StorageError):
        write_external(tmp_path / "zoo" / "theirs", sample_card("theirs"), predictions)
    assert list((tmp_path / "zoo").iterdir()) == []
    write_external(tmp_path / "zoo" / "theirs", sample_card("theirs"), predictions)
    with pytest.raises(StorageError, match="exists already"):
        write_external(tmp_path / "zoo" / "theirs", sample_card("theirs"), predictions)
    write_external(tmp_path / "zoo" / "theirs", sample_card("theirs", seed=3), predictions, replace=True)
