"""Networks without numbers: the same names, types and shapes, and nothing imported that takes seconds."""

import subprocess
import sys

import pytest
import torch

from zoo.archs import ARCHS, create
from zoo.archs.unfilled import unfilled

SMALL = ["fastnet", "pyramid110-a48", "resnet20", "resnet9", "wrn16-2"]


@pytest.mark.parametrize("arch", sorted(ARCHS))
def test_every_architecture_has_its_shapes(arch: str) -> None:
    with unfilled():
        net = create(arch, 10)
    assert {value.device.type for value in net.state_dict().values()} == {"meta"}
    assert list(net.state_dict())
    if arch in SMALL:
        wanted = {name: (value.shape, value.dtype) for name, value in create(arch, 10).state_dict().items()}
        assert {name: (value.shape, value.dtype) for name, value in net.state_dict().items()} == wanted


def test_afterwards_random_numbers_are_drawn_again() -> None:
    with unfilled():
        create("resnet20", 10)
    assert torch.empty(100).normal_().std() > 0.1
    assert create("resnet20", 10).state_dict()["head.weight"].std() > 0


def test_the_compiler_is_not_imported() -> None:
    program = (
        "import sys; from zoo.archs import create; from zoo.archs.unfilled import unfilled\n"
        "with unfilled():\n"
        "    create('wrn16-2', 10), create('resnet20', 10), create('fastnet', 10), create('pyramid110-a48', 10)\n"
        "print([name for name in ('torch._dynamo', 'sympy') if name in sys.modules])"
    )
    shown = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True)
    assert shown.stdout == "[]\n"
