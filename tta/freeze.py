"""Frozen networks: the same answers, as fast as the device gives them."""

import logging
from dataclasses import dataclass
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm

from tta.fold import fold_batch_norms
from tta.predict import Precision
from zoo.errors import UsageError

__all__ = ["FrozenNet", "Setting", "best_precision"]

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
_AT_ONCE = 32
"""Images that a CPU works on at a time: activations then fit into what the C library keeps. Larger ones it returns to
the kernel after every layer, which clears their pages again and again; see `zoo.allocator`."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Setting:
    """Where and how a frozen network runs.

    Attributes:
        device: of weights and activations.
        precision: of weights and activations; logits are at least fp32.
        compile: run it through `torch.compile`; on a GPU with CUDA graphs. Where there is no compiler, it runs
            uncompiled, after a warning.
        channels_last: lay activations out as `[N, H, W, C]`, which is faster on everything we know.

    Raises:
        UsageError: a precision that there is none of.
    """

    device: torch.device
    precision: Precision = "fp32"
    compile: bool = False
    channels_last: bool = True

    def __post_init__(self) -> None:
        if self.precision not in _DTYPES:
            raise UsageError(f"unknown precision {self.precision!r}; there are {', '.join(_DTYPES)}")

    @classmethod
    def best(cls, device: torch.device | None = None, *, compile: bool = False) -> "Setting":  # noqa: A002  # the field's word
        """Return the fastest setting that keeps the answers: `best_precision`, on a CUDA GPU if there is one."""
        device = device or torch.device("cuda" if torch.cuda.is_available() else "cpu")
        return cls(device, best_precision(device), compile)


def best_precision(device: torch.device) -> Precision:
    """Return the fastest precision that keeps a network's answers on a device: bf16 if it computes in it, else fp32.

    GPUs without bf16 (before Ampere) get fp16.
    """
    if device.type == "cuda":
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp16"
    if device.type == "cpu" and torch.cpu._is_avx512_bf16_supported():  # noqa: SLF001  # there is no public way in 2.9
        return "bf16"
    return "fp32"


class FrozenNet(nn.Module):
    """A network for inference only: BatchNorm folded, channels-last, in one precision, perhaps compiled.

    In half precision, the first convolution and the last linear layer stay in fp32, as in quantisation: they are a few
    of a thousand multiply-adds, and rounding a whitening layer's input would cost more accuracy than all else together.
    So do the numbers of BatchNorms that cannot be folded.

    Args:
        net: in eval mode; it is not changed.
        setting: where and how it runs.

    Shape: normalised images `[N, C_in, H, W]` on any device and of any floating dtype -> fp32 logits `[N, C]`.

    Raises:
        ValueError: the network is in training mode.
    """

    def __init__(self, net: nn.Module, setting: Setting) -> None:
        super().__init__()
        self.training = False
        self.setting = setting
        self._dtype = _DTYPES[setting.precision]
        self._format = torch.channels_last if setting.channels_last else torch.contiguous_format
        net = fold_batch_norms(net)
        if self._dtype != torch.float32:
            _narrow(net, self._dtype)
        net = net.to(setting.device)
        self.net = net.to(memory_format=self._format).requires_grad_(False)
        self._compiled = self._compile() if setting.compile else None

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, fp32 at least."""
        images = images.to(self.setting.device, torch.float32, memory_format=self._format)
        at_once = _AT_ONCE if images.device.type == "cpu" else max(1, len(images))
        logits = torch.cat([self._run(part) for part in torch.split(images, at_once)])
        return logits.to(torch.promote_types(logits.dtype, torch.float32))

    def _compile(self) -> nn.Module:
        mode = "reduce-overhead" if self.setting.device.type == "cuda" else "default"
        return cast("nn.Module", torch.compile(self.net, mode=mode))

    def _run(self, images: Tensor) -> Tensor:
        """Run the compiled network, or the plain one from the first failure of the compiler on."""
        if self._compiled is not None:
            try:
                logits: Tensor = self._compiled(images)
            except Exception as error:  # noqa: BLE001  # whatever a compiler says, the network can run without it
                reason = str(error).partition("\n")[0]
                _LOG.warning("torch.compile failed (%s: %s): running uncompiled", type(error).__name__, reason)
                self._compiled = None
            else:
                # CUDA graphs write their next answer where this one lies.
                return logits.clone() if images.is_cuda else logits
        plain: Tensor = self.net(images)
        return plain

    def extra_repr(self) -> str:
        """Return how it runs, for `print`."""
        return f"{self.setting.device}, {self.setting.precision}{', compiled' if self.setting.compile else ''}"


class _Wide(nn.Module):
    """A layer in fp32 between layers of half precision."""

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        super().__init__()
        self.layer, self._dtype = layer, dtype

    def forward(self, x: Tensor) -> Tensor:
        wide: Tensor = self.layer(x.float())
        return wide.to(self._dtype)


def _narrow(net: nn.Module, dtype: torch.dtype) -> None:
    """Turn a network into one of half precision, but for its first convolution, its last linear layer and its norms."""
    convs = [name for name, module in net.named_modules() if isinstance(module, nn.Conv2d)]
    linear = [name for name, module in net.named_modules() if isinstance(module, nn.Linear)]
    kept = {name: net.get_submodule(name) for name in (*convs[:1], *linear[-1:])}
    for module in net.modules():
        if not isinstance(module, _BatchNorm) and module not in kept.values():
            _cast(module, dtype)
    for name, module in kept.items():
        net.set_submodule(name, _Wide(module, torch.float32 if name in linear else dtype))


def _cast(module: nn.Module, dtype: torch.dtype) -> None:
    """Give a module's own floating-point parameters and buffers another dtype."""
    for parameter in module.parameters(recurse=False):
        parameter.data = parameter.data.to(dtype)
    for name, buffer in module.named_buffers(recurse=False):
        if buffer.is_floating_point():
            setattr(module, name, buffer.to(dtype))
