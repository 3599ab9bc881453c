"""Every operation on many images at once, against torchvision's own on each image alone."""

from functools import cache

import numpy as np
import pytest
import torch
from torch import Tensor
from torchvision.transforms import v2
from torchvision.transforms.v2 import functional

from training.augment.ops import Operations, sharpen, source_pixels, value_table
from training.augment.policies import Op, Policy, autoaugment, randaugment
from zoo.data import load_split

CPU = torch.device("cpu")
SIZES = [(32, 32), (7, 9), (2, 5)]


@cache
def photographs() -> Tensor:
    return torch.from_numpy(load_split("cifar10", "test").images[:20]).permute(0, 3, 1, 2)


def pictures(size: tuple[int, int]) -> Tensor:
    """Photographs, cut to size; noise; and images on which the definitions have their corners: `[40, 3, *size]`."""
    generator = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (10, 3, *size), dtype=torch.uint8, generator=generator)
    dim = torch.randint(100, 110, (2, 3, *size), dtype=torch.uint8, generator=generator)
    grey = noise[:2, :1].expand(-1, 3, -1, -1)
    flat = torch.tensor([0, 1, 254, 255], dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, *size)
    one_channel = noise[2:4].clone()
    one_channel[:, 1] = 77
    return torch.cat((photographs()[..., : size[0], : size[1]], noise, dim, grey, flat, one_channel)).contiguous()


def torchvisions(image: Tensor, op: Op) -> Tensor:
    transform = v2.RandAugment()
    result: Tensor = transform._apply_image_or_video_transform(
        image, op.name, op.magnitude, transform.interpolation, transform._fill
    )
    return result


def all_ops(size: tuple[int, int]) -> list[Op]:
    """Return the operations of AutoAugment, and of RandAugment at weak, usual and full strength."""
    policies = [autoaugment(size), *(randaugment(2, magnitude, size) for magnitude in (1, 9, 30))]
    return sorted({op for policy in policies for op in policy.ops})


@pytest.mark.parametrize("size", SIZES)
def test_each_operation_is_torchvisions(size: tuple[int, int]) -> None:
    images, ops = pictures(size), all_ops(size)
    operations = Operations(ops, size, CPU)
    assert {op.name for op in ops} == {*v2.RandAugment._AUGMENTATION_SPACE, "Invert"}
    for k, op in enumerate(ops):
        changed = images.clone()
        operations.apply(changed, torch.full((len(images), 1), k))
        expected = torch.stack([torchvisions(image, op) for image in images])
        assert torch.equal(changed, expected), op


@pytest.mark.parametrize("policy", [autoaugment((32, 32)), randaugment(3, 9, (32, 32))], ids=["auto", "rand"])
def test_a_mixed_batch_goes_through_its_stages_image_by_image(policy: Policy) -> None:
    images = pictures((32, 32))[torch.arange(400) % 40]
    ids = policy.draw(400, torch.Generator().manual_seed(2))
    assert len(set(ids.flatten().tolist())) > 20
    changed = images.clone()
    Operations(policy.ops, (32, 32), CPU).apply(changed, ids)
    for image, row, got in zip(images, ids.tolist(), changed, strict=True):
        expected = image
        for k in row:
            expected = torchvisions(expected, policy.ops[k])
        assert torch.equal(got, expected), [policy.ops[k] for k in row]


def test_order_of_the_batch_does_not_matter() -> None:
    policy = autoaugment((32, 32))
    images = pictures((32, 32))
    operations = Operations(policy.ops, (32, 32), CPU)
    ids = policy.draw(len(images), torch.Generator().manual_seed(3))
    together, turned = images.clone(), images.flip(0).contiguous()
    operations.apply(together, ids)
    operations.apply(turned, ids.flip(0))
    assert torch.equal(together, turned.flip(0))


@pytest.mark.parametrize("ops", [[Op("Identity", 0.0)], [Op("Identity", 0.0), Op("Equalize", 0.0)]])
def test_families_may_be_missing_and_batches_empty(ops: list[Op]) -> None:
    images = pictures((8, 8))
    operations = Operations(ops, (8, 8), CPU)
    unchanged = images.clone()
    operations.apply(unchanged, torch.zeros(len(images), 2, dtype=torch.int64))
    assert torch.equal(unchanged, images)
    operations.apply(images[:0], torch.zeros(0, 2, dtype=torch.int64))


def test_sources_by_hand() -> None:
    # Two pixels to the right: the first two columns come from outside.
    assert source_pixels(Op("TranslateX", 2.9), (2, 4)).tolist() == [-1, -1, 0, 1, -1, -1, 4, 5]
    assert source_pixels(Op("TranslateY", -1.5), (3, 2)).tolist() == [2, 3, 4, 5, -1, -1]
    assert source_pixels(Op("TranslateX", 0.9), (2, 2)).tolist() == [0, 1, 2, 3]
    assert source_pixels(Op("Rotate", 90.0), (2, 2)).tolist() == [1, 3, 0, 2]
    # Shears leave the top left corner where it is: row r slides left by 0.7 (r + 1/2), 0.35, 1.05 and 1.75 pixels.
    assert source_pixels(Op("ShearX", 0.7), (3, 4)).tolist() == [0, 1, 2, 3, 5, 6, 7, -1, 10, 11, -1, -1]
    assert source_pixels(Op("ShearY", 0.7), (4, 3)).view(4, 3).T.flatten().tolist() == [
        *(0, 3, 6, 9),
        *(4, 7, 10, -1),
        *(8, 11, -1, -1),
    ]


def test_tables_by_hand() -> None:
    values = np.arange(256)
    np.testing.assert_array_equal(value_table(Op("Invert", 0.0)), 255 - values)
    np.testing.assert_array_equal(value_table(Op("Posterize", 4.0)), values // 16 * 16)
    np.testing.assert_array_equal(value_table(Op("Solarize", 0.5)), np.where(values >= 127.5, 255 - values, values))
    np.testing.assert_array_equal(value_table(Op("Brightness", 0.5)), np.minimum(values * 1.5, 255).astype(int))
    np.testing.assert_array_equal(value_table(Op("Brightness", -0.5)), values // 2)


@pytest.mark.parametrize("factor", [0.0, 0.1, 0.73, 1.0, 1.5, 1.9])
@pytest.mark.parametrize("size", [*SIZES, (3, 3), (1, 1), (31, 30)])
def test_sharpen_is_torchvisions(factor: float, size: tuple[int, int]) -> None:
    images = pictures(size)
    assert torch.equal(sharpen(images, factor), functional.adjust_sharpness(images, factor))


@pytest.mark.gpu
def test_on_a_gpu_pixels_are_the_cpus_or_one_level_beside() -> None:
    policy = autoaugment((32, 32))
    images = pictures((32, 32))[torch.arange(2000) % 40]
    ids = policy.draw(2000, torch.Generator().manual_seed(4))
    there, here = images.cuda(), images.clone()
    Operations(policy.ops, (32, 32), torch.device("cuda")).apply(there, ids)
    Operations(policy.ops, (32, 32), CPU).apply(here, ids)
    # A second operation may spread or stretch a difference of the first: look at images with one of them.
    once = (ids > 0).sum(1) <= 1
    difference = (there.cpu().int() - here.int()).abs()
    assert difference[once].max() <= 1
    assert (difference > 0).double().mean() < 1e-3
