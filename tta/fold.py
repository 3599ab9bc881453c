"""Fold BatchNorm into the convolutions next to it: the same function in fewer passes over memory."""

import copy
from typing import cast

import torch
from torch import nn
from torch.fx import GraphModule, Node, symbolic_trace
from torch.fx.proxy import TraceError
from torch.nn.utils.fusion import fuse_conv_bn_weights

__all__ = ["fold_batch_norms"]


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
    except (TraceError, TypeError, ValueError):  # control flow that depends on the images
        return net
    for node in list(traced.graph.nodes):
        if isinstance(_module(traced, node), nn.Identity | nn.Dropout):
            _bypass(traced, node)
    for node in list(traced.graph.nodes):
        norm = _module(traced, node)
        if isinstance(norm, nn.BatchNorm2d) and norm.track_running_stats:
            _fold(traced, node, norm)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


def _fold(traced: GraphModule, node: Node, norm: nn.BatchNorm2d) -> None:
    """Fold one BatchNorm, if it has a neighbour that takes it."""
    before = _source(node)
    if isinstance(_module(traced, before), nn.MaxPool2d) and _alone(traced, before):
        assert before is not None  # noqa: S101  # a module's node
        before = _source(before) if not norm.affine or bool((norm.weight >= 0).all()) else None
    conv = _module(traced, before)
    after = next(iter(node.users)) if len(node.users) == 1 else None
    following = _module(traced, after)
    if type(conv) is nn.Conv2d and _alone(traced, before):
        _absorb_after(conv, norm)
    elif type(following) is nn.Conv2d and _pointwise(following) and _alone(traced, node) and _used_once(traced, after):
        _absorb_before(following, norm)
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


def _absorb_before(conv: nn.Conv2d, norm: nn.BatchNorm2d) -> None:
    """Make a 1x1 convolution do what the BatchNorm before it does."""
    assert norm.running_mean is not None  # noqa: S101  # it tracks them
    assert norm.running_var is not None  # noqa: S101
    kept = conv.weight.dtype
    scale = (norm.running_var.double() + norm.eps).rsqrt()
    scale = scale * norm.weight.detach().double() if norm.affine else scale
    shift = -norm.running_mean.double() * scale
    shift = shift + norm.bias.detach().double() if norm.affine else shift
    weight = conv.weight.detach().double()
    bias = weight[:, :, 0, 0] @ shift
    bias = bias if conv.bias is None else bias + conv.bias.detach().double()
    conv.weight = nn.Parameter((weight * scale[:, None, None]).to(kept), requires_grad=False)
    conv.bias = nn.Parameter(bias.to(kept), requires_grad=False)


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


def _alone(traced: GraphModule, node: Node | None) -> bool:
    """Say whether one other node reads a node, whose module is called nowhere else."""
    return node is not None and len(node.users) == 1 and _used_once(traced, node)


def _used_once(traced: GraphModule, node: Node | None) -> bool:
    """Say whether a node's module is called nowhere else."""
    return node is not None and sum(n.op == "call_module" and n.target == node.target for n in traced.graph.nodes) == 1
