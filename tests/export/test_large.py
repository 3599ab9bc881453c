"""An ensemble of more weights than one file of the format can hold."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from ensemble.lockfile import Committee
from ensemble.members import Member
from export.graph.external import weights_name
from export.pipeline import export
from export.runtime import Session
from tests.export.conftest import order_of, torch_says, write_network
from zoo.data import Split
from zoo.files import sha256_file

MEMBERS, WIDEST = 4, 4096
"""Each has a convolution of 9 * 4096^2 weights, which are 0.6 GB in fp32."""


@pytest.mark.slow
def test_weights_beyond_two_gibibytes(seen: Split, tmp_path: Path, place: Path) -> None:
    """Protobuf, and with it a graph of one file, ends at 2 GiB."""
    entries = [write_network(tmp_path, f"wide-{n}", "fastnet", n, widths=[8, 8, WIDEST]) for n in range(MEMBERS)]
    members = tuple(Member(entry.name, entry, n + 1.0, 0.5) for n, entry in enumerate(entries))
    committee = Committee(members, "none", "probs", 0.7)
    made = export(order_of(committee, member_probs=True), place / "m.onnx")
    graph, weights = made.files
    assert {file.name for file in place.iterdir()} == {"m.onnx", weights.name}
    assert weights.name == weights_name("m.onnx", sha256_file(weights))
    assert graph.stat().st_size < 2**20
    assert weights.stat().st_size > 2**31
    onnx.checker.check_model(str(graph), full_check=True)
    images = seen.images[:2]
    probs, own, _ = torch_says(committee, images)
    assert np.abs(own[:, 0] - own[:, 1]).max() > 0.01, "another member's weights would be noticed"
    said = Session(graph, device="cpu").answer(images)
    np.testing.assert_allclose(said.probs, probs, atol=1e-4)
    assert said.member_probs is not None
    np.testing.assert_allclose(said.member_probs, own, atol=1e-4)
