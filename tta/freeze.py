"""Frozen networks: the same answers, as fast as the device gives them."""

import copy
import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor, nn

from tta.fold import fold_batch_norms
from tta.max_pool import slice_max_pools
from tta.predict import Precision, autocast
from zoo.convert import DTYPES
from zoo.errors import UsageError

__all__ = ["FrozenNet", "Setting", "best_precision"]

_AT_ONCE = 32
"""Images that a CPU works on at a time: activations then fit into what the C library keeps. Larger ones it returns to
the kernel after every layer, which clears their pages again and again; see `zoo.allocator`."""

_NARROWED = (
    nn.Conv1d,
    nn.Conv2d,
    nn.Conv3d,
    nn.ConvTranspose1d,
    nn.ConvTranspose2d,
    nn.ConvTranspose3d,
    nn.Linear,
)
"""Layers whose numbers are kept in half precision, just these and no sub-classes: autocast takes them in either."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """Where and how a frozen network runs.

    Attributes:
        device: of weights and activations.
        precision: of weights and activations; logits are at least fp32. `fp16` overflows above 65,504, which a network
            trained in another precision may reach.
        compile: run it through `torch.compile`; on a GPU with CUDA graphs. Where there is no compiler, it runs
            uncompiled, after a warning.
        channels_last: lay activations out as `[N, H, W, C]`, which is faster on everything we know.
        dynamic: batches will have many sizes, as in the later stages of a cascade. It is then compiled once for all of
            them, and without CUDA graphs, which would be recorded anew for each size.

    Raises:
        UsageError: a precision that there is none of.
    """

    device: torch.device
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = True
    dynamic: bool = False

    def __post_init__(self) -> None:
        object.__setattr__(self, "device", torch.device(self.device))  # a name does as well
        if self.precision not in DTYPES:
            raise UsageError(f"unknown precision {self.precision!r}; there are {', '.join(DTYPES)}")

    @classmethod
    def best(cls, device: torch.device | None = None, *, compile: bool = False) -> "Setting":  # noqa: A002  # the field's word
        """Return the fastest setting that keeps the answers: `best_precision`, on a CUDA GPU if there is one."""
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(device, best_precision(device), compile)


def best_precision(device: torch.device) -> Precision:
    """Return the fastest precision that keeps a network's answers on a device: bf16 if it computes in it, else fp32.

    It is never fp16, in which activations may overflow: GPUs without bf16 (before Ampere) get fp32.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001  # there is no public way in 2.9
        return "bf16"
    return "fp32"


class FrozenNet(nn.Module):
    """A network for inference only: BatchNorm folded, channels-last, in one precision, perhaps compiled.

    In half precision, the first convolution and the last linear layer stay in fp32, as in quantisation: they are a few
    of a thousand multiply-adds, and rounding a whitening layer's input would cost more accuracy than all else together.
    So do the numbers of BatchNorms that cannot be folded. Whatever else a network does runs under autocast. The first
    images show whether that goes: if it fails on them, or gives NaN or infinity, and fp32 does not, it is fp32 from
    then on, after a warning.

    It stays as it is: it cannot be trained, frozen again, or moved to another device or precision.

    Args:
        net: in eval mode; it is not changed.
        setting: where and how it runs.

    Attributes:
        setting: as given.
        precision: that it runs in: the setting's, or `fp32` where that failed.
        compiled: whether it runs compiled: as the setting says, until compiling fails.

    Shape: normalised images `[N, C_in, H, W]` on any device and of any floating dtype -> fp32 logits `[N, C]`.

    Raises:
        ValueError: the network is in training mode.
        UsageError: it is frozen, or a part of it.
    """

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        super().__init__()
        if any(isinstance(module, FrozenNet) for module in net.modules()):
            raise UsageError("this network is frozen already: freeze the one that it was made of")
        self.training = False
        self.setting, self.precision, self.compiled = setting, setting.precision, setting.compile
        self._format = torch.channels_last if setting.channels_last else torch.contiguous_format
        folded = (
            slice_max_pools(fold_batch_norms(net))
            .to(setting.device)
            .to(memory_format=self._format)
            .requires_grad_(False)
        )
        half = setting.precision != "fp32"
        self.net = _narrowed(folded, getattr(torch, DTYPES[setting.precision])) if half else folded
        self._spare: list[nn.Module] = [folded] if half else []  # until the first images; in a list it is no sub-module

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, fp32 at least."""
        images = images.to(self.setting.device, torch.float32, memory_format=self._format)
        parts = torch.split(images, _AT_ONCE if images.device.type == "cpu" else max(1, len(images)))
        if self._spare:
            self._try_half(parts[0])
        with autocast(self.setting.device, self.precision):
            logits = torch.cat([self._run(part) for part in parts])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def train(self, mode: bool = True) -> Self:  # noqa: ARG002, FBT001, FBT002  # torch's own signature
        """Stay in eval mode: what is frozen does not learn."""
        return super().train(False)

    def extra_repr(self) -> str:
        """Return how it runs, for `print`."""
        return f"{self.setting.device}, {self.precision}{', compiled' if self.compiled else ''}"

    def _try_half(self, images: Tensor) -> None:
        """Run the first images in half precision; if only fp32 can, stay with fp32."""
        trouble = "the answers are not finite"
        try:
            with autocast(self.setting.device, self.precision):
                if self.net.forward(images).isfinite().all():
                    if len(images):  # none at all show nothing
                        self._spare.clear()
                    return
        except Exception as error:  # noqa: BLE001  # whatever half precision lacks, fp32 may have
            trouble = _line(error)
        with autocast(self.setting.device, "fp32"):  # what fails here too has nothing to do with precision
            fine = self._spare[0](images).isfinite().all()
        if fine:
            _LOG.warning("%s failed (%s): running in fp32", self.precision, trouble)
            self.net, self.precision = self._spare.pop(), "fp32"

    def _run(self, images: Tensor) -> Tensor:
        """Run the compiled network, or the plain one from the first failure of the compiler on."""
        if not self.compiled:
            plain: Tensor = self.net(images)
            return plain
        if self.net._compiled_call_impl is None:  # noqa: SLF001  # not yet, or this is a copy, which comes without
            graphs = self.setting.device.type == "cuda" and not self.setting.dynamic
            self.net.compile(mode="reduce-overhead" if graphs else "default", dynamic=self.setting.dynamic or None)
        try:
            logits: Tensor = self.net(images)
        except Exception as error:  # noqa: BLE001  # whatever a compiler says, the network can run without it
            plain = self.net.forward(images)  # if this fails too, it is not the compiler's fault
            _LOG.warning("torch.compile failed (%s): running uncompiled", _line(error))
            self.compiled, self.net._compiled_call_impl = False, None  # noqa: SLF001  # there is no public way back
            return plain
        # CUDA graphs write their next answer where this one lies.
        return logits.clone() if images.is_cuda else logits

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:  # noqa: FBT001, FBT002  # torch's
        """Refuse what `.to()`, `.half()` and the like would change of dtype or device."""
        for tensor in (*self.parameters(), *self.buffers()):
            probe = tensor.detach().new_empty(0)
            after = fn(probe)
            if (after.dtype, after.device) != (probe.dtype, probe.device):
                raise UsageError(
                    f"a frozen network stays on {self.setting.device} in {self.precision}: freeze the one that it was "
                    "made of with another Setting"
                )
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]  # torch's own
        return self


class _Wide(nn.Module):
    """A layer in fp32 between layers of half precision."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self._dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        with torch.autocast(x.device.type, enabled=False):
            wide: Tensor = self.layer(x.float())
        return wide.to(self._dtype)


def _narrowed(net: nn.Module, dtype: torch.dtype) -> nn.Module:
    """Return a copy in half precision, for autocast, but for the first convolution, the last linear layer and norms."""
    net = copy.deepcopy(net)
    convs = [name for name, module in net.named_modules() if name and isinstance(module, nn.Conv2d)]
    linear = [name for name, module in net.named_modules() if name and isinstance(module, nn.Linear)]
    kept = {name: net.get_submodule(name) for name in (*convs[:1], *linear[-1:])}
    tied = {id(parameter) for module in kept.values() for parameter in module.parameters()}
    for module in net.modules():
        if type(module) in _NARROWED and tied.isdisjoint(map(id, module.parameters())):
            module.to(dtype)
    for name, module in kept.items():
        net.set_submodule(name, _Wide(module, torch.float32 if name in linear else dtype))
    return net


def _line(error: Exception) -> str:
    """Return what went wrong, in one line."""
    return f"{type(error).__name__}: {str(error).partition(chr(10))[0]}"
