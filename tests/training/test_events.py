"""TensorBoard events, read back with TensorBoard's own reader."""

import importlib.util
import sys
import warnings
from pathlib import Path

import pytest

from training.events import Events
from zoo.errors import UsageError

needs_tensorboard = pytest.mark.skipif(
    importlib.util.find_spec("tensorboard") is None, reason="TensorBoard is not installed"
)


def scalars(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every scalar of a run's folder: its epochs and values."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TensorBoard's own
        from tensorboard.backend.event_processing import event_accumulator  # type: ignore[import-untyped]

        reader = event_accumulator.EventAccumulator(str(run / "events")).Reload()
        return {tag: [(e.step, e.value) for e in reader.Scalars(tag)] for tag in reader.Tags()["scalars"]}


@needs_tensorboard
def test_metrics_are_scalars_by_epoch(tmp_path: Path) -> None:
    with Events(tmp_path, 0) as events:
        events.write({"epoch": 1, "train_loss": 1.5, "val_accuracy": 0.25})
        events.write({"epoch": 2, "train_loss": 0.5, "val_accuracy": 0.75})
    assert scalars(tmp_path) == {"train_loss": [(1, 1.5), (2, 0.5)], "val_accuracy": [(1, 0.25), (2, 0.75)]}


@needs_tensorboard
def test_what_was_written_after_the_last_saved_state_is_void(tmp_path: Path) -> None:
    with Events(tmp_path, 0) as events:
        for epoch in (1, 2, 3):
            events.write({"epoch": epoch, "train_loss": 1.0})
    with Events(tmp_path, 1) as events:  # only the first epoch was saved
        for epoch in (2, 3):
            events.write({"epoch": epoch, "train_loss": 2.0})
    assert scalars(tmp_path) == {"train_loss": [(1, 1.0), (2, 2.0), (3, 2.0)]}


def test_without_tensorboard_the_error_names_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    with pytest.raises(UsageError, match=r"^--tensorboard needs TensorBoard: pip install 'menagerie\[tensorboard\]'$"):
        Events(tmp_path, 0)
