"""Graphs of committees answer as PyTorch's committees do, and as the merge in numpy does."""

from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as arrays
from torch import nn

from ensemble.lockfile import Committee
from ensemble.merge import MERGES, Merge, Vote, merge
from ensemble.module import Ensemble, Verdict
from ensemble.tensor_merge import merge_log_probs
from export.graph.modules import Whole
from export.runtime import open_session
from export.runtime.answer import Floats
from tests.export.conftest import EXACT, torch_says
from tta import view_set
from zoo.data import Split

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


@torch.inference_mode()
def votes_of(committee: Committee, split: Split) -> list[Vote]:
    """Return what networks say, to be merged elsewhere; a network's temperature is in its logits already."""
    net = Ensemble(committee)
    logs = net.log_probs(net.planes(torch.from_numpy(split.images))).numpy()
    of_views = [view.weight for view in view_set(committee.views)]
    return [Vote(own, of_views, member.weight) for own, member in zip(logs, committee.members, strict=True)]


@pytest.mark.parametrize(
    ("members", "views", "how", "temperature"),
    [
        ("ab", "flip", "probs", 0.7),
        ("abc", "flip+shift1", "logits", 2.5),
        ("ad", "none", "vote", 1.0),
        ("c", "crops5", "probs", 1.0),
    ],
)
def test_it_says_what_pytorch_and_numpy_say(
    workshop: "Workshop", seen: Split, members: str, views: str, how: Merge, temperature: float
) -> None:
    committee = workshop.committee(members, views, how, temperature)
    session = open_session(workshop.graph(committee, member_probs=True), device="cpu")
    said = session.answer(seen.images)
    probs, own, top = torch_says(committee, seen.images)
    np.testing.assert_allclose(said.probs, probs, atol=EXACT)
    assert said.member_probs is not None
    np.testing.assert_allclose(said.member_probs, own, atol=EXACT)
    np.testing.assert_array_equal(said.probs.argmax(1), top)
    merged, elected = merge(votes_of(committee, seen), how, temperature)
    np.testing.assert_allclose(said.probs, merged, atol=2 * EXACT)
    np.testing.assert_array_equal(said.probs.argmax(1), elected)
    np.testing.assert_allclose(said.probs.sum(1), 1, atol=EXACT)
    assert len(set(top.tolist())) > 2, "pictures that networks tell apart"


def test_ties_of_a_vote(workshop: "Workshop", seen: Split) -> None:
    two = workshop.committee("ad", "none", "vote", 1.0)
    assert len({member.weight for member in two.members}) == 1
    session = open_session(workshop.graph(two, member_probs=True), device="cpu")
    votes = votes_of(two, seen)
    shares, elected = merge(votes, "vote")
    tied = shares.max(1) < 0.6
    assert tied.sum() > 20
    assert len(np.unique(shares[tied].argmax(1) == elected[tied])) == 2, "the first of them is not always elected"
    np.testing.assert_array_equal(session.run(seen.images).argmax(1), elected)


class _Says(nn.Module):
    """A committee that always says the same, given as log-probabilities `[M, V, N, C]`."""

    def __init__(self, logs: Floats, weights: list[float], how: Merge) -> None:
        super().__init__()
        self.logs, self.merge = torch.from_numpy(logs), how
        self.weights = torch.tensor(weights, dtype=torch.float64)
        self.weights = (self.weights / self.weights.sum()).float()

    def verdict(self, _images: torch.Tensor) -> Verdict:
        views = torch.full((self.logs.shape[1],), 1 / self.logs.shape[1])
        probs, top, own = merge_log_probs(self.logs, self.weights, views, self.merge, 1.0)
        return Verdict(probs, top, own, probs[:, 0])


_CLOSE = np.log(np.array([[[[0.46, 0.54, 1e-9]] * 8], [[[0.55, 0.45, 1e-9]] * 8]], np.float32))
"""Two members, of different opinions, with means of 0.505 and 0.495."""


@given(
    st.integers(1, 6).flatmap(
        lambda members: st.tuples(
            arrays.arrays(np.float32, (members, 2, 8, 3), elements=st.sampled_from([-1.0, 0.0, 0.01, 1.0, 3.0])),
            st.lists(st.sampled_from([0.1, 0.2, 0.3, 1.0, 2.0, 3.0]), min_size=members, max_size=members),
        )
    ),
    st.sampled_from(MERGES),
)
@example((_CLOSE, [1.0, 1.0]), "vote")
@example((_CLOSE[..., [1, 0, 2]], [1.0, 1.0]), "vote")
@settings(max_examples=200)
def test_the_largest_probability_is_the_class_that_is_elected(said: tuple[Floats, list[float]], how: Merge) -> None:
    logits, weights = said
    logs = torch.from_numpy(logits).log_softmax(-1).numpy()
    committee = _Says(logs, weights, how)
    probs = Whole(committee)(torch.zeros(8))  # type: ignore[arg-type]  # nothing but its verdict is asked for
    verdict = committee.verdict(torch.zeros(8))
    np.testing.assert_array_equal(probs.argmax(1), verdict.top)
    np.testing.assert_allclose(probs, verdict.probs, atol=EXACT)
    np.testing.assert_allclose(probs.sum(1), 1, atol=EXACT)


def test_members_own_probabilities_are_there_on_request(workshop: "Workshop") -> None:
    without = workshop.model(workshop.committee("d", "none", "probs", 1.0))
    with_them = workshop.model(workshop.committee(), member_probs=True)
    assert [value.name for value in without.graph.output] == ["probs"]
    assert [value.name for value in with_them.graph.output] == ["probs", "member_probs"]
    assert [dim.dim_value for dim in with_them.graph.output[1].type.tensor_type.shape.dim] == [0, 2, 10]
    assert with_them.graph.output[1].type.tensor_type.elem_type == onnx.TensorProto.FLOAT


def test_views_share_weights(workshop: "Workshop") -> None:
    sizes = set()
    for committee in (workshop.committee("ad", "none", "vote", 1.0), workshop.committee("ab", "flip")):
        graph = workshop.model(committee, member_probs=True).graph
        convolutions = [n for n in graph.node if n.op_type == "Conv" and n.name.startswith("tiny-a/")]
        assert len(convolutions) == 7, "a network runs once, whatever the views"
        weights = [onnx.numpy_helper.to_array(t) for t in graph.initializer if t.name.startswith("tiny-a/")]
        sizes.add(sum(weight.size for weight in weights))
    assert len(sizes) == 1
    assert min(sizes) > 3000
