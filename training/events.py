"""TensorBoard events of a run, for those who have it installed."""

from pathlib import Path
from types import TracebackType
from typing import Any, Self

from zoo.errors import UsageError

__all__ = ["Events"]


class Events:
    """Writes each epoch's metrics as TensorBoard scalars, under `events/` of the run's folder.

    Args:
        folder: the run's.
        epochs: how many are done already; what an earlier attempt wrote beyond them is marked as void.

    Raises:
        UsageError: TensorBoard is not installed.
    """

    def __init__(self, folder: Path, epochs: int) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter  # noqa: PLC0415  # an extra
        except ImportError as error:
            raise UsageError("--tensorboard needs TensorBoard: pip install 'menagerie[tensorboard]'") from error
        self._writer: Any = SummaryWriter(folder / "events", purge_step=epochs + 1)

    def write(self, row: dict[str, float]) -> None:
        """Add an epoch's metrics."""
        for key, value in row.items():
            if key != "epoch":
                self._writer.add_scalar(key, value, int(row["epoch"]))
        self._writer.flush()

    def __enter__(self) -> Self:
        """Start writing."""
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Close the file."""
        self._writer.close()
