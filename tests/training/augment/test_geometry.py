"""Crops against slicing, flips by their definition."""

import torch

from training.augment.geometry import crop, flip, flip_mask


def test_crop_is_slicing() -> None:
    generator = torch.Generator().manual_seed(0)
    padded = torch.randint(0, 256, (30, 3, 9, 11), dtype=torch.uint8, generator=generator)
    rows = torch.randint(0, 30, (50,), generator=generator)
    offsets = torch.randint(0, 5, (50, 2), generator=generator)
    cut = crop(padded, rows, offsets, (5, 7))
    assert cut.shape == (50, 3, 5, 7)
    assert cut.is_contiguous()
    for row, (top, left), got in zip(rows.tolist(), offsets.tolist(), cut, strict=True):
        assert torch.equal(got, padded[row, :, top : top + 5, left : left + 7])


def test_crop_without_padding_is_a_choice_of_rows() -> None:
    images = torch.randint(0, 256, (6, 3, 4, 5), dtype=torch.uint8)
    rows = torch.tensor([4, 4, 0])
    assert torch.equal(crop(images, rows, torch.zeros(3, 2, dtype=torch.int64), (4, 5)), images[rows])


def test_flip_mirrors_the_marked_images_only() -> None:
    images = torch.arange(2 * 3 * 2 * 3).view(2, 3, 2, 3)
    flipped = flip(images, torch.tensor([False, True]))
    assert torch.equal(flipped[0], images[0])
    assert flipped[1, 0].tolist() == [[20, 19, 18], [23, 22, 21]]
    assert torch.equal(flip(flipped, torch.tensor([False, True])), images)


def test_flip_none_and_random() -> None:
    assert not flip_mask("none", 100, 3, 1).any()
    masks = torch.stack([flip_mask("random", 4000, epoch, 1) for epoch in range(8)])
    # Binomial: half of 4,000 with a standard deviation of 31.6; each image in 4 of 8 epochs on the average.
    assert masks.sum(1).sub(2000).abs().max() < 5 * 31.6
    # Independent between epochs: two of them agree on half of the images.
    agree = (masks[:, None] == masks[None]).sum(2)[~torch.eye(8, dtype=torch.bool)]
    assert agree.sub(2000).abs().max() < 5 * 31.6


def test_alternating_flip_is_drawn_once() -> None:
    first = flip_mask("alternating", 4000, 0, 1)
    assert abs(int(first.sum()) - 2000) < 5 * 31.6
    for epoch in range(1, 6):
        assert torch.equal(flip_mask("alternating", 4000, epoch, 1), first ^ bool(epoch % 2))
    assert not torch.equal(flip_mask("alternating", 4000, 0, 2), first)
