"""Fold BatchNorm into the convolutions next to it: the same function in fewer passes over memory."""

import copy
import logging
from collections import Counter
from typing import cast

import torch
from torch import nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["absorb_before", "fold_batch_norms"]

_LOG = logging.getLogger(__name__)


def fold_batch_norms(net: nn.Module) -> nn.Module:
    """Return a copy of a network in which BatchNorm is part of the convolutions, where that changes nothing.

    Folded is a BatchNorm that follows a convolution, also with a max pooling between them if none of its scales is
    negative (then the maximum is taken of the same values), and one that only a 1x1 convolution without padding reads.
    A BatchNorm between an addition and a ReLU, as in pre-activation networks, has no neighbour and stays.

    Args:
        net: in eval mode; it is not changed. One whose `forward` cannot be traced comes back as a plain copy.

    Raises:
        ValueError: the network is in training mode, where BatchNorm depends on the batch.
    """
    if net.training:
        raise ValueError("a network in training mode has no fixed BatchNorm to fold")
    net = copy.deepcopy(net)
    try:
        traced = symbolic_trace(net)
    except Exception as error:  # noqa: BLE001  # whatever a `forward` does with what stands for the images
        _LOG.debug("%s cannot be traced, and keeps its BatchNorms: %s", type(net).__name__, error)
        return net
    for node in list(traced.graph.nodes):
        module = _module(traced, node)
        idle = isinstance(module, nn.Identity) or (isinstance(module, nn.Dropout) and not module.training)
        if idle and _source(node) is not None:
            _bypass(traced, node)
    private = _private(traced)
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        fixed = isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats and not norm.training
        if fixed and _source(node) is not None:
            _fold(traced, node, cast("nn.BatchNorm2d", norm), private)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced


def _fold(traced: GraphModule, node: Node, norm: nn.BatchNorm2d, private: set[str]) -> None:
    """Fold one BatchNorm, if it has a neighbour that takes it; `private` are the modules that can be changed."""
    before = _source(node)
    if before is not None and isinstance(_module(traced, before), nn.MaxPool2d) and len(before.users) == 1:
        before = _source(before) if not norm.affine or bool((norm.weight >= 0).all()) else None
    conv = _module(traced, before)
    after = next(iter(node.users)) if len(node.users) == 1 else None
    following = _module(traced, after)
    if type(conv) is nn.Conv2d and before is not None and len(before.users) == 1 and str(before.target) in private:
        _absorb_after(conv, norm)
    elif type(following) is nn.Conv2d and _pointwise(following) and after is not None and str(after.target) in private:
        absorb_before(following, *_affine(norm))
    else:
        return
    _bypass(traced, node)


def _bypass(traced: GraphModule, node: Node) -> None:
    """Let everything that reads a node read what the node reads."""
    node.replace_all_uses_with(cast("Node", node.args[0]))
    traced.graph.erase_node(node)


def _absorb_after(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make a convolution do what the BatchNorm after it does."""
    assert norm.running_mean is not None  # noqa: S101  # it tracks them
    assert norm.running_var is not None  # noqa: S101
    kept = conv.weight.dtype
    wide = [None if x is None else x.detach().double() for x in (conv.weight, conv.bias, norm.weight, norm.bias)]
    weight, bias, scale, shift = wide
    fused = fuse_conv_bn_weights(
        cast("torch.Tensor", weight),
        bias,
        norm.running_mean.double(),
        norm.running_var.double(),
        norm.eps,
        scale,
        shift,
    )
    conv.weight, conv.bias = (nn.Parameter(x.detach().to(kept), requires_grad=False) for x in fused)


def absorb_before(conv: nn.Conv2d, scale: torch.Tensor, shift: torch.Tensor) -> None:
    """Make a convolution do what `x * scale + shift` before it does, in place.

    Args:
        conv: ungrouped and without padding, whose zeros would not have been scaled and shifted.
        scale: per channel, `[C_in]`, in fp64.
        shift: likewise.
    """
    kept = conv.weight.dtype
    weight = conv.weight.detach().double()
    bias = weight.sum((2, 3)) @ shift
    bias = bias if conv.bias is None else bias + conv.bias.detach().double()
    conv.weight = nn.Parameter((weight * scale[:, None, None]).to(kept), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(kept), requires_grad=False)


def _affine(norm: nn.BatchNorm2d) -> tuple[torch.Tensor, torch.Tensor]:
    """Return what a BatchNorm multiplies each channel by, and what it adds, in fp64."""
    assert norm.running_mean is not None  # noqa: S101  # it tracks them
    assert norm.running_var is not None  # noqa: S101
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale * norm.weight.detach().double() if norm.affine else scale
    shift = -norm.running_mean.double() * scale
    shift = shift + norm.bias.detach().double() if norm.affine else shift
    return scale, shift


def _pointwise(conv: nn.Conv2d) -> bool:
    """Say whether a convolution looks at one pixel, and so never at the padding."""
    return conv.kernel_size == (1, 1) and conv.padding in {(0, 0), "valid"} and conv.groups == 1


def _module(traced: GraphModule, node: Node | None) -> nn.Module | None:
    """Return the module that a node calls, if it calls one."""
    return traced.get_submodule(str(node.target)) if node is not None and node.op == "call_module" else None


def _source(node: Node) -> Node | None:
    """Return the node that a module's node reads."""
    first = node.args[0] if node.args else None
    return first if isinstance(first, Node) else None


def _private(traced: GraphModule) -> set[str]:
    """Return the modules whose parameters are read once, by one call: nothing else sees them change."""
    called = [node for node in traced.graph.nodes if node.op == "call_module"]
    reads = Counter(id(_attribute(traced, str(n.target))) for n in traced.graph.nodes if n.op == "get_attr")
    for node in called:
        reads.update({id(parameter) for parameter in traced.get_submodule(str(node.target)).parameters()})
    return {
        str(node.target)
        for node in called
        if all(reads[id(parameter)] == 1 for parameter in traced.get_submodule(str(node.target)).parameters())
    }


def _attribute(traced: GraphModule, path: str) -> object:
    """Return what a dotted path names."""
    owner, _, name = path.rpartition(".")
    return getattr(traced.get_submodule(owner), name)
