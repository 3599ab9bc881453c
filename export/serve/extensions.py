"""What Triton's tools ask beyond the protocol's core: configuration, statistics, and the index of the repository.

https://github.com/triton-inference-server/server/tree/main/docs/protocol: extension_model_configuration.md,
extension_statistics.md, extension_model_repository.md
"""

import json
from collections.abc import Iterable
from typing import Any

from export.serve.interface import IMAGES, VERSION, Interface
from export.serve.limits import Limits
from export.serve.metrics import Family
from export.serve.problem import Problem

__all__ = ["EXTENSIONS", "index", "model_config", "model_statistics", "why_not"]

EXTENSIONS = ("classification", "binary_tensor_data", "model_configuration", "statistics", "model_repository")
"""Of the protocol, that this server has; of the last, the index alone."""

_ASKS = frozenset({"infer", "classify"})  # endpoints that run the network
_NANOSECONDS = 1e9
_INSTEAD = {
    "/v2/repository/models/": "models are loaded by whoever runs this server: SIGHUP rolls in its file anew",
    "/v2/trace/": "this server writes no traces: /metrics has what it counts",
    "/v2/logging": "the log is set by whoever runs this server: --access-log",
    "/v2/systemsharedmemory/": "this server has no shared memory: send tensors with the request",
    "/v2/cudasharedmemory/": "this server has no shared memory: send tensors with the request",
}


def why_not(path: str) -> str:
    """Return why there is nothing at a path, and what there is instead."""
    if path.startswith("/v2/models/") and path.endswith("/trace/setting"):
        path = "/v2/trace/"
    found = next((sentence for start, sentence in _INSTEAD.items() if path.startswith(start)), None)
    return found or f"there is nothing at {path[:80]!r}: GET /v2 says what this server is"


def model_config(interface: Interface, limits: Limits, name: str) -> dict[str, Any]:
    """Return a model's configuration, as far as this server has what `model_config.proto` calls for."""
    tensors = {output: interface.shape(output)[1:] for output in interface.outputs}
    return {
        "name": name,
        "platform": "onnxruntime_onnx",
        "backend": "onnxruntime",
        "version_policy": {"latest": {"num_versions": 1}},
        "max_batch_size": limits.max_batch,
        "input": [{"name": IMAGES, "data_type": "TYPE_UINT8", "dims": [*interface.size, 3]}],
        "output": [{"name": output, "data_type": "TYPE_FP32", "dims": dims} for output, dims in tensors.items()],
        "dynamic_batching": {"max_queue_delay_microseconds": round(1e6 * limits.max_delay)},
    }


def model_statistics(families: Iterable[Family], name: str) -> dict[str, Any]:
    """Return what was counted of a model, by all replicas.

    Requests of both kinds are counted, tensors and pictures. What takes place before a batch and after it is part of
    `success` alone, and nobody keeps times of single batch sizes or of the last request: these are zero or empty.

    Args:
        families: sums over replicas.
        name: of the model.
    """
    sums = {(sample, labels): value for family in families for sample, labels, value in family.samples}

    def requests(sample: str, *, good: bool) -> float:
        return sum(
            value
            for (found, labels), value in sums.items()
            if found == sample and (of := dict(labels))["endpoint"] in _ASKS and (of["status"] == "200") is good
        )

    def duration(count: float, seconds: float) -> dict[str, int]:
        return {"count": int(count), "ns": round(seconds * _NANOSECONDS)}

    def histogram(sample: str) -> dict[str, int]:
        return duration(sums.get((f"{sample}_count", ()), 0), sums.get((f"{sample}_sum", ()), 0))

    took = {
        outcome: duration(
            requests("ensemble_request_seconds_count", good=good), requests("ensemble_request_seconds_sum", good=good)
        )
        for outcome, good in (("success", True), ("fail", False))
    }
    batches = histogram("ensemble_batch_seconds")
    nothing = duration(0, 0)
    found = {
        "name": name,
        "version": VERSION,
        "last_inference": 0,
        "inference_count": int(sums.get(("ensemble_images_total", ()), 0)),
        "execution_count": batches["count"],
        "inference_stats": {
            **took,
            "queue": histogram("ensemble_queue_seconds"),
            "compute_input": nothing,
            "compute_infer": batches,
            "compute_output": nothing,
            "cache_hit": nothing,
            "cache_miss": nothing,
        },
        "batch_stats": [],
    }
    return {"model_stats": [found]}


def index(body: bytes, name: str, *, ready: bool) -> list[dict[str, str]]:
    """Return the index of the repository: the model.

    Args:
        body: of the request: empty, or an object that may say that only models which are `ready` are of interest.
        name: of the model.
        ready: whether it is.

    Raises:
        Problem: 400, it is not such an object.
    """
    try:
        table = json.loads(body) if body.strip() else {}
    except (ValueError, RecursionError) as error:
        raise Problem(400, "the request is not JSON") from error
    only = table.get("ready", False) if isinstance(table, dict) else None
    if not isinstance(only, bool):
        raise Problem(400, "the request is not a JSON object whose 'ready' is true or false")
    if only and not ready:
        return []
    state, reason = ("READY", "") if ready else ("UNAVAILABLE", "the server is about to end")
    return [{"name": name, "version": VERSION, "state": state, "reason": reason}]
