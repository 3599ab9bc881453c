"""Sessions over graphs whose weights are in a file beside them: that must be there, and be theirs."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import onnx
import pytest

from ensemble.lockfile import Committee
from export.graph.save import save, stamp
from export.metadata import About, metadata_props
from export.runtime import Session
from tests.export.conftest import EXACT, table_of
from zoo.data import Split
from zoo.errors import CorruptError

if TYPE_CHECKING:
    from tests.export.conftest import Workshop


def weights_of(path: Path) -> Path:
    """Return the file with a graph's weights."""
    (found,) = path.parent.glob(f"{path.name}.*.data")
    return found


@pytest.fixture
def apart(workshop: "Workshop", one: Committee, tmp_path: Path) -> tuple[onnx.ModelProto, Path]:
    """A graph whose weights are beside it."""
    model, path = workshop.model(one), tmp_path / "m.onnx"
    save(model, path, external_from=1000)
    stamp(model, path, metadata_props(About(table_of(one), "fp32", 18)))
    return model, path


def digest_of(*files: Path) -> str:
    parts = [hashlib.sha256(file.read_bytes()).hexdigest() for file in files]
    return hashlib.sha256("".join(parts).encode()).hexdigest()


def locate(tensor: onnx.TensorProto, location: str) -> None:
    for entry in tensor.external_data:
        if entry.key == "location":
            entry.value = location


def rename(apart: tuple[onnx.ModelProto, Path], name: str) -> Path:
    """Give the weights' file another name, and return where it is."""
    model, path = apart
    for tensor in model.graph.initializer:
        locate(tensor, name)
    path.write_bytes(model.SerializeToString())
    return weights_of(path).rename(path.with_name(name))


def test_weights_beside_the_graph_count_in_its_digest(apart: tuple[onnx.ModelProto, Path]) -> None:
    _, path = apart
    assert Session(path, device="cpu").sha256 == digest_of(path, weights_of(path))


def test_whatever_their_file_is_called(apart: tuple[onnx.ModelProto, Path], seen: Split) -> None:
    _, path = apart
    data, before = rename(apart, "w.data"), Session(path, device="cpu")
    assert before.sha256 == digest_of(path, data)
    content = bytearray(data.read_bytes())
    content[3] ^= 1  # of the first weight's exponent
    data.write_bytes(content)
    after = Session(path, device="cpu")
    assert after.sha256 == digest_of(path, data) != before.sha256
    assert np.abs(after.run(seen.images) - before.run(seen.images)).max() > EXACT, "nothing but digests would tell"


def half_arrived(content: bytes) -> bytes:
    """Return what is there in the midst of a copy whose space was set aside first."""
    half = len(content) // 2
    return content[:half] + bytes(len(content) - half)


@pytest.mark.parametrize(
    ("name", "spoil"),
    [
        (None, half_arrived),
        (None, lambda content: content[:-1]),
        (None, lambda _: b""),
        ("w.data", lambda content: content[:-1]),
        ("w.data", lambda content: content[: len(content) // 2]),
        ("m.onnx.data", lambda _: b""),
    ],
)
def test_other_weights_than_the_graphs(
    apart: tuple[onnx.ModelProto, Path], name: str | None, spoil: Callable[[bytes], bytes]
) -> None:
    _, path = apart
    data = weights_of(path) if name is None else rename(apart, name)
    data.write_bytes(spoil(data.read_bytes()))
    with pytest.raises(CorruptError) as no:
        Session(path, device="cpu")
    assert str(no.value) == f"{data} does not have the weights of {path}: copy the graph and it again"


@pytest.mark.parametrize("location", ["../x.data", "/etc/passwd", "a/x.data", "..", ".", "", "a\\x.data", "c\n"])
def test_weights_elsewhere_are_refused(apart: tuple[onnx.ModelProto, Path], location: str) -> None:
    model, path = apart
    (path.parent / "a").mkdir()
    for place in (path.parent.parent / "x.data", path.parent / "a" / "x.data"):
        place.write_bytes(weights_of(path).read_bytes())
    tensor = next(tensor for tensor in model.graph.initializer if tensor.external_data)
    locate(tensor, location)
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CorruptError) as no:
        Session(path, device="cpu")
    assert str(no.value) == f"{path} would read its weights from {location!r}, which is not a file beside it"


def test_and_wherever_in_a_graph_they_are(apart: tuple[onnx.ModelProto, Path]) -> None:
    model, path = apart
    hidden = onnx.TensorProto(name="hidden", data_type=onnx.TensorProto.FLOAT, dims=[1])
    hidden.data_location = onnx.TensorProto.EXTERNAL
    hidden.external_data.add(key="location", value="../secret")
    inner = onnx.helper.make_node("Constant", [], ["k"], value=hidden)
    value = onnx.helper.make_tensor_value_info("k", onnx.TensorProto.FLOAT, [1])
    branch = onnx.helper.make_graph([inner], "branch", [], [value])
    model.graph.node.append(onnx.helper.make_node("If", ["c"], ["z"], then_branch=branch, else_branch=branch))
    path.write_bytes(model.SerializeToString())
    with pytest.raises(CorruptError, match=r"would read its weights from '\.\./secret'"):
        Session(path, device="cpu")


def test_weights_that_stayed_behind(apart: tuple[onnx.ModelProto, Path]) -> None:
    _, path = apart
    weights_of(path).unlink()
    missing = r"has its weights in 'm\.onnx\.[0-9a-f]{16}\.data', which is not there: move the two"
    with pytest.raises(CorruptError, match=missing):
        Session(path, device="cpu")
