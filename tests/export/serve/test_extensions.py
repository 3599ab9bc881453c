"""Configuration, statistics and the index, as Triton's extensions have them."""

import time
from typing import Any

import pytest
from google.protobuf import json_format
from tritonclient.grpc import model_config_pb2, service_pb2

from export.serve.extensions import EXTENSIONS, index, model_config, model_statistics
from export.serve.limits import Limits
from export.serve.metrics import Family, Metrics, total
from export.serve.problem import Problem
from tests.export.serve.conftest import INTERFACE, SIZE, FakeSession, Site, site, some_images


def test_a_configuration_is_one_of_tritons() -> None:
    table = model_config(INTERFACE, Limits(max_batch=16, max_delay=0.0025), "tiny")
    found = json_format.ParseDict(table, model_config_pb2.ModelConfig())
    assert (found.name, found.max_batch_size, found.platform) == ("tiny", 16, "onnxruntime_onnx")
    assert found.dynamic_batching.max_queue_delay_microseconds == 2500
    assert [(one.name, list(one.dims), one.data_type) for one in found.input] == [
        ("images", [*SIZE, 3], model_config_pb2.TYPE_UINT8)
    ]
    assert [(one.name, list(one.dims)) for one in found.output] == [("probs", [10]), ("member_probs", [3, 10])]
    assert {one.data_type for one in found.output} == {model_config_pb2.TYPE_FP32}


def test_statistics_are_tritons_and_of_all_replicas() -> None:
    families = []
    for _ in range(2):
        metrics = Metrics()
        for endpoint, status, seconds in (("infer", "200", 0.25), ("classify", "200", 0.5), ("infer", "400", 2.0)):
            metrics.seconds.labels(endpoint, status).observe(seconds)
        metrics.seconds.labels("metrics", "200").observe(100)
        metrics.seconds.labels("other", "404").observe(100)
        metrics.images.inc(5)
        metrics.queue_seconds.observe(0.125)
        metrics.queue_seconds.observe(0.125)
        metrics.batch_images.observe(5)
        metrics.batch_seconds.observe(0.0625)
        families.append(metrics.families())
    (table,) = model_statistics(total(families), "tiny")["model_stats"]
    found = json_format.ParseDict(table, service_pb2.ModelStatistics())
    assert (found.name, found.version, found.inference_count, found.execution_count) == ("tiny", "1", 10, 2)

    def pair(name: str) -> tuple[int, float]:
        one = getattr(found.inference_stats, name)
        return one.count, one.ns / 1e9

    assert pair("success") == (4, 1.5)
    assert pair("fail") == (2, 4.0)
    assert pair("queue") == (4, 0.5)
    assert pair("compute_infer") == (2, 0.125)
    for name in ("compute_input", "compute_output", "cache_hit", "cache_miss"):
        assert pair(name) == (0, 0)


def test_statistics_before_anything_was_asked() -> None:
    nothing: list[Family] = []
    for families in (nothing, total([Metrics().families()])):
        (table,) = model_statistics(families, "tiny")["model_stats"]
        assert (table["inference_count"], table["execution_count"]) == (0, 0)
        assert all(one == {"count": 0, "ns": 0} for one in table["inference_stats"].values())


@pytest.mark.parametrize(
    ("body", "ready", "found"),
    [
        (b"", True, [("READY", "")]),
        (b"{}", True, [("READY", "")]),
        (b'{"ready": true, "more": 1}', True, [("READY", "")]),
        (b'{"ready": false}', False, [("UNAVAILABLE", "the server is about to end")]),
        (b'{"ready": true}', False, []),
    ],
)
def test_the_index(body: bytes, ready: bool, found: list[tuple[str, str]]) -> None:
    wanted = [{"name": "tiny", "version": "1", "state": state, "reason": reason} for state, reason in found]
    assert index(body, "tiny", ready=ready) == wanted


@pytest.mark.parametrize("body", [b"[]", b"{", b'{"ready": 1}', b'{"ready": null}', b"[" * 100_000, b"\xff"])
def test_questions_that_are_none(body: bytes) -> None:
    with pytest.raises(Problem) as caught:
        index(body, "tiny", ready=True)
    assert caught.value.status == 400


def statistics(found: Site, path: str = "/v2/models/stats") -> dict[str, Any]:
    (one,) = found.ask("GET", path).json["model_stats"]
    assert isinstance(one, dict)
    return one


def test_what_is_counted_over_http() -> None:
    with site() as found:
        for number in (1, 2, 3):
            assert found.infer(some_images(number)).status == 200
        assert found.infer(some_images(17)).status == 413
        deadline = time.monotonic() + 5
        while statistics(found)["inference_stats"]["fail"]["count"] < 1:  # after the answer has been sent
            assert time.monotonic() < deadline
        one = statistics(found, "/v2/models/tiny/stats")
        assert one == statistics(found) == statistics(found, "/v2/models/tiny/versions/1/stats")
        assert (one["inference_count"], one["execution_count"]) == (6, 3)
        assert [one["inference_stats"][name]["count"] for name in ("success", "fail", "queue")] == [3, 1, 3]
        assert one["inference_stats"]["success"]["ns"] > one["inference_stats"]["compute_infer"]["ns"] > 0
        found.endpoints.draining = True
        assert found.ask("POST", "/v2/repository/index").json[0]["state"] == "UNAVAILABLE"


def test_where_they_are(server: Site) -> None:
    assert server.ask("GET", "/v2/models/tiny/config").json["max_batch_size"] == 16
    assert server.ask("GET", "/v2/models/tiny/versions/1/config").json["name"] == "tiny"
    assert server.ask("POST", "/v2/repository/index", b'{"ready":true}').json[0]["name"] == "tiny"
    assert server.ask("POST", "/v2/repository/index", b"[]").error == (
        "the request is not a JSON object whose 'ready' is true or false"
    )
    assert server.ask("POST", "/v2/repository/index", bytes(100_000)).status == 413
    for path in ("/v2/models/tony/config", "/v2/models/tony/stats", "/v2/models/tiny/versions/2/stats"):
        assert server.ask("GET", path).status == 404
    assert server.ask("GET", "/v2").json["extensions"] == list(EXTENSIONS)


def test_a_model_may_be_called_stats() -> None:
    with site(FakeSession(), name="stats") as found:
        assert found.ask("GET", "/v2/models/stats").json["versions"] == ["1"]
        assert statistics(found, "/v2/models/stats/stats")["name"] == "stats"


@pytest.mark.parametrize(
    ("method", "path", "sentence"),
    [
        ("POST", "/v2/repository/models/tiny/load", "models are loaded by whoever runs this server: SIGHUP"),
        ("POST", "/v2/repository/models/tiny/unload", "models are loaded by whoever runs this server"),
        ("GET", "/v2/trace/setting", "this server writes no traces"),
        ("GET", "/v2/models/tiny/trace/setting", "this server writes no traces"),
        ("POST", "/v2/logging", "the log is set by whoever runs this server: --access-log"),
        ("GET", "/v2/systemsharedmemory/status", "this server has no shared memory"),
        ("GET", "/v2/cudasharedmemory/region/x/status", "this server has no shared memory"),
    ],
)
def test_extensions_that_this_server_has_not(server: Site, method: str, path: str, sentence: str) -> None:
    found = server.ask(method, path)
    assert found.status == 404
    assert found.error.startswith(sentence)
