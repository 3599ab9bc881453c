"""The package's front door: `import zoo` is light, `zoo.load` gives a network and its card."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

import zoo


def test_import_zoo_does_not_import_torch() -> None:
    code = "import sys, zoo; zoo.names(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.usefixtures("package")
def test_load(tmp_path: Path, make_entry: Callable[..., zoo.Entry], monkeypatch: pytest.MonkeyPatch) -> None:
    filed = make_entry(tmp_path / "shelf", "tiny-seed1")
    monkeypatch.setenv("ZOO_SOURCE", str(tmp_path / "shelf"))
    assert zoo.names() == ["tiny-seed1"]
    net, card = zoo.load("tiny-seed1")
    assert isinstance(net, nn.Module)
    assert not net.training
    assert card == filed.card
    assert card.parameters == sum(p.numel() for p in net.parameters())
    assert net(torch.zeros(2, 3, 32, 32)).shape == (2, 10)
