"""SWAG: a Gaussian around the SWA mean, whose covariance is half diagonal and half of low rank.

W. Maddox, T. Garipov, P. Izmailov, D. Vetrov, A. G. Wilson, "A Simple Baseline for Bayesian Uncertainty in Deep
Learning" (arXiv:1902.02476), algorithm 1; code: wjmaddox/swa_gaussian at 1292fb9, `swag/posteriors/swag.py`.
"""

from collections.abc import Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from training.averaging.batch_norm import BatchSource
from training.averaging.swa import Swa
from tta.predict import Precision
from zoo.errors import UsageError

__all__ = ["Swag"]


class Swag(Swa):
    """Mean, variance and the last K deviations of the weights along the run; `sample` draws networks.

    The mean is SWA's, and `average` returns it. With n snapshots, of which the last `k = min(n, rank)` deviations are
    kept as columns of D, networks are drawn from `N(mean, scale * (diag(variance) + D D^T / (k - 1)))`. A deviation is
    a snapshot minus the mean up to it, as in the paper. The variance is the paper's `mean(w^2) - mean(w)^2`, but summed
    about the running mean (Welford): in float32 the difference of the two means drowns in rounding.

    It holds `rank + 2` times the trainable weights, and so does its state, from the first snapshot on.

    Args:
        net: see `Averager`.
        every: optimizer steps between snapshots; an epoch in the paper.
        start: optimizer steps before the first snapshot.
        rank: K, deviations that are kept, 2 or more; 20 in the paper.
        variance_floor: variances below it are raised to it.
        draws: networks that `samples` returns.

    Raises:
        UsageError: `every` is below 1 or `rank` below 2.
    """

    fewest: ClassVar[int] = 2  # a single snapshot has no covariance

    def __init__(
        self,
        net: nn.Module,
        *,
        every: int = 1,
        start: int = 0,
        rank: int = 20,
        variance_floor: float = 1e-30,
        draws: int = 0,
    ) -> None:
        if rank < 2:  # noqa: PLR2004  # the covariance of fewer deviations is not defined
            raise UsageError(f"SWAG of rank {rank} is not possible: give 2 or more")
        super().__init__(net, every=every, start=start)
        self.rank, self.variance_floor, self.draws = rank, variance_floor, draws
        self._squares: dict[str, Tensor] = {}  # sums of squared deviations from the mean
        self._deviations: list[dict[str, Tensor]] = []  # snapshot i is at i % rank

    def _take(self, current: dict[str, Tensor]) -> None:
        super()._take(current)
        count = self.updates + 1
        deviation = {name: current[name] - mean for name, mean in self._averages.items()}
        if count == 1:
            self._squares = {name: torch.zeros_like(mean) for name, mean in self._averages.items()}
        else:
            for name, d in deviation.items():
                # (w - old mean) * (w - new mean), as the first factor is count / (count - 1) times the second.
                self._squares[name].addcmul_(d, d, value=count / (count - 1))
        if len(self._deviations) < self.rank:
            self._deviations.append(deviation)
        else:
            self._deviations[self.updates % self.rank] = deviation

    @torch.no_grad()
    def sample(
        self,
        net: nn.Module,
        batches: BatchSource,
        generator: torch.Generator,
        *,
        scale: float = 0.5,
        precision: Precision = "fp32",
    ) -> nn.Module:
        """Draw a network, in evaluation mode, with BatchNorm statistics recomputed for it.

        Args:
            net: the network given at the start; is left alone.
            batches: training images for the BatchNorm statistics.
            generator: source of the draws; those of a CPU generator are the same wherever the network is.
            scale: of the covariance, 0 or more; one half in the paper, and 0 gives the mean.
            precision: of the pass for the statistics.

        Raises:
            UsageError: the scale is below 0.
            MenagerieError: not `ready`; or there is no batch.
        """
        if not scale >= 0:
            raise UsageError(f"SWAG's scale cannot be {scale}: give 0 or more")
        self._check_ready()
        columns = len(self._deviations)
        along = _normal((columns,), generator).div((columns - 1) ** 0.5).tolist()
        drawn: dict[str, Tensor] = {}
        for name, mean in self._averages.items():
            variance = (self._squares[name] / self.updates).clamp_(min=self.variance_floor)
            noise = variance.sqrt_().mul_(_normal(mean.shape, generator).to(mean))
            for factor, deviation in zip(along, self._deviations, strict=True):
                noise.add_(deviation[name], alpha=factor)
            drawn[name] = mean.add(noise, alpha=scale**0.5)
        return self._finished(net, drawn, batches, precision)

    def samples(
        self, net: nn.Module, batches: BatchSource, seed: int, precision: Precision = "fp32"
    ) -> dict[str, nn.Module]:
        """Return `draws` networks as `sample1`, `sample2`, ...; same seed, same networks. See `sample`."""
        generator = torch.Generator().manual_seed(seed)
        return {
            f"sample{number}": self.sample(net, batches, generator, precision=precision)
            for number in range(1, self.draws + 1)
        }

    def state_dict(self) -> dict[str, Any]:
        """Return what `load_state_dict` needs to go on: numbers and tensors. The tensors are the live ones."""
        return {**super().state_dict(), "squares": self._squares, "deviations": self._deviations}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from a saved state; its tensors are copied.

        Raises:
            MenagerieError: the state is of another network.
        """
        super().load_state_dict(state)
        self._squares = self._owned(state["squares"])
        self._deviations = [self._owned(deviation) for deviation in state["deviations"]]


def _normal(shape: Iterable[int], generator: torch.Generator) -> Tensor:
    """Draw standard normal numbers where the generator is."""
    return torch.randn(tuple(shape), generator=generator, device=generator.device)
