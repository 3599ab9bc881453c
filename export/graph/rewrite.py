"""Rewriting a graph so that ONNX Runtime does less for the same answers, with ONNX's own operators alone."""

import math

import onnx

from export.graph.index import GraphIndex

__all__ = ["crop_unread", "expanded_celu", "fusible_gelu"]

_CLOSE = 1e-6


def fusible_gelu(model: onnx.ModelProto) -> int:
    """Order the factors of every GELU in the way that ONNX Runtime, and TensorRT, fuse into one kernel; in place.

    PyTorch writes x (0.5 (1 + erf(x / sqrt 2))); looked for is (x (1 + erf(x / sqrt 2))) 0.5 (ONNX Runtime's
    `core/optimizer/gelu_fusion.h`). Multiplying by a half is exact, so no bit changes but of what underflows.

    Returns:
        How many there were.
    """
    index, found = GraphIndex(model), 0
    for node in model.graph.node:
        parts = _gelu(node, index)
        if parts is None:
            continue
        x, halved, shifted, half = parts
        halved.input[:] = [x, shifted]
        node.input[:] = [halved.output[0], half]
        found += 1
    return found


def _gelu(node: onnx.NodeProto, index: GraphIndex) -> tuple[str, onnx.NodeProto, str, str] | None:
    """Return x, the node that multiplies by a half, 1 + erf and the half, if a node ends a GELU as PyTorch has it."""
    if node.op_type != "Mul":
        return None
    for x, other in (tuple(node.input), tuple(node.input)[::-1]):
        halved = _private(other, "Mul", index)
        if halved is None:
            continue
        for half, shifted in (tuple(halved.input), tuple(halved.input)[::-1]):
            add = _private(shifted, "Add", index)
            if index.scalar(half) != 0.5 or add is None:  # noqa: PLR2004
                continue
            erf = next((made for name in add.input if (made := _private(name, "Erf", index)) is not None), None)
            one = [name for name in add.input if index.scalar(name) == 1]
            div = None if erf is None else _private(erf.input[0], "Div", index)
            if not one or div is None or div.input[0] != x:
                continue
            if math.isclose(index.scalar(div.input[1]) or 0, math.sqrt(2), rel_tol=_CLOSE):
                add.input[:] = [erf.output[0], one[0]] if erf is not None else add.input
                return x, halved, shifted, half
    return None


def _private(name: str, op_type: str, index: GraphIndex) -> onnx.NodeProto | None:
    """Return the node of a type that makes a value, if nothing but one node reads it."""
    node = index.producers.get(name)
    read_once = len(index.consumers[name]) == 1 and name not in index.outputs
    return node if node is not None and node.op_type == op_type and read_once else None


def expanded_celu(model: onnx.ModelProto) -> int:
    """Write every CELU as ONNX defines it, alpha Elu(x / alpha): Celu itself is for fp32 alone; in place.

    Returns:
        How many there were.
    """
    nodes: list[onnx.NodeProto] = []
    alphas: dict[str, onnx.TensorProto] = {}
    found = 0
    for node in model.graph.node:
        if node.op_type != "Celu":
            nodes.append(node)
            continue
        found += 1
        alpha = next((a.f for a in node.attribute if a.name == "alpha"), 1.0)
        by = f"celu:{alpha:.9g}"
        alphas[by] = onnx.helper.make_tensor(by, onnx.TensorProto.FLOAT, [], [alpha])
        parts = [f"{node.output[0]}:{part}" for part in ("over", "elu")]
        nodes += [
            onnx.helper.make_node("Div", [node.input[0], by], [parts[0]], f"{node.name}/Div"),
            onnx.helper.make_node("Elu", [parts[0]], [parts[1]], f"{node.name}/Elu"),
            onnx.helper.make_node("Mul", [parts[1], by], list(node.output), f"{node.name}/Mul"),
        ]
    del model.graph.node[:]
    model.graph.node.extend(nodes)
    model.graph.initializer.extend(alphas.values())
    return found


def crop_unread(model: onnx.ModelProto) -> int:
    """Take rows and columns that nobody reads off the padding of convolutions; in place.

    A max pooling whose windows do not fill its input evenly leaves the last rows and columns out, and the convolution
    before it need not compute them: of a 31 x 31 map before 2 x 2 windows, 6 % of what it is.

    Returns:
        How many convolutions compute less than before.
    """
    index, found = GraphIndex(model), 0
    for node in model.graph.node:
        conv = _private(node.input[0], "Conv", index) if node.op_type == "MaxPool" and len(node.output) == 1 else None
        shape = None if conv is None else index.shapes.get(conv.output[0])
        if conv is None or shape is None or len(shape) != 4:  # noqa: PLR2004
            continue
        kernel, stride = (_numbers(node, key, (1, 1)) for key in ("kernel_shape", "strides"))
        ceil = _auto_padded(node) or any(a.name == "ceil_mode" and a.i for a in node.attribute)
        plain = set(_numbers(node, "pads", (0, 0, 0, 0))) == {0} and set(_numbers(node, "dilations", (1, 1))) == {1}
        if ceil or not plain or set(_numbers(conv, "strides", (1, 1))) != {1} or _auto_padded(conv):
            continue
        pads = _numbers(conv, "pads", (0, 0, 0, 0))
        sizes = [dim for dim in shape[2:] if isinstance(dim, int) and dim > 0]
        if len(sizes) != 2:  # noqa: PLR2004
            continue
        unread = [(size - k) % s if size >= k else 0 for size, k, s in zip(sizes, kernel, stride, strict=True)]
        ends = [min(rest, pad) for rest, pad in zip(unread, pads[2:], strict=True)]
        if any(ends):
            kept = [a for a in conv.attribute if a.name != "pads"]
            del conv.attribute[:]
            conv.attribute.extend(kept)
            cropped = [*pads[:2], *(pad - end for pad, end in zip(pads[2:], ends, strict=True))]
            conv.attribute.append(onnx.helper.make_attribute("pads", cropped))
            found += 1
    return found


def _auto_padded(node: onnx.NodeProto) -> bool:
    """Say whether the padding of a convolution or pooling is not in its `pads`."""
    return any(a.name == "auto_pad" and a.s not in {b"", b"NOTSET"} for a in node.attribute)


def _numbers(node: onnx.NodeProto, name: str, default: tuple[int, ...]) -> tuple[int, ...]:
    """Return an attribute that is a list of numbers."""
    return next((tuple(a.ints) for a in node.attribute if a.name == name), default)
