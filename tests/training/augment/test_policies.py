"""Draws against torchvision's transforms: its tables, and what it really applies."""

from collections import Counter
from typing import Any

import pytest
import torch
from torchvision.transforms import v2

from training.augment.policies import Op, Policy, autoaugment, randaugment

SIZES = [(32, 32), (24, 40)]


def recorded(transform: Any, images: int, size: tuple[int, int]) -> Counter[tuple[Op, ...]]:  # noqa: ANN401
    """Count the sequences of operations that a transform of torchvision's applies to one image."""
    calls: list[Op] = []

    def record(image: torch.Tensor, name: str, magnitude: float, **_: object) -> torch.Tensor:
        calls.append(Op(name, magnitude))
        return image

    counts: Counter[tuple[Op, ...]] = Counter()
    image = torch.zeros(3, *size, dtype=torch.uint8)
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng():
        torch.manual_seed(0)
        patch.setattr(transform, "_apply_image_or_video_transform", record)
        for _ in range(images):
            calls.clear()
            transform(image)
            counts[sequence(calls)] += 1
    return counts


def sequence(ops: list[Op]) -> tuple[Op, ...]:
    return tuple(op for op in ops if op.name != "Identity")


def drawn(policy: Policy, images: int, seed: int = 0) -> Counter[tuple[Op, ...]]:
    rows = Counter(map(tuple, policy.draw(images, torch.Generator().manual_seed(seed)).tolist()))
    counts: Counter[tuple[Op, ...]] = Counter()
    for row, count in rows.items():
        counts[sequence([policy.ops[k] for k in row])] += count
    return counts


def single(sequences: Counter[tuple[Op, ...]]) -> Counter[Op]:
    """Count operations instead of sequences of them."""
    counts: Counter[Op] = Counter()
    for ops, count in sequences.items():
        for op in ops:
            counts[op] += count
    return counts


def chi_squared(observed: Counter[Any], expected: dict[Any, float]) -> tuple[float, int]:
    """Return Pearson's statistic and its degrees of freedom; outcomes expected less than five times are one cell."""
    often = {key: count for key, count in expected.items() if count >= 5}
    cells = [(observed[key], count) for key, count in often.items()]
    rare = sum(expected.values()) - sum(often.values())
    if rare:
        cells.append((sum(observed.values()) - sum(seen for seen, _ in cells), rare))
    return sum((seen - count) ** 2 / count for seen, count in cells), len(cells) - 1


def assert_same(observed: Counter[Any], expected: dict[Any, float]) -> None:
    assert set(observed) <= set(expected)
    statistic, freedom = chi_squared(observed, expected)
    # Mean `freedom`, variance twice that: five standard deviations.
    assert statistic < freedom + 5 * (2 * freedom) ** 0.5


def sub_policies(size: tuple[int, int]) -> dict[tuple[Op, ...], float]:
    """Return the probability of each sequence of operations, worked out from torchvision's own tables."""
    transform = v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10)
    outcomes: dict[tuple[Op, ...], float] = {}
    for pair in transform._policies:
        stages = []
        for name, probability, level in pair:
            values, signed = transform._AUGMENTATION_SPACE[name]
            magnitudes = values(10, *size)
            magnitude = 0.0 if magnitudes is None else float(magnitudes[level])
            ops = [Op(name, magnitude), Op(name, -magnitude)] if signed else [Op(name, magnitude)]
            stages.append([([], 1 - probability), *(([op], probability / len(ops)) for op in ops)])
        for first, p in stages[0]:
            for second, q in stages[1]:
                key = sequence(first + second)
                outcomes[key] = outcomes.get(key, 0) + p * q / len(transform._policies)
    return outcomes


@pytest.mark.parametrize("size", SIZES)
def test_autoaugment_follows_torchvisions_tables(size: tuple[int, int]) -> None:
    outcomes = sub_policies(size)
    assert sum(outcomes.values()) == pytest.approx(1)
    possible = {key for key, probability in outcomes.items() if probability > 0}
    images = 100_000
    counts = drawn(autoaugment(size), images)
    assert_same(counts, {key: images * outcomes[key] for key in possible})
    # The tables are exact: every operation and magnitude is one that can occur.
    assert {op for key in counts for op in key} == {op for key in possible for op in key}


def test_autoaugment_is_what_torchvision_applies() -> None:
    # Two samples of one distribution: the larger one, with little noise of its own, says what to expect.
    size, images = (24, 40), 2500
    theirs = recorded(v2.AutoAugment(v2.AutoAugmentPolicy.CIFAR10), images, size)
    ours = drawn(autoaugment(size), 50 * images)
    assert_same(theirs, {key: count / 50 for key, count in ours.items()})


@pytest.mark.parametrize(("ops", "magnitude", "size"), [(1, 0, (32, 32)), (2, 9, (24, 40))])
def test_randaugment_is_what_torchvision_applies(ops: int, magnitude: int, size: tuple[int, int]) -> None:
    policy = randaugment(ops, magnitude, size)
    images = 1500
    theirs = single(recorded(v2.RandAugment(ops, magnitude), images, size))
    ours = single(drawn(policy, 50 * images))
    assert_same(theirs, {op: count / 50 for op, count in ours.items()})


@pytest.mark.parametrize("magnitude", range(31))
def test_randaugment_has_torchvisions_magnitudes(magnitude: int) -> None:
    size = (20, 36)
    expected = set()
    for name, (values, signed) in v2.RandAugment._AUGMENTATION_SPACE.items():
        magnitudes = values(31, *size)
        value = 0.0 if magnitudes is None else float(magnitudes[magnitude])
        expected |= {Op(name, value), Op(name, -value if signed else value)}
    assert set(randaugment(2, magnitude, size).ops) == expected


def test_randaugment_stages_are_independent_and_uniform() -> None:
    policy = randaugment(2, 9, (32, 32))
    ids = policy.draw(140_000, torch.Generator().manual_seed(1))
    names = sorted({op.name for op in policy.ops})
    assert len(names) == 14
    kind = torch.tensor([names.index(op.name) for op in policy.ops])[ids]
    counts = torch.bincount(kind[:, 0] * 14 + kind[:, 1], minlength=196).double()
    expected = 140_000 / 196
    # 195 degrees of freedom, standard deviation 19.7.
    assert ((counts - expected) ** 2 / expected).sum() < 195 + 5 * 19.7


def test_draws_repeat_and_differ_between_seeds() -> None:
    policy = autoaugment((32, 32))
    first = policy.draw(500, torch.Generator().manual_seed(3))
    assert first.shape == (500, 2)
    assert first.dtype == torch.int64
    assert torch.equal(first, policy.draw(500, torch.Generator().manual_seed(3)))
    assert not torch.equal(first, policy.draw(500, torch.Generator().manual_seed(4)))
    assert policy.ops[0] == Op("Identity", 0.0)
