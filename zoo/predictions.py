"""The file format of stored predictions: a network's logits on whole splits, half a megabyte for CIFAR-10.

`predictions.safetensors` has fp16 logits `{split}.none` and `{split}.flip` `[N, C]` (the image as it is, and mirrored)
and `{split}.labels` `[N]`; the rows of a split are sorted by (sha256 of the image's pixels, label). The fingerprint of
each split is in the metadata, under the one key `menagerie.predictions`: safetensors writes several keys in no fixed
order, and equal predictions shall be equal bytes.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from zoo.checkpoint import check_format
from zoo.data.split import Labels
from zoo.errors import CorruptError

__all__ = ["PUBLISHED_VIEWS", "Logits", "Predictions", "SplitPredictions"]

PUBLISHED_VIEWS = ("none", "flip")
"""The views that every entry's predictions have: the image as it is, and mirrored."""

Logits = npt.NDArray[np.float16]
_KEY = "menagerie.predictions"


@dataclass(frozen=True, eq=False)
class SplitPredictions:
    """A network's logits on one split, rows in the order of `Split.order`.

    Attributes:
        views: view name -> logits, fp16 `[N, C]`.
        labels: int64 `[N]`.
        fingerprint: of the split.
    """

    views: Mapping[str, Logits]
    labels: Labels
    fingerprint: str


@dataclass(frozen=True, eq=False)
class Predictions:
    """A network's logits by split (`val`, `test`)."""

    splits: Mapping[str, SplitPredictions]

    def encode(self) -> bytes:
        """Return the bytes of `predictions.safetensors`."""
        from safetensors.numpy import save  # noqa: PLC0415

        tensors: dict[str, npt.NDArray[np.generic]] = {}
        for split, stored in self.splits.items():
            small = np.uint8 if stored.labels.max(initial=0) < 256 else np.int32  # noqa: PLR2004
            tensors[f"{split}.labels"] = stored.labels.astype(small)
            tensors |= {f"{split}.{view}": np.ascontiguousarray(logits) for view, logits in stored.views.items()}
        about = {split: stored.fingerprint for split, stored in sorted(self.splits.items())}
        return save(tensors, metadata={_KEY: json.dumps({"fingerprints": about})})

    @classmethod
    def decode(cls, content: bytes, where: str) -> "Predictions":
        """Read the bytes of a predictions file; `where` names it in errors.

        Raises:
            CorruptError: not such a file, or shapes do not fit together, or a logit is not finite.
        """
        from safetensors import SafetensorError  # noqa: PLC0415
        from safetensors.numpy import load  # noqa: PLC0415

        check_format(content, where)
        try:
            tensors = load(content)
            header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])
            fingerprints = json.loads(header["__metadata__"][_KEY])["fingerprints"]
            splits = {split: _read_split(tensors, split, str(mark)) for split, mark in fingerprints.items()}
        except (SafetensorError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise CorruptError(f"{where} is not a predictions file: {error}") from error
        return cls(splits)


def _read_split(tensors: Mapping[str, npt.NDArray[np.generic]], split: str, fingerprint: str) -> SplitPredictions:
    """Pick one split out of a file's tensors; `KeyError` or `ValueError` say what is wrong."""
    labels = tensors[f"{split}.labels"]
    views = {
        name.removeprefix(f"{split}."): value
        for name, value in tensors.items()
        if name.startswith(f"{split}.") and name != f"{split}.labels"
    }
    shapes = {value.shape for value in views.values()}
    shape = next(iter(shapes), ())
    if len(shapes) != 1 or len(shape) != 2 or labels.shape != shape[:1]:  # noqa: PLR2004
        raise ValueError(f"the logits of split {split!r} do not fit its {labels.size} labels")
    if labels.dtype.kind not in "iu" or (labels.size and not 0 <= labels.min() <= labels.max() < shape[1]):
        raise ValueError(f"the labels of split {split!r} are not all in 0..{shape[1] - 1}")
    if not all(value.dtype == np.float16 and np.isfinite(value).all() for value in views.values()):
        raise ValueError(f"the logits of split {split!r} are not all finite fp16 numbers")
    logits = {view: value.astype(np.float16) for view, value in views.items()}
    return SplitPredictions(logits, labels.astype(np.int64), fingerprint)
