"""A tiny network with a closed formula, as a session and as a graph, and servers in front of it."""

import http.client
import json
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import pytest
import tritonclient.http as triton
from onnx import TensorProto, helper, numpy_helper

from export.metadata import About, metadata_props
from export.runtime.answer import Answer
from export.serve.app import App
from export.serve.endpoints import Endpoints
from export.serve.hosts import Hosts
from export.serve.interface import Interface
from export.serve.limits import Limits
from export.serve.listener import Listener, shared_socket
from export.serve.metrics import Metrics
from export.serve.served import Loaded, Served
from tests.conftest import CLASSES

Images = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

SIZE = (8, 6)
MEMBERS = ("a", "b", "c")
WEIGHTS = (0.5, 0.25, 0.25)


def lockfile(members: tuple[str, ...] = MEMBERS, classes: tuple[str, ...] = CLASSES) -> dict[str, Any]:
    named = [
        {"name": name, "sha256": "0" * 64, "weight": 2 * weight, "temperature": 1.0}
        for name, weight in zip(members, WEIGHTS, strict=False)
    ]
    return {"dataset": "cifar10", "classes": list(classes), "members": named, "views": "none", "merge": "probs"}


def table(seed: int, members: int = len(MEMBERS), classes: int = len(CLASSES)) -> Floats:
    """Return what colours speak for, `[3, M * C]`."""
    return np.random.default_rng(seed).normal(0, 12, (3, members * classes)).astype(np.float32)


def answers(images: Images, seed: int = 0, members: int = len(MEMBERS)) -> tuple[Floats, Floats]:
    """Return probabilities `[N, C]` and the members' `[N, M, C]`: a softmax over mean colours."""
    colours = images.astype(np.float64).mean((1, 2)) / 255
    logits = (colours @ table(seed, members)).reshape(len(images), members, -1)
    powers = np.exp(logits - logits.max(-1, keepdims=True))
    own = powers / powers.sum(-1, keepdims=True)
    shares = np.array(WEIGHTS[:members]) / sum(WEIGHTS[:members])
    return np.einsum("nmc,m->nc", own, shares).astype(np.float32), own.astype(np.float32)


def write_graph(
    path: Path,
    *,
    seed: int = 0,
    member_probs: bool = True,
    size: tuple[int, int] = SIZE,
    members: tuple[str, ...] = MEMBERS,
    classes: tuple[str, ...] = CLASSES,
    work: int = 0,
) -> Path:
    """Write what `answers` computes as a graph; `work` products of large matrices make it slow."""
    shape = [0, len(members), len(classes)]
    shares = np.array(WEIGHTS[: len(members)], np.float32).reshape(1, -1, 1)
    constants = {
        "table": table(seed, len(members), len(classes)) / 255,
        "axes": np.array([1, 2]),
        "shape": np.array(shape),
        "shares": shares / shares.sum(),
        "member_axis": np.array([1]),
        "large": np.eye(1000, dtype=np.float32),
        "zero": np.zeros(1, np.float32),
    }
    nodes = [
        helper.make_node("Cast", ["images"], ["floats"], to=TensorProto.FLOAT),
        helper.make_node("ReduceMean", ["floats", "axes"], ["colours"], keepdims=0),
        helper.make_node("MatMul", ["colours", "table"], ["flat"]),
        helper.make_node("Reshape", ["flat", "shape"], ["logits"]),
        helper.make_node("Softmax", ["logits"], ["own"], axis=-1),
        helper.make_node("Mul", ["own", "shares"], ["weighted"]),
        helper.make_node("ReduceSum", ["weighted", "member_axis"], ["merged"], keepdims=0),
        helper.make_node("ReduceMax", ["floats"], ["scale"], keepdims=0),
        helper.make_node("Mul", ["large", "scale"], ["work0"]),
        *(helper.make_node("MatMul", [f"work{i}", "large"], [f"work{i + 1}"]) for i in range(work)),
        helper.make_node("ReduceMin", [f"work{work}"], ["least"], keepdims=0),
        helper.make_node("Mul", ["least", "zero"], ["nothing"]),
        helper.make_node("Add", ["merged", "nothing"], ["probs"]),
        helper.make_node("Identity", ["own"], ["member_probs"]),
    ]
    outputs = [helper.make_tensor_value_info("probs", TensorProto.FLOAT, ["batch", len(classes)])]
    if member_probs:
        outputs.append(
            helper.make_tensor_value_info("member_probs", TensorProto.FLOAT, ["batch", len(members), len(classes)])
        )
    graph = helper.make_graph(
        nodes,
        "tiny",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["batch", *size, 3])],
        outputs,
        [numpy_helper.from_array(value, name) for name, value in constants.items()],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10)
    helper.set_model_props(model, metadata_props(About(lockfile(members, classes), "fp32", 18)))
    onnx.save(model, str(path))
    return path


@dataclass
class FakeSession:
    """The same as a session, without a graph; what it is asked is kept."""

    seed: int = 0
    members: tuple[str, ...] = MEMBERS
    classes: tuple[str, ...] = CLASSES
    input_size: tuple[int, int] = SIZE
    seconds: float = 0.0
    sha256: str = "0" * 64
    precision: str = "fp32"
    provider: str = "CPUExecutionProvider"
    batches: list[int] = field(default_factory=list)
    before: Callable[[Images], object] = lambda _images: None

    @property
    def lockfile(self) -> dict[str, Any]:
        return lockfile(self.members, self.classes)

    def answer(self, images: Images) -> Answer:
        self.batches.append(len(images))
        time.sleep(self.seconds)
        self.before(images)
        return Answer(*answers(images, self.seed, len(self.members)))


INTERFACE = Interface(CLASSES, SIZE, MEMBERS, "probs", WEIGHTS, has_members=True)


def some_images(number: int, seed: int = 0) -> Images:
    """Return images of different colours, so that no two have one answer."""
    rng = np.random.default_rng(seed)
    colour = rng.integers(0, 200, (number, 1, 1, 3))
    return (colour + rng.integers(0, 55, (number, *SIZE, 3))).astype(np.uint8)


def infer_body(images: Images, *, binary: bool = True, **more: Any) -> tuple[bytes, dict[str, str]]:  # noqa: ANN401
    """Return the body and headers of a request to infer."""
    tensor: dict[str, Any] = {"name": "images", "shape": list(images.shape), "datatype": "UINT8"}
    if binary:
        tensor["parameters"] = {"binary_data_size": images.nbytes}
    else:
        tensor["data"] = images.ravel().tolist()
    text = json.dumps({"inputs": [tensor], **more}).encode()
    if not binary:
        return text, {}
    return text + images.tobytes(), {"Inference-Header-Content-Length": str(len(text))}


def asked(images: Images, *, binary: bool = True) -> list[triton.InferInput]:
    """Return the inputs of a request of Triton's client."""
    tensor = triton.InferInput("images", list(images.shape), "UINT8")
    tensor.set_data_from_numpy(images, binary_data=binary)
    return [tensor]


@dataclass
class Response:
    """What a server answered."""

    status: int
    headers: dict[str, str]
    body: bytes

    @property
    def json(self) -> Any:  # noqa: ANN401
        return json.loads(self.body)

    @property
    def error(self) -> str:
        """The sentence, after checking that it is one."""
        assert list(self.json) == ["error"]
        sentence: str = self.json["error"]
        assert "\n" not in sentence
        assert not sentence.endswith(".")
        return sentence

    def output(self, name: str) -> npt.NDArray[np.float64]:
        """The numbers of an output in JSON."""
        (found,) = [output for output in self.json["outputs"] if output["name"] == name]
        return np.array(found["data"], np.float64).reshape(found["shape"])


@dataclass
class Site:
    """A running server."""

    port: int
    endpoints: Endpoints
    session: FakeSession
    lines: list[str]

    def ask(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None, timeout: float = 10
    ) -> Response:
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            connection.request(method, path, body or None, headers or {})
            answer = connection.getresponse()
            return Response(answer.status, {k.lower(): v for k, v in answer.getheaders()}, answer.read())
        finally:
            connection.close()

    def infer(self, images: Images, *, binary: bool = True, **more: Any) -> Response:  # noqa: ANN401
        body, headers = infer_body(images, binary=binary, **more)
        return self.ask("POST", "/v2/models/tiny/infer", body, headers)


@contextmanager
def site(
    session: FakeSession | None = None,
    limits: Limits | None = None,
    *,
    name: str = "tiny",
    token: bytes | None = None,
    hosts: Hosts | None = None,
) -> Iterator[Site]:
    """Yield a server in this process."""
    session = session or FakeSession()
    interface = replace(INTERFACE, members=session.members, classes=session.classes, size=session.input_size)
    endpoints = Endpoints(
        Served(Loaded(session, interface)),  # type: ignore[arg-type]  # it has what is used
        name=name,
        limits=limits or Limits(max_batch=16),
        metrics=Metrics(),
    )
    lines: list[str] = []
    sock = shared_socket("127.0.0.1", 0)
    port = sock.getsockname()[1]
    listener = Listener(App(endpoints, token=token, hosts=hosts, log=lines.append), sock, endpoints.limits)
    listener.start()
    try:
        yield Site(port, endpoints, session, lines)
    finally:
        assert listener.stop(10)
        endpoints.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Site]:
    """A server for tests that leave it as it is."""
    with site() as found:
        yield found
