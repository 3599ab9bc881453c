"""Distillation inside a run: a teacher that is given, its stored answers, or the network's own past."""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from training.augment.fixed import Answers
from training.job import Job
from training.losses import distillation_loss
from training.recipe import Distill
from zoo.card import Card
from zoo.errors import UsageError

__all__ = ["Teacher", "Teaching", "check_teacher"]

Teacher = Callable[[Tensor], Tensor]
"""Normalised images `[N, 3, H, W]`, as the student sees them -> logits or log-probabilities `[N, C]`."""


def check_teacher(card: Card, job: Job, label: str) -> None:
    """Raise `UsageError` if a network cannot teach a job's student, or must not.

    Args:
        card: the teacher's.
        job: what the student trains on.
        label: how the message begins: `--teacher 'NAME'`.
    """
    if tuple(card.classes) != tuple(job.part.classes):
        raise UsageError(f"{label} classifies {card.dataset}, not the classes of {job.dataset}")
    if tuple(card.input_size) != job.input_size:
        its, mine = ("{} x {}".format(*size) for size in (card.input_size, job.input_size))
        raise UsageError(f"{label} takes images of {its} pixels, not of {mine}")
    if (card.trained_on or {}).get("held_out") != job.val.fingerprint:
        raise UsageError(
            f"{label} did not hold out this validation split, or does not say so: what it knows of the split would leak"
            " into the student"
        )


class Teaching:
    """Mixes the labels' loss with the distance to a teacher's answers.

    A teacher that is `given` has the share `1 - hard_share` all along. For `self`, the network as it was when the last
    epoch ended, in eval mode, the share grows linearly from 0 to that over the run (K. Kim et al., "Self-Knowledge
    Distillation with Progressive Refinement of Targets", arXiv:2006.12000).

    Args:
        distill: the recipe's.
        teacher: the teacher, if it is given, or what it said: then batches come with the answers to them.

    Raises:
        UsageError: the recipe wants a teacher and there is none, or the other way round.
    """

    def __init__(self, distill: Distill, teacher: Teacher | Answers | None) -> None:
        if (distill.teacher == "given") != (teacher is not None):
            raise UsageError(
                "the recipe needs a teacher: give --teacher NAME"
                if teacher is None
                else "the recipe's network is its own teacher: leave --teacher out"
            )
        self._distill, self._is_given = distill, teacher is not None
        self._asked = None if isinstance(teacher, Answers) else teacher
        self._past: nn.Module | None = None

    def loss(self, hard: Tensor, logits: Tensor, images: Tensor, t: float, answers: Tensor | None = None) -> Tensor:
        """Return the loss of a batch.

        Args:
            hard: the labels' loss.
            logits: the student's, `[N, C]`.
            images: what they are the answers to.
            t: share of the run done, in [0, 1).
            answers: a given teacher's `[N, C]`, if they are stored.
        """
        teacher = self._asked or self._past
        if answers is None and teacher is not None:
            with torch.no_grad():
                answers = teacher(images)
        if answers is None:  # the first epoch of its own teacher
            return hard
        soft_share = (1 - self._distill.hard_share) * (1.0 if self._is_given else t)
        return (1 - soft_share) * hard + soft_share * distillation_loss(logits, answers, self._distill.temperature)

    def end_epoch(self, net: nn.Module) -> None:
        """Make the network as it is now the next epoch's teacher, if it is its own."""
        if not self._is_given:
            self._past = copy.deepcopy(net).eval().requires_grad_(False)

    def state_dict(self) -> dict[str, Any]:
        """Return the past network's state, if there is one."""
        return {} if self._past is None else {"past": self._past.state_dict()}

    def load_state_dict(self, state: dict[str, Any], net: nn.Module) -> None:
        """Restore the past network; `net` has its architecture."""
        if "past" in state:
            self.end_epoch(net)
            assert self._past is not None  # noqa: S101  # `end_epoch` set it
            self._past.load_state_dict(state["past"])
