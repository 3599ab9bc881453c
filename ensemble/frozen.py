"""A committee for inference only: the same answers, as fast as the device gives them."""

import copy
from dataclasses import replace
from typing import TypeVar

from torch import nn

from ensemble.cascade.run import Cascade
from ensemble.module import Ensemble
from tta.freeze import FrozenNet, Setting
from zoo.errors import UsageError

__all__ = ["freeze"]

_Model = TypeVar("_Model", bound=Ensemble | Cascade)


def freeze(model: _Model, setting: Setting | None = None) -> _Model:
    """Return a copy of a committee, or of a cascade, whose networks are frozen, on the setting's device.

    Views, merging and temperatures stay in fp32; what runs in `setting.precision` is the networks. Those of a cascade
    are asked about whatever is left of a batch, so they are compiled for batches of any size (`Setting.dynamic`).

    Args:
        model: it is not changed.
        setting: where and how the networks run [default: `Setting.best()`].

    Raises:
        UsageError: it is none of the two, in training mode, or frozen already.
    """
    if not isinstance(model, Ensemble | Cascade):
        raise UsageError(f"{type(model).__name__} is no committee: a single network is frozen by tta.freeze.FrozenNet")
    if any(net.training for net in model.nets):
        raise UsageError("the committee is in training mode: call its eval() first")
    setting = setting or Setting.best()
    if isinstance(model, Cascade):
        setting = replace(setting, dynamic=True)
    frozen = nn.ModuleList(FrozenNet(net, setting) for net in model.nets)
    # A deep copy in which the networks are those already copied and frozen.
    copied = copy.deepcopy(model, {id(model.nets): frozen})
    copied.to(setting.device)
    return copied
