"""Every family of architectures becomes a graph that answers as PyTorch does, for batches of any size."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx
import pytest
import torch
from torch import Tensor, nn

from ensemble.lockfile import Committee
from ensemble.members import Member
from ensemble.module import Ensemble
from export.graph.trace import trace
from export.runtime import Session
from tests.export.conftest import EXACT, torch_says, write_network
from zoo.archs import ARCHS
from zoo.data import Split
from zoo.entry import Entry
from zoo.errors import DataError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop

FAMILIES: Mapping[str, tuple[str, Mapping[str, Any]]] = {
    "plain": ("cnn6", {"widths": [4, 8, 8]}),
    "fast": ("fastnet", {"widths": [8, 8, 8]}),
    "pyramid": ("pyramid110-a48", {"depth": 8, "alpha": 10}),
    "residual-group": ("resnet20", {"depth": 8, "widths": [4, 8, 8], "norm": "group"}),
    "nine": ("resnet9", {"widths": [4, 4, 8, 8]}),
    "shaken": ("shakeshake26-2x32d", {"depth": 8, "width": 4}),
    "wide": ("wrn16-2", {"depth": 10, "width": 1, "dropout": 0.3}),
}
"""A tiny network of every family: name -> architecture and arguments."""

NETWORKS = {
    **FAMILIES,
    "fast-deep": ("fastnet96", {"widths": [8, 8, 8]}),
    "pyramid-bottleneck": ("pyramid272", {"depth": 11, "alpha": 10}),
    "residual": ("resnet20", {"depth": 8, "widths": [4, 8, 8]}),
    "residual-a": ("resnet20-a", {"depth": 8, "widths": [4, 8, 8]}),
    "nine-relu": ("resnet9", {"widths": [4, 4, 8, 8], "activation": "relu", "pool_first": False, "whitening": False}),
}
"""And of what options change in them."""

NEWER = ("fast", "residual-group")
"""Whose graphs have other operators in newer versions of ONNX."""


def of_many_families(workshop: "Workshop", names: Collection[str] = FAMILIES) -> Committee:
    """Return a committee of such networks: one graph to trace for all of them."""
    source = workshop.folder / "families"
    entries = []
    for seed, name in enumerate(names):
        arch, arguments = NETWORKS[name]
        known = Entry(name, source / name, str(source))
        entries.append(known if known.folder.exists() else write_network(source, name, arch, seed, **arguments))
    return Committee(tuple(Member(entry.name, entry) for entry in entries), "none", "logits")


def test_every_family_is_among_them() -> None:
    assert {ARCHS[arch][0] for arch, _ in FAMILIES.values()} == {build for build, _ in ARCHS.values()}


def hold_to_pytorch(path: Path, committee: Committee, name: str, seen: Split) -> None:
    """Compare what one of a committee's networks says in its graph, for batches of several sizes."""
    session = Session(path, device="cpu")
    number = [member.name for member in committee.members].index(name)
    net = Ensemble(Committee((committee.members[number],)))
    for batch in (1, 2, 7, 64):
        images = np.resize(seen.images, (batch, 32, 32, 3))
        with torch.inference_mode():
            wanted = net(torch.from_numpy(images)).numpy()
        found = session.answer(images).member_probs
        assert found is not None
        np.testing.assert_allclose(found[:, number], wanted, atol=EXACT)
        assert batch < 64 or np.ptp(wanted, 0).max() > 0.01, "it tells pictures apart"


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_answers_as_pytorch_does(workshop: "Workshop", seen: Split, name: str) -> None:
    committee = of_many_families(workshop)
    hold_to_pytorch(workshop.graph(committee, member_probs=True), committee, name, seen)


@pytest.mark.parametrize("name", NEWER)
def test_and_with_the_newest_operators(workshop: "Workshop", seen: Split, name: str) -> None:
    committee = of_many_families(workshop, NEWER)
    path = workshop.graph(committee, opset=23, member_probs=True)
    hold_to_pytorch(path, committee, name, seen)
    assert {"Gelu", "GroupNormalization"} <= {node.op_type for node in onnx.load(path).graph.node}


@pytest.mark.slow
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("opset", range(18, 24))
def test_every_network_with_every_version_of_the_operators(
    workshop: "Workshop", seen: Split, name: str, opset: int
) -> None:
    committee = of_many_families(workshop, NETWORKS)
    hold_to_pytorch(workshop.graph(committee, opset=opset, member_probs=True), committee, name, seen)


def test_a_batch_of_4096(workshop: "Workshop", seen: Split) -> None:
    committee = workshop.committee("d", "none", "probs", 1.0)
    session = Session(workshop.graph(committee), device="cpu")
    rng = np.random.default_rng(0)
    rows = rng.integers(0, len(seen), 4096)
    probs, _, _ = torch_says(committee, seen.images)
    np.testing.assert_allclose(session.run(seen.images[rows]), probs[rows], atol=EXACT)


@pytest.mark.parametrize(("names", "opset"), [(FAMILIES, 18), (NEWER, 23)])
def test_the_batch_is_the_one_dynamic_dimension(workshop: "Workshop", names: Collection[str], opset: int) -> None:
    model = workshop.model(
        of_many_families(workshop, names), member_probs=True, **({} if opset == 18 else {"opset": opset})
    )
    shapes = {
        value.name: [dim.dim_param or dim.dim_value for dim in value.type.tensor_type.shape.dim]
        for value in (*model.graph.input, *model.graph.output)
    }
    assert shapes == {"images": ["batch", 32, 32, 3], "probs": ["batch", 10], "member_probs": ["batch", len(names), 10]}
    assert model.graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8
    assert {entry.domain: entry.version for entry in model.opset_import} == {"": opset}
    onnx.checker.check_model(model, full_check=True)


def test_nodes_and_weights_are_called_after_members_and_layers(workshop: "Workshop") -> None:
    model = workshop.model(workshop.committee(), member_probs=True)
    names = [node.name for node in model.graph.node]
    assert len(set(names)) == len(names)
    assert {"tiny-a/whiten/Conv", "tiny-a/groups.0.conv1/Conv", "tiny-b/head/Gemm"} <= set(names)
    weights = {tensor.name for tensor in model.graph.initializer}
    assert {"tiny-a/whiten.weight", "tiny-a/groups.2.conv2.weight", "tiny-b/head.weight"} <= weights
    heads = [node.input[1] for node in model.graph.node if node.name in {"tiny-a/head/Gemm", "tiny-b/head/Gemm"}]
    assert heads == ["tiny-a/head.weight", "tiny-b/head.weight"]


def test_what_the_exporter_notes_is_stripped(workshop: "Workshop") -> None:
    model = workshop.model(of_many_families(workshop), member_probs=True)
    parts = (*model.graph.node, *model.graph.initializer, *model.graph.input, *model.graph.output, model.graph)
    assert [part.name for part in parts if part.doc_string or list(part.metadata_props)] == []
    assert model.doc_string == ""
    assert list(model.graph.value_info) == []
    assert list(model.functions) == []


class _Halves(nn.Module):
    """What freezes the batch: as many parts as the example has."""

    def forward(self, images: Tensor) -> Tensor:
        first, second = (images.float().mean((1, 2)) @ torch.ones(3, 2)).chunk(2)
        return torch.cat([second, first])


class _Looks(nn.Module):
    """What cannot be traced: it looks at the pixels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float() if images.sum() > 3 else images.float() * 2


class _Flat(nn.Module):
    """What has no batch among its outputs."""

    def forward(self, images: Tensor) -> Tensor:
        return images.float().mean((0, 1, 2))


@pytest.mark.parametrize("module", [_Halves(), _Looks(), _Flat()], ids=lambda module: type(module).__name__)
def test_what_cannot_be_a_graph_is_refused_in_a_line(module: nn.Module) -> None:
    with pytest.raises(DataError, match=r"PyTorch cannot export this ensemble: |its batch is not the one") as no:
        trace(module, (8, 8), ["probs"], ["m"], 18)
    assert "\n" not in str(no.value)
