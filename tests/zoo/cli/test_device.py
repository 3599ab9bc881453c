"""The device of a command."""

import pytest
import torch

from zoo.cli.device import pick_device
from zoo.errors import UsageError


def test_the_named_device() -> None:
    assert pick_device("cpu") == torch.device("cpu")


@pytest.mark.parametrize(("there", "name"), [(True, "cuda"), (False, "cpu")])
def test_by_default_the_gpu_if_there_is_one(monkeypatch: pytest.MonkeyPatch, there: bool, name: str) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there)
    assert pick_device(None) == torch.device(name)


@pytest.mark.parametrize("name", ["gpu", "", "cpu:x", "cuda:99"])
def test_a_device_that_is_not_there(name: str) -> None:
    with pytest.raises(UsageError, match=f"--device '{name}' cannot be used: ") as caught:
        pick_device(name)
    assert "\n" not in str(caught.value)
