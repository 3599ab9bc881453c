"""The device a command runs on."""

from typing import TYPE_CHECKING

from zoo.errors import UsageError

if TYPE_CHECKING:
    import torch

__all__ = ["pick_device"]


def pick_device(name: str | None) -> "torch.device":
    """Return the device called `name`, or by default the GPU if there is one; `UsageError` if it is not there."""
    import torch

    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UsageError(f"--device {name!r} cannot be used: {str(error).splitlines()[0]}") from error
    return device
