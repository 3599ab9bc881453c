"""A committee for inference only: the same answers, as fast as the device gives them."""

import copy

from torch import nn

from ensemble.module import Ensemble
from tta.freeze import FrozenNet, Setting, best_precision

__all__ = ["Setting", "best_precision", "freeze"]


def freeze(model: Ensemble, setting: Setting | None = None) -> Ensemble:
    """Return a copy of a committee whose networks are frozen, on the setting's device.

    Views, merging and temperatures stay in fp32; what runs in `setting.precision` is the networks.

    Args:
        model: it is not changed.
        setting: where and how the networks run [default: `Setting.best()`].
    """
    setting = setting or Setting.best()
    frozen = nn.ModuleList(FrozenNet(net, setting) for net in model.nets)
    # A deep copy in which the networks are those already copied and frozen.
    return copy.deepcopy(model, {id(model.nets): frozen}).to(setting.device)
