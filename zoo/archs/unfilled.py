"""Networks without numbers, for weights that are there already."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

__all__ = ["unfilled"]


class _NoNumbers(TorchFunctionMode):
    """Leaves tensors alone that would be filled with random numbers or rescaled to a spread."""

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:  # noqa: ANN401  # whatever torch returns
        del types
        if func in {Tensor.normal_, Tensor.uniform_, Tensor.div_}:
            return args[0]
        if func is Tensor.std and len(args) == 1 and not kwargs:
            return args[0].new_empty(())
        return func(*args, **(kwargs or {}))


@contextmanager
def unfilled() -> Iterator[None]:
    """Let modules that are made in this block have shapes and no numbers: their tensors are on the meta device.

    The device alone would do, but there PyTorch has normal distributions, deviations and quotients in Python, on top of
    its compiler: their first use imports that, which takes seconds, and every one costs half a millisecond.
    """
    with torch.device("meta"), _NoNumbers():
        yield
