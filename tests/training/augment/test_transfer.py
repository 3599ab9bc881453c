"""Copies to a device."""

import pytest
import torch

from training.augment.transfer import send


def test_on_the_cpu_nothing_is_copied() -> None:
    tensor = torch.arange(5)
    assert send(tensor, torch.device("cpu")) is tensor


@pytest.mark.gpu
def test_a_copy_does_not_wait_for_the_device() -> None:
    cuda = torch.device("cuda")
    send(torch.arange(5), cuda)  # pays for pinned memory once
    large = torch.rand(8192, 8192, device=cuda)
    for _ in range(20):
        large = large @ large  # work of tenths of a second, queued
    sent = send(torch.arange(5), cuda)
    assert not torch.cuda.current_stream().query()
    assert sent.tolist() == list(range(5))
