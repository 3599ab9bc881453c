"""Streams that repeat, and that do not run into each other."""

import itertools

import torch

from training.augment.geometry import flip_mask
from training.augment.streams import Stream, numpy_generator, torch_generator


def test_a_stream_can_be_had_again_and_shares_nothing_with_any_other() -> None:
    keys = list(itertools.product((0, 1, 2**62), Stream, (0, 1, 1799)))
    from_torch = [torch.rand(4, generator=torch_generator(*key)).tolist() for key in keys]
    from_numpy = [numpy_generator(*key).random(4).tolist() for key in keys]
    assert from_torch == [torch.rand(4, generator=torch_generator(*key)).tolist() for key in keys]
    assert from_numpy == [numpy_generator(*key).random(4).tolist() for key in keys]
    assert len({tuple(numbers) for numbers in from_torch + from_numpy}) == 2 * len(keys)


def test_the_draws_that_published_networks_were_trained_with() -> None:
    # Written down while these two streams were the only ones.
    order = torch_generator(3, Stream.ORDER, 7)
    assert torch.randperm(10, generator=order).tolist() == [2, 4, 3, 7, 1, 0, 6, 5, 9, 8]
    assert torch.randint(0, 5, (3, 2), generator=order).tolist() == [[4, 4], [2, 0], [0, 1]]
    assert flip_mask("random", 10, 7, 3).int().tolist() == [0, 0, 1, 1, 1, 0, 1, 1, 1, 0]
    assert flip_mask("alternating", 10, 7, 3).int().tolist() == [1, 0, 0, 1, 0, 1, 0, 1, 0, 0]
