"""A session that is replaced by another one."""

import hashlib
from pathlib import Path

import numpy as np
import onnx
import pytest

from export.serve.served import How, Served, load
from tests.conftest import CLASSES
from tests.export.serve.conftest import INTERFACE, answers, some_images, write_graph
from zoo.errors import CorruptError, DataError

HOW = How(device="cpu", threads=1, largest=3)


def test_a_graph_answers_as_the_formula(tmp_path: Path) -> None:
    found = load(write_graph(tmp_path / "m.onnx"), HOW)
    assert found.interface == INTERFACE
    answer, _ = Served(found).answer(some_images(4))
    probs, own = answers(some_images(4))
    np.testing.assert_allclose(answer.probs, probs, atol=1e-5)
    assert answer.member_probs is not None
    np.testing.assert_allclose(answer.member_probs, own, atol=1e-5)


def test_the_digest_is_of_the_weights_too_whatever_their_name(tmp_path: Path) -> None:
    path, weights = write_graph(tmp_path / "m.onnx"), tmp_path / "w"
    onnx.save_model(
        onnx.load(str(path)), str(path), save_as_external_data=True, location=weights.name, size_threshold=1000
    )
    parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in (path, weights)]
    assert load(path, HOW).session.sha256 == hashlib.sha256("".join(parts).encode()).hexdigest()


def test_what_is_prepared_answers_after_the_swap(tmp_path: Path) -> None:
    served = Served(load(write_graph(tmp_path / "m.onnx"), HOW))
    images = some_images(2)
    served.prepare(write_graph(tmp_path / "n.onnx", seed=1), HOW)
    np.testing.assert_allclose(served.answer(images)[0].probs, answers(images)[0], atol=1e-5)
    assert served.swap()
    np.testing.assert_allclose(served.answer(images)[0].probs, answers(images, seed=1)[0], atol=1e-5)
    assert served.session.path == tmp_path / "n.onnx"
    assert not served.swap()


def test_what_is_dropped_is_not_swapped_in(tmp_path: Path) -> None:
    served = Served(load(write_graph(tmp_path / "m.onnx"), HOW))
    served.prepare(write_graph(tmp_path / "n.onnx", seed=1), HOW)
    served.drop()
    assert not served.swap()
    assert served.session.path == tmp_path / "m.onnx"


@pytest.mark.parametrize(
    ("other", "sentence"),
    [
        ({"size": (6, 8)}, "images of 6 x 8 pixels instead of 8 x 6"),
        ({"classes": (*CLASSES[:-1], "lorry")}, "other classes"),
        ({"member_probs": False}, "no output 'member_probs'"),
        ({"members": ("a", "b")}, "2 members instead of 3 in 'member_probs'"),
    ],
)
def test_another_interface_is_refused(tmp_path: Path, other: dict[str, object], sentence: str) -> None:
    served = Served(load(write_graph(tmp_path / "m.onnx"), HOW))
    with pytest.raises(DataError, match=rf"n\.onnx has {sentence}: a reload keeps what clients rely on"):
        served.prepare(write_graph(tmp_path / "n.onnx", **other), HOW)  # type: ignore[arg-type]
    assert not served.swap()


def test_other_members_behind_one_output_are_nobodys_business(tmp_path: Path) -> None:
    served = Served(load(write_graph(tmp_path / "m.onnx", member_probs=False), HOW))
    served.prepare(write_graph(tmp_path / "n.onnx", member_probs=False, members=("x", "y")), HOW)
    assert served.swap()
    assert served.interface.members == ("x", "y")


def test_a_broken_file_is_refused(tmp_path: Path) -> None:
    served = Served(load(write_graph(tmp_path / "m.onnx"), HOW))
    (tmp_path / "n.onnx").write_bytes((tmp_path / "m.onnx").read_bytes()[:-1000])
    with pytest.raises(CorruptError):
        served.prepare(tmp_path / "n.onnx", HOW)
    assert not served.swap()
