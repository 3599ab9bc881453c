"""Workloads: equal where times are, different where they may differ."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from ensemble.cascade.stages import Stage
from ensemble.latency.workload import Workload, of_committee, of_network
from ensemble.lockfile import Committee
from ensemble.members import Member, parse_members
from zoo.card import Card

if TYPE_CHECKING:
    from tests.ensemble.conftest import Zoo

CARD = Card("a", "fastnet", "cifar10", ("x", "y"), (0.5,) * 3, (0.25,) * 3, (32, 32), architecture_args={"widths": [8]})


def test_networks_of_one_shape_are_one_workload() -> None:
    same = replace(CARD, name="b", seed=7, mean=(0.1,) * 3, dataset="other", classes=("u", "v"), multiply_adds=5)
    assert of_network(same) == of_network(CARD)
    others = [
        replace(CARD, architecture="wrn16-4"),
        replace(CARD, architecture_args={}),
        replace(CARD, architecture_args={"widths": [9]}),
        replace(CARD, input_size=(32, 64)),
        replace(CARD, classes=("x", "y", "z")),
    ]
    texts = {json.dumps(of_network(card), sort_keys=True) for card in [CARD, *others]}
    assert len(texts) == 1 + len(others)


def test_a_committee_is_all_of_it(zoo: "Zoo") -> None:
    base = zoo.committee("tiny-a,tiny-b")
    assert of_committee(base) == of_committee(zoo.committee("tiny-a,tiny-b"))
    assert of_committee(base)["members"] == ["tiny-a", "tiny-b"]
    hot = replace(base, members=(base.members[0], replace(base.members[1], temperature=2.0)))
    others = [
        hot,
        zoo.committee("tiny-a,tiny-c"),
        zoo.committee("tiny-a=2,tiny-b"),
        zoo.committee("tiny-a"),
        zoo.committee("tiny-a,tiny-b", views="none"),
        zoo.committee("tiny-a,tiny-b", merge="logits"),
        zoo.committee("tiny-a,tiny-b", temperature=1.5),
    ]
    assert len({of_committee(c)["committee"] for c in [base, *others]}) == 1 + len(others)


def test_other_weights_of_the_same_name_are_another_committee(zoo: "Zoo") -> None:
    one, other = zoo.entry("tiny-a"), zoo.entry("tiny-b")
    pair = [Committee((Member("same", entry),)) for entry in (one, other)]
    assert of_committee(pair[0]) != of_committee(pair[1])


def test_stages_of_a_cascade_count(zoo: "Zoo") -> None:
    base, last = zoo.committee("tiny-a,tiny-b"), Stage(("tiny-a", "tiny-b"), "flip", 1.0, 0.0)
    found = [of_committee(replace(base, cascade=(Stage(("tiny-a",), "none", 1.0, t), last))) for t in (0.9, 0.95, 0.9)]
    assert found[0] == found[2]
    assert len({about["committee"] for about in [*found, of_committee(base)]}) == 3


def test_prediction_files_are_told_apart_by_name(tmp_path: Path) -> None:
    for name in ("x.npz", "y.npz"):
        np.savez(tmp_path / name, probs=np.ones((1, 2)), labels=np.zeros(1, int))
    found = [of_committee(Committee(tuple(parse_members(str(tmp_path / name))))) for name in ("x.npz", "y.npz")]
    assert found[0] != found[1]


def test_a_workload_is_what_json_gives_back() -> None:
    made = Workload({"architecture": "fastnet", "arguments": {"widths": (8, 8)}}, "flip", 4, "bf16", "onnx", "real")
    table = made.to_dict()
    assert table == json.loads(json.dumps(table))
    assert table == {
        "what": {"architecture": "fastnet", "arguments": {"widths": [8, 8]}},
        "views": "flip",
        "batch": 4,
        "precision": "bf16",
        "runtime": "onnx",
        "images": "real",
    }
