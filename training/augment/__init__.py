"""Batched augmentation of a split that lies on the device as uint8."""

from training.augment.batches import Batches
from training.augment.fixed import Answers

__all__ = ["Answers", "Batches"]
