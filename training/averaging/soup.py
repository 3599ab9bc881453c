"""Soups: one network whose weights are the mean of several networks' weights.

M. Wortsman et al., "Model soups: averaging weights of multiple fine-tuned models improves accuracy without increasing
inference time" (arXiv:2203.05482): the uniform soup, and the greedy one of algorithm 1. It works for networks that lie
in one basin of the loss: snapshots of one run, or networks fine-tuned from common weights. Networks that were trained
from different seeds do not; their mean is no better than chance.

The paper's networks have LayerNorm. BatchNorm's statistics have to be those of the averaged weights, and are computed
anew, as in SWA (arXiv:1803.05407, section 3.2).
"""

import copy
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from training.averaging.batch_norm import BatchSource, recompute_statistics
from zoo.data import Split
from zoo.errors import UsageError
from zoo.images import normalize

__all__ = [
    "Ingredient",
    "Judge",
    "Soup",
    "cook",
    "greedy_soup",
    "mean_weights",
    "plain_batches",
    "statistics_images",
    "uniform_soup",
]

_MOST, _BATCH = 10_000, 500
"""Images for BatchNorm's statistics. With 2,500 or 45,000, fastnet's accuracy is within 0.2 points of this."""

Judge = Callable[[nn.Module], float]
"""A network in evaluation mode -> its accuracy on the validation split, as a fraction."""


@dataclass(frozen=True)
class Ingredient:
    """A network that may go into a soup.

    Attributes:
        name: what it is called.
        accuracy: of the network alone, as the judge of the soup measures it.
        load: returns the network, in evaluation mode and fp32, on the device of the batches.
    """

    name: str
    accuracy: float
    load: Callable[[], nn.Module]


@dataclass(frozen=True)
class Soup:
    """A network, and how it was found.

    Attributes:
        net: in evaluation mode; its floating-point values are fp16 numbers, so filing it does not change it.
        taken: the names of the ingredients whose mean it is.
        accuracy: the judge's of `net`.
        tried: of a greedy soup, each ingredient that was tried after the best one, in that order -> the accuracy of the
            soup so far with it.
    """

    net: nn.Module
    taken: tuple[str, ...]
    accuracy: float
    tried: Mapping[str, float] = field(default_factory=dict)


@torch.no_grad()
def mean_weights(nets: Iterable[nn.Module]) -> dict[str, Tensor]:
    """Return the mean of each floating-point parameter and buffer over networks; other tensors are the first one's.

    The sums are in float64: those of fp16 weights are exact, so that no order of the networks changes the mean.

    Args:
        nets: one or more of one architecture; one at a time is held.

    Returns:
        The keys of `state_dict` -> float64, or the first network's own tensor.
    """
    total: dict[str, Tensor] = {}
    count = 0
    for net in nets:
        total = _added(total, net)
        count += 1
    return _divided(total, count)


def _added(total: Mapping[str, Tensor], net: nn.Module) -> dict[str, Tensor]:
    """Return the sums with a network's weights added; `total` is left alone, and is empty for the first network."""
    return {
        name: value.double() + total.get(name, 0) if value.is_floating_point() else total.get(name, value)
        for name, value in net.state_dict().items()
    }


def _divided(total: Mapping[str, Tensor], count: int) -> dict[str, Tensor]:
    return {name: value / count if value.is_floating_point() else value for name, value in total.items()}


@torch.no_grad()
def cook(like: nn.Module, weights: Mapping[str, Tensor], batches: BatchSource) -> nn.Module:
    """Return a copy of a network, in evaluation mode, with averaged weights and the BatchNorm statistics they need.

    What is returned is what an entry holds: weights rounded to fp16, and statistics of the rounded weights, rounded.

    Args:
        like: a network of the architecture; is left alone.
        weights: every key of its `state_dict` -> value, see `mean_weights`.
        batches: training images, on the network's device.

    Raises:
        MenagerieError: there is no batch.
    """
    out = copy.deepcopy(like).eval()
    out.load_state_dict(weights)
    _round(out)
    recompute_statistics(out, batches)
    _round(out)
    return out


def _round(net: nn.Module) -> None:
    for value in net.state_dict().values():
        if value.is_floating_point():
            value.copy_(value.half())


def uniform_soup(ingredients: Sequence[Ingredient], batches: BatchSource, judge: Judge) -> Soup:
    """Return the mean of all ingredients.

    Args:
        ingredients: two or more.
        batches: training images for BatchNorm's statistics.
        judge: called once.

    Raises:
        UsageError: there are fewer than two.
    """
    _check_count(ingredients)
    net = cook(ingredients[0].load(), mean_weights(i.load() for i in ingredients), batches)
    return Soup(net, tuple(i.name for i in ingredients), judge(net))


def greedy_soup(ingredients: Sequence[Ingredient], batches: BatchSource, judge: Judge) -> Soup:
    """Return the soup of algorithm 1: from the best ingredient on, each is added unless the accuracy falls by it.

    Ingredients of the same accuracy are tried by name. If nothing was added, the soup is the best ingredient as it is,
    with its own statistics.

    Args:
        ingredients: two or more.
        batches: training images for BatchNorm's statistics.
        judge: called once for each ingredient but the best.

    Raises:
        UsageError: there are fewer than two.
    """
    _check_count(ingredients)
    best, *others = sorted(ingredients, key=lambda i: (-i.accuracy, i.name))
    net = best.load()
    total, accuracy = _added({}, net), best.accuracy
    taken: tuple[str, ...] = (best.name,)
    tried: dict[str, float] = {}
    for other in others:
        larger = _added(total, other.load())
        cooked = cook(net, _divided(larger, len(taken) + 1), batches)
        tried[other.name] = judge(cooked)
        if tried[other.name] >= accuracy:
            net, total, taken, accuracy = cooked, larger, (*taken, other.name), tried[other.name]
    return Soup(net, taken, accuracy, tried)


def _check_count(ingredients: Sequence[Ingredient]) -> None:
    if len(ingredients) < 2:  # noqa: PLR2004  # one is no mean
        raise UsageError(f"a soup is made of two networks or more, not of {len(ingredients)}")


def statistics_images(available: int) -> int:
    """Return how many of the available training images BatchNorm's statistics are computed from: 10,000 at most.

    They make up batches of one size, 500 or all there are; what does not fill one is left out.
    """
    count = min(_MOST, available)
    return count - count % min(_BATCH, max(count, 1))


def plain_batches(
    part: Split,
    stats: tuple[Sequence[float], Sequence[float]],
    device: torch.device,
    progress: Callable[[int], None] | None = None,
) -> BatchSource:
    """Return passes over the first `statistics_images` of a training part, as they are.

    Not augmented: the network will be used on images as they are, whatever it was trained with.

    Args:
        part: in `Split.order`, by the images' hashes, so that the first ones are a random draw.
        stats: mean and standard deviation per channel, in units of 0..1.
        device: where the batches are wanted.
        progress: called after each batch with the number of images in it.
    """

    def batches() -> Iterator[Tensor]:
        end = statistics_images(len(part))
        for first in range(0, end, _BATCH):
            pixels = torch.from_numpy(part.images[first : min(first + _BATCH, end)]).to(device)
            yield normalize(pixels, *stats)
            if progress is not None:
                progress(len(pixels))

    return batches
