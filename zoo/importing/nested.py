"""Find the state dict in what somebody saved: `{"epoch": 90, "state_dict": {...}, "optimizer": {...}}`."""

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from zoo.errors import CorruptError, DataError, UsageError
from zoo.names import suggestion

if TYPE_CHECKING:
    import torch

__all__ = ["find_state", "strip_prefixes"]

State = Mapping[str, "torch.Tensor"]

_PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Of `DataParallel` and others, of `torch.compile`, and of the attribute in which trainers keep a network."""

_DEEPEST = 4
_SHOWN = 8
_LONGEST = 60


def find_state(tree: Any, where: str, keys: Sequence[str] = (), size: int | None = None) -> "dict[str, torch.Tensor]":  # noqa: ANN401
    """Return the one mapping of names to tensors in a tree; values that are no tensors are left out.

    Args:
        tree: what a checkpoint holds.
        where: names it in errors.
        keys: which mappings to take, as `state_dict` or `ema.module`; by default the only one with a tensor of two or
            more dimensions outside of optimizers. Several are joined.
        size: bytes of the file, which its tensors cannot exceed.

    Raises:
        DataError: there is none, or more than one; or a tensor is sparse, quantised, complex or without data.
        UsageError: there is no such key, or two of `keys` hold the same name.
        CorruptError: the tensors claim more bytes than the file has.
    """
    found = {".".join(path): tensors for path, tensors in _mappings(tree, (), set())}
    state: State
    if keys:
        state = _join(found, keys, where)
    else:
        fitting = {key: tensors for key, tensors in found.items() if _looks_like_weights(key, tensors)}
        if not fitting:
            raise DataError(f"{where} holds no mapping of names to tensors; at its top is {_top(tree)}")
        if len(fitting) > 1:
            said = [f"{_shown(key) if key else 'its top'} ({len(tensors)} tensors)" for key, tensors in fitting.items()]
            raise DataError(f"{where} holds more than one mapping of names to tensors: give --key, one of {_few(said)}")
        state = next(iter(fitting.values()))
    _check(state, where, size)
    return dict(state)


def _mappings(node: Any, path: tuple[str, ...], seen: set[int]) -> Iterator[tuple[tuple[str, ...], State]]:  # noqa: ANN401
    """Yield the path and the tensors of every mapping that has some, from the top down, each once."""
    import torch  # noqa: PLC0415

    if not isinstance(node, Mapping) or id(node) in seen:
        return
    seen.add(id(node))
    named = {key: value for key, value in node.items() if isinstance(key, str)}
    tensors = {key: value for key, value in named.items() if isinstance(value, torch.Tensor)}
    if tensors:
        yield path, tensors
    if len(path) < _DEEPEST:
        for key, value in named.items():
            yield from _mappings(value, (*path, key), seen)


def _looks_like_weights(key: str, tensors: State) -> bool:
    in_optimizer = any(part.lower().startswith("optim") for part in key.split("."))
    return not in_optimizer and any(value.dim() > 1 for value in tensors.values())


def _join(found: Mapping[str, State], keys: Sequence[str], where: str) -> dict[str, "torch.Tensor"]:
    state: dict[str, torch.Tensor] = {}
    for key in keys:
        if key not in found:
            known = [_shown(name) for name in found if name]
            there = f"there are {_few(known)}" if known else "its tensors are at its top"
            raise UsageError(f"--key {key!r}: {where} has no tensors there{suggestion(key, known)}; {there}")
        twice = sorted(state.keys() & found[key].keys())
        if twice:
            raise UsageError(f"--key {key!r}: {where} has {twice[0][:80]!r} there and in another key")
        state |= found[key]
    return state


def _top(tree: Any) -> str:  # noqa: ANN401
    """Say what a tree is."""
    if not isinstance(tree, Mapping):
        return f"a {type(tree).__name__}"
    names = [f"{_shown(str(key))} ({type(value).__name__})" for key, value in tree.items()]
    return _few(names) if names else "an empty mapping"


def _shown(key: str) -> str:
    """Return somebody's key as a terminal prints it: it may hold codes that one would obey."""
    return key[:_LONGEST] if key.isprintable() else repr(key[:_LONGEST])


def _few(words: Sequence[str]) -> str:
    return f"{', '.join(words[:_SHOWN])}{', ...' if len(words) > _SHOWN else ''}"


def _check(state: State, where: str, size: int | None) -> None:
    """Raise unless all tensors are plain numbers that the file has room for; no element is looked at."""
    stored = {}
    for name, value in state.items():
        kind = _peculiarity(value)
        if kind:
            raise DataError(f"{where}: {name[:80]!r} is {kind}; only plain tensors can be imported")
        memory = value.untyped_storage()
        stored[memory.data_ptr()] = memory.nbytes()
        if value.numel() * value.element_size() > memory.nbytes():
            raise CorruptError(f"{where}: {name[:80]!r} claims {value.numel():,} numbers and stores fewer")
    if size is not None and sum(stored.values()) > size:
        raise CorruptError(f"{where}: its tensors claim {sum(stored.values()):,} bytes, and the file has {size:,}")


def _peculiarity(value: "torch.Tensor") -> str | None:
    """Say what keeps a tensor from being plain numbers in memory, if anything does."""
    import torch  # noqa: PLC0415

    if value.is_nested or value.layout is not torch.strided:
        return "nested" if value.is_nested else f"{str(value.layout).removeprefix('torch.').replace('_', ' ')}"
    if value.is_quantized:
        return "quantised"
    if value.is_complex():
        return "complex"
    return f"on the device {value.device}" if value.device.type != "cpu" else None


def strip_prefixes(state: State, where: str, *, from_dataparallel: bool = False) -> "dict[str, torch.Tensor]":
    """Return a state dict without the prefixes that all of its names begin with, e.g. `module.`.

    Args:
        state: name -> tensor.
        where: names the file in errors.
        from_dataparallel: insist that the names begin with `module.`.

    Raises:
        DataError: `from_dataparallel`, and they do not.
    """
    names = {name: name for name in state if name != "n_averaged"}  # of torch.optim.swa_utils, beside `module.`
    stripped: list[str] = []
    while names:
        prefix = next((p for p in _PREFIXES if all(short.startswith(p) for short in names.values())), None)
        if prefix is None:
            break
        stripped.append(prefix)
        names = {name: short.removeprefix(prefix) for name, short in names.items()}
    if from_dataparallel and "module." not in stripped:
        first = next(iter(state), "")
        raise DataError(f"--from-dataparallel: the names in {where} do not begin with 'module.', e.g. {first[:80]!r}")
    return {short: state[name] for name, short in names.items()}
