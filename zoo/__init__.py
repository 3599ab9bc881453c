"""The model zoo: architectures, checkpoints with their predictions, data, and where entries come from.

import zoo
net, card = zoo.load("fastnet-seed1")
"""

from typing import TYPE_CHECKING

from zoo import store
from zoo.card import Card
from zoo.entry import Entry
from zoo.store import find, names

if TYPE_CHECKING:
    from torch import nn

__all__ = ["Card", "Entry", "find", "load", "names"]


def load(name: str) -> "tuple[nn.Module, Card]":
    """Return an entry's network and its card; weights that are not on this machine are pulled.

    The network is in eval mode, in fp32, on the CPU, and maps normalised images `[N, 3, H, W]` to logits `[N, C]`;
    `zoo.images.normalize(pixels, card.mean, card.std)` makes such images of uint8 `[N, H, W, 3]`.

    Raises:
        UsageError: not a well-formed name, or an architecture that this version does not know.
        NotFoundError: no source has the entry.
        CorruptError: its bytes are not those it was published with.
        SourceError, StorageError: its weights cannot be pulled.
    """
    entry = store.whole(find(name))
    return entry.load(), entry.card
